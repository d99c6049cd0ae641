"""A user's working directory, in which tests run `python -m tuner` with the real llama.cpp engine and the real genai-bench."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import NotReadyError
from tuner.storage import open_storage

QUICK = (
    "engine.model=nano",
    "workload.scenario=D(20,8)",
    "workload.levels=[1,2]",
    "workload.min_requests=4",
    "workload.requests_per_user=2",
    "workload.warmup_requests=1",
    "confirm.repeats=0",
    "pruner.name=none",
    "seed=1",
)
DEADLINE_S = 120
MARK = "TUNER_END_TO_END"


class Run:
    """One working directory of a user, and the processes of `python -m tuner` started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # the mark is inherited by all that tuner starts, whatever process group it is in
        self.environment = os.environ | {MARK: str(folder), "XDG_STATE_HOME": str(folder / "state")}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, quick: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tuner", *(QUICK if quick else ()), *arguments]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def finish(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=DEADLINE_S)
        return process.returncode, output

    def trials(self, *states: TrialState, study: str | None = None) -> list[FrozenTrial]:
        """Trials of a study, by default of the only one that there is."""
        database = self.folder / "studies/tuner.db"
        if not database.exists():
            return []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            opened = optuna.load_study(storage=open_storage(f"sqlite:///{database}"), study_name=study)
        except (KeyError, ValueError, NotReadyError, optuna.exceptions.StorageInternalError):
            return []  # not created yet
        return opened.get_trials(states=states or None)

    def finished(self) -> list[FrozenTrial]:
        return [t for t in self.trials(TrialState.COMPLETE, TrialState.PRUNED) if t.user_attrs.get("outcome") != "refused"]

    def processes(self) -> list[psutil.Process]:
        """All living processes that descend from this run."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(self.folder)
        except psutil.Error:
            return False

    def stop(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._started:
            started.communicate()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
