"""What crosses the borders between engines, backends and benchmarks: the launch spec, the endpoint, the exit status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = bool | int | float | str
"""The value of one engine parameter."""

Configuration = Mapping[str, Value]
"""Engine parameters by name, as the engine spells them (`max_running_requests`, `n_parallel`). Empty: the engine's own defaults."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host that the server reads, seen read-only at `target`."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What an engine asks a backend to run.

    Attributes:
        argv: Executable and arguments. The words `{host}` and `{port}` inside an argument stand for the address to listen on, which only
            the backend knows; see `bound`.
        served_model: The model name that the server must answer to on its OpenAI API. Unique to the deployment where the engine can rename
            it, so that a stranger on the same port is told apart.
        env: Environment variables in addition to those the backend provides. May hold secrets: never log, label or store it.
        gpus: Number of GPUs to be held for the deployment, no other deployment seeing them.
        image: Container image, or None where the engine runs only as a process of this host.
        mounts: Paths of the host that the server needs; a backend whose servers see the host's files ignores them.
        ready_timeout_s: Seconds from start to readiness after which the launch counts as failed.
    """

    argv: tuple[str, ...]
    served_model: str
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    image: str | None = None
    mounts: tuple[Mount, ...] = ()
    ready_timeout_s: float = 600.0

    def bound(self, host: str, port: int) -> list[str]:
        """The argument list for a server that listens on `host:port`."""
        return [word.replace("{host}", host).replace("{port}", str(port)) for word in self.argv]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running server answers.

    Attributes:
        url: Base URL without a trailing slash and without `/v1`, for example `http://127.0.0.1:41873`.
        model: The model name to send with requests.
        inside_url: The address for load generators that run beside the server, as in the same cluster; empty where `url` serves all.
    """

    url: str
    model: str
    inside_url: str = ""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a server ended.

    Attributes:
        code: Exit code as the shell counts it (137 for SIGKILL), or None where the backend cannot know it.
        oom_killed: True when the kernel or the container runtime says that memory ran out; never guessed from the code.
        log_tail: The last lines of the server's output.
        disturbed: What somebody else did to the server (removed it, restarted it, stopped its daemon), as a whole sentence; empty where
            it ended by itself. Whatever its log says then, the configuration is not at fault.
    """

    code: int | None
    oom_killed: bool = False
    log_tail: str = ""
    disturbed: str = ""
