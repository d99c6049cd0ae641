"""Servers of tuner on this host and in its Docker daemon: those of runs that are over, and those of runs that go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.backends.docker_request import OWNER_LABEL, STUDY_LABEL, TRIAL_LABEL
from tuner.backends.pid_file import PidFile, default_folder
from tuner.finding import Finding, ok, warning
from tuner.owner import Owner


@dataclass(frozen=True, slots=True)
class Server:
    """One of them.

    Attributes:
        what: `process` or `container`.
        study: Study name.
        trial: Trial number.
        owned: False only when the tuner that started it certainly runs no more.
    """

    what: str
    study: str
    trial: str
    owned: bool


def processes() -> Iterator[Server]:
    """Those of backend local."""
    for pid_file in PidFile.read_all(default_folder()):
        owned = pid_file.owned()
        if owned or pid_file.processes():
            yield Server("process", pid_file.study, str(pid_file.trial), owned)


def containers(listed: Iterable[Mapping[str, Any]]) -> Iterator[Server]:
    """Those of backend docker.

    Args:
        listed: What the daemon answers about containers with `OWNER_LABEL`.
    """
    for container in listed:
        labels = container["Labels"]
        owned = Owner.living(labels[OWNER_LABEL])
        yield Server("container", str(labels.get(STUDY_LABEL)), str(labels.get(TRIAL_LABEL)), owned)


def leftovers(servers: Sequence[Server]) -> Finding:
    """What killed runs left behind."""
    if left := [server for server in servers if not server.owned]:
        return warning(f"left by killed runs: {_listed(left)}", "`python -m tuner clean`; the next run does the same at its start")
    return ok("killed runs have left no server behind")


def other_runs(servers: Sequence[Server]) -> Finding:
    """Whether another tuner measures at the moment."""
    if running := [server for server in servers if server.owned]:
        return warning(
            f"another tuner runs here: {_listed(running)}", "wait for its end, or give each its own GPUs and cores: they disturb each other"
        )
    return ok("no other tuner has a server here")


def _listed(servers: Sequence[Server]) -> str:
    return ", ".join(f"{server.what} of study {server.study}, trial {server.trial}" for server in servers)
