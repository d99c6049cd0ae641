"""Runs of tuner that need not wait for its imports: each is a process of its own, forked from one that has imported all of it before.

A plugin of `tests/conftest.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.user import DEADLINE_S, QUICK, Run

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        *("tests.warm_tuner", "tuner.session", "tuner.hydra_app", "tuner.cli", "optuna.visualization", "optuna_dashboard"),
        # what they import when they are used first
        *("optuna.storages._rdb.models", "sqlalchemy.dialects.sqlite", "alembic.command", "plotly.graph_objects", "tokenizers"),
    ]
)


class WarmProcess:
    """Such a process, with those parts of `subprocess.Popen` that tests use."""

    def __init__(self, process: BaseProcess, output: Path) -> None:
        self._process = process
        self._output = output
        process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Waits for its end, for so many seconds at most, and returns what it printed."""
        self._process.join(timeout)
        output = self._output.read_text()
        assert self.returncode is not None, f"it runs on and on: {output}"
        return output, None


class WarmRun(Run):
    """A user's working directory, in which `fork` and `finish` start tuner at once; `start` starts it as a user does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._forked: list[WarmProcess] = []

    def fork(self, *arguments: str, arrange: Callable[[], None] | None = None) -> WarmProcess:
        """Starts `tuner ARGUMENTS`, after `arrange()` has been called in its process; that must be a function of a module, or partial."""
        output = self.folder.with_name(f"{self.folder.name}-output-{len(self._forked)}")  # not in it: it is the user's
        what = (self.folder, dict(self.environment), output, ["tuner", *QUICK, *arguments], arrange)
        self._forked.append(WarmProcess(_FORKING.Process(target=_run_tuner, args=what), output))
        return self._forked[-1]

    def finish(self, *arguments: str, arrange: Callable[[], None] | None = None) -> tuple[int, str]:
        process = self.fork(*arguments, arrange=arrange)
        output, _ = process.communicate(DEADLINE_S)
        assert process.returncode is not None
        return process.returncode, output

    def stop(self) -> None:
        for process in self._forked:
            process.kill()
        super().stop()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WarmRun]:
    run = WarmRun(tmp_path)
    yield run
    run.stop()


def _run_tuner(
    folder: Path, environment: Mapping[str, str], output: Path, words: Sequence[str], arrange: Callable[[], None] | None
) -> None:
    """What a shell and the interpreter do before `tuner.cli.main`."""
    from tuner.cli import main

    os.setsid()
    threading.Thread(target=_end_with_the_test_run, daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    sys.argv[:] = words
    if arrange is not None:
        arrange()
    main()


def _end_with_the_test_run() -> None:
    """Nothing of a test run that is killed goes on."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    tests.join()
    os.kill(os.getpid(), signal.SIGKILL)
