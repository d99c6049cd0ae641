"""What the local backend writes down about each server, so that a later tuner finds what a dead one left."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from tuner.owner import Owner, process_started

_LOG = logging.getLogger(__name__)
_MARK = "TUNER_DEPLOYMENT"
_KILL_LIMIT_S = 10.0
_KILL_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class PidFile:
    """One deployment on this host.

    Its processes are told apart by a random mark in their environment, which they inherit however they fork, in whatever session or group
    they are, and which no process with a recycled number can have. The server's own number is kept too, with its start time, for a server
    that clears its environment.

    Attributes:
        path: The file; its stem is the mark.
        study: Study name.
        trial: Trial number.
        owner: The tuner process that deployed; see `Owner.to_str`.
        pid: The server's process, which leads its own session and group, or None before it started.
        started: When that process started; see `Owner.started`.
    """

    path: Path
    study: str
    trial: int
    owner: str
    pid: int | None = None
    started: float | None = None

    @classmethod
    def create(cls, folder: Path, study: str, trial: int) -> Self:
        """Writes the file of a deployment by this process, before anything is started: so nothing runs of which nobody knows.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pid_file = cls(folder / f"{secrets.token_hex(8)}.json", study, trial, Owner.current().to_str())
        pid_file._write()
        return pid_file

    @classmethod
    def read_all(cls, folder: Path) -> Iterator[Self]:
        """The files of `folder` that can be read; one that cannot is left alone."""
        for path in sorted(folder.glob("*.json")):
            try:
                yield cls(path=path, **json.loads(path.read_text()))
            except FileNotFoundError:  # its owner has just removed it
                continue
            except (OSError, ValueError, TypeError) as error:
                _LOG.warning("ignoring %s, which is no pid file of this version: %s", path, error)

    def started_as(self, pid: int) -> Self:
        """Writes down the server's process and returns the new content."""
        known = replace(self, pid=pid, started=process_started(pid))
        known._write()
        return known

    def _write(self) -> None:
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(content))
        unfinished.replace(self.path)  # in one step: a reader never sees half a file

    def environment(self) -> dict[str, str]:
        """The variables by which the deployment's processes are found.

        SPT_NOENV keeps setproctitle, which SGLang and vLLM use, from overwriting `/proc/PID/environ`
        (https://github.com/dvarrazzo/py-setproctitle#environment-variables).
        """
        return {_MARK: self.path.stem, "SPT_NOENV": "1"}

    def owned(self) -> bool:
        """False only when the owner certainly runs no more."""
        return Owner.living(self.owner)

    def processes(self) -> list[psutil.Process]:
        """The processes of the deployment that still run."""
        mark = f"{_MARK}={self.path.stem}".encode()
        roots = [process for process in psutil.process_iter() if mark in _environment(process.pid)]
        if self.pid is not None and self.started is not None and process_started(self.pid) == self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                roots.append(psutil.Process(self.pid))
        found = {process.pid: process for process in roots}
        for process in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {child.pid: child for child in process.children(recursive=True)}
        return [process for process in found.values() if process_started(process.pid) is not None]

    def remove(self) -> list[int]:
        """Kills what still runs and deletes the file. Returns the killed processes.

        A process that cannot be killed within some seconds (it hangs in a driver) keeps the file, for the next `reap`.
        """
        killed: set[int] = set()
        deadline = time.monotonic() + _KILL_LIMIT_S
        while processes := self.processes():
            if time.monotonic() >= deadline:
                _LOG.warning("cannot kill %s of study %s, trial %d", [process.pid for process in processes], self.study, self.trial)
                return sorted(killed - {process.pid for process in processes})
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.kill()  # psutil compares start times first: never a recycled pid
                    killed.add(process.pid)
            time.sleep(_KILL_POLL_S)
        self.forget()
        return sorted(killed)

    def forget(self) -> None:
        """Deletes the file; for a deployment of which nothing runs any more."""
        self.path.unlink(missing_ok=True)


def default_folder() -> Path:
    """`$XDG_STATE_HOME/tuner/run`, by default `~/.local/state/tuner/run`.

    Not under `$XDG_RUNTIME_DIR`: that is deleted when the user logs out, while a study that was started with nohup goes on.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "tuner" / "run"


def is_private(folder: Path) -> bool:
    """Whether pid files in `folder` can be trusted: it belongs to this user, who alone may write there.

    Anybody else who may could have this user's processes killed.
    """
    status = folder.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
