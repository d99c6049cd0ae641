"""The backend `replay`: deployments that only take their time, which is charged to a virtual clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar

from tuner.backends.base import Backend, Deployment, Place, ServerExited
from tuner.engine_settings import ReplaySettings
from tuner.errors import Transient
from tuner.launch import Endpoint, ExitStatus, LaunchSpec
from tuner.replay.clock import Clock
from tuner.replay.noise import Noise
from tuner.replay.reading import read_table
from tuner.replay.table import LOAD, MEASURED, Row

OUT_OF_MEMORY_UNDER_LOAD = "oom_run"
"""The one outcome of a server that was ready before it failed."""


class Recorded(Deployment):
    """A deployment of one row of the table.

    Args:
        backend: Whose it is.
        row: What it shows.
        spec: What was to be launched.
        place: Whose deployment it is.
    """

    def __init__(self, backend: ReplayBackend, row: Row, spec: LaunchSpec, place: Place) -> None:
        self.row = row
        self.place = place
        self.endpoint = Endpoint(f"replay://{next(backend.numbers)}", spec.served_model)
        self.log_path = place.folder / "server.log"
        self._backend = backend
        self._status: ExitStatus | None = None

    def wait_ready(self, answers: Callable[[Endpoint], bool], timeout_s: float) -> None:
        """Charges the start, however long it took: it was recorded."""
        settings = self._backend.settings
        start_s = settings.deploy_s if self.row.deploy_s is None else self.row.deploy_s
        noise = self._backend.noise(self.place.study)
        if (share := noise.fails(self.place.trial)) is not None:
            self._backend.clock.charge(share * start_s)
            raise Transient("a failure that the noise of the replay asks for (engine.noise.failures)")
        self._backend.clock.charge(start_s)
        if self.row.outcome not in (MEASURED, OUT_OF_MEMORY_UNDER_LOAD):
            raise ServerExited(self.crash())

    def warm_up(self) -> None:
        """Charges the warm-up."""
        settings = self._backend.settings
        self._backend.clock.charge(settings.warmup_s if self.row.warmup_s is None else self.row.warmup_s)

    def load(self, level: int) -> float:
        """Charges a load level and returns its seconds; the server does not survive one at which it was recorded to fail."""
        table = self._backend.table
        recorded = table.value(self.row, LOAD, level)
        seconds = recorded if recorded >= 0 else self._backend.settings.load_s  # nan is not
        self._backend.clock.charge(seconds)
        if not table.serves(self.row, level):
            self.crash()
        return seconds

    def crash(self) -> ExitStatus:
        """Ends the server as it was recorded to end."""
        words = f"{self.row.outcome}: {self.row.reason}" if self.row.reason else self.row.outcome
        self._status = ExitStatus(1, log_tail=words)
        return self._status

    def exit_status(self) -> ExitStatus | None:
        return self._status

    def log_tail(self, lines: int = 40) -> str:
        return self._status.log_tail if self._status else ""

    def close(self) -> None:
        self._status = self._status or ExitStatus(0)
        self._backend.serving.pop(self.endpoint.url, None)


class ReplayBackend(Backend):
    """Deploys rows of a table.

    Args:
        settings: Those of the engine, which names the table.

    Raises:
        ConfigError: the table cannot be read.

    Attributes:
        clock: Virtual time, from 0.
        serving: Deployments that are not closed, by URL.
    """

    name: ClassVar[str] = "replay"
    clock: Clock

    def __init__(self, settings: ReplaySettings) -> None:
        self.settings = settings
        self.table = read_table(settings.table)
        self.clock = Clock()
        self.serving: dict[str, Recorded] = {}
        self.numbers = itertools.count()

    def noise(self, study: str) -> Noise:
        """The noise of a study."""
        return Noise(self.settings.noise, self.settings.seed, study)

    def check(self) -> None:
        """A table that was read is ready."""

    def deploy(self, spec: LaunchSpec, place: Place) -> Recorded:
        deployment = Recorded(self, self.table.rows[int(spec.argv[1])], spec, place)
        self.serving[deployment.endpoint.url] = deployment
        return deployment

    def reap(self) -> list[str]:
        return []

    def launch_text(self, spec: LaunchSpec) -> str:
        """A row has no command line: its place in the table, and its parameters."""
        path, index, *words = spec.argv
        return f"{path}, line {self.table.rows[int(index)].line}: {' '.join(words)}"
