"""How often a trial goes to the database: each statement costs a millisecond, and a dashboard may be waiting for the lock."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from tests.doubles import DEFAULTS, SPACE, BackendDouble, BenchmarkDouble, EngineDouble, GateDouble, ProgressDouble, World, settings
from tuner.replay.pages import LastPages
from tuner.runner import run_trials
from tuner.storage import open_storage
from tuner.study import Ledger
from tuner.trial import Rig

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}
WRITES = 26
"""The trial, three parameters, two signatures, nine facts, four on constraints and outcome, values and states; with some room."""
READS = 100


def statements(folder: Path, storage: optuna.storages.RDBStorage, trials: int) -> Counter[str]:
    """The statements of a run up to so many trials, by their first word."""
    config = settings(folder, trials=trials, constraints=[SLO], space=SPACE | {"n_batch": {"type": "int", "low": 64, "high": 10**6}})
    world = World()
    ledger = Ledger(config, storage, DEFAULTS)
    rig = Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), config.workload)
    counted: Counter[str] = Counter()

    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        counted[statement.split()[0]] += 1

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", count)
    run_trials(ledger, rig, ProgressDouble(world), LastPages(ledger, folder))
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", count)
    assert len(world.deployed) == 1
    return counted


def test_a_trial_takes_few_statements_however_long_the_study(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'tuner.db'}")
    counted = [statements(tmp_path, storage, trials) for trials in range(1, 11)]
    assert len(optuna.load_study(study_name="some-study", storage=storage).trials) == 10, "no suggestion was known"
    assert max(one["INSERT"] + one["UPDATE"] + one["DELETE"] for one in counted) <= WRITES
    assert max(one["SELECT"] for one in counted) <= READS
    assert max(one.total() for one in counted[5:]) <= max(one.total() for one in counted[:5])
