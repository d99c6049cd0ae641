"""A replay's studies in memory and back: what comes back is what would have been written at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from tests.doubles import DEFAULTS, settings
from tests.ledger import ask, count, finish, open_ledger, tell
from tuner.owner import Owner
from tuner.replay.working_copy import working_copy
from tuner.storage import open_storage
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

NAME = "some-study"


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return open_storage(f"sqlite:///{tmp_path / 'tuner.db'}")


def kept(storage: optuna.storages.BaseStorage, name: str = NAME) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage)


def facts(trials: list[FrozenTrial]) -> list[Any]:
    return [(t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs) for t in trials]


def test_what_is_new_is_written_when_it_is_left(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    with working_copy(storage, [NAME]) as memory:
        ledger = open_ledger(tmp_path, memory, trials=6)
        finish(ledger)
        ledger.note("host", {"cpus": 2})
        assert optuna.get_all_study_names(storage) == []
    study = kept(storage)
    assert facts(study.trials) == facts(ledger.study.trials)
    assert study.user_attrs == ledger.study.user_attrs
    assert study.metric_names == ledger.study.metric_names
    assert study.directions == ledger.study.directions


def test_a_study_goes_on_from_what_was_kept(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    for trials in (3, 3, 7):
        with working_copy(storage, [NAME]) as memory:
            ledger = open_ledger(tmp_path, memory, trials=trials)
            finish(ledger)
        assert facts(kept(storage).trials) == facts(ledger.study.trials)
        assert count(ledger, "measured") == trials


def test_what_was_queued_when_it_broke_off_is_brought_up_to_date(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    def break_off() -> None:
        with working_copy(storage, [NAME]) as memory:
            ledger = open_ledger(tmp_path, memory)
            tell(ledger, ask(ledger))
            ledger.tell_interrupted(ask(ledger).trial)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert [trial.state for trial in kept(storage).trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
    with working_copy(storage, [NAME]) as memory:
        finish(open_ledger(tmp_path, memory))
        now = kept(memory).trials
    assert now[2].state == TrialState.COMPLETE
    assert facts(kept(storage).trials) == facts(now)


def test_a_trial_that_a_dead_process_left_is_ended(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    dead = replace(Owner.current(), started=0.0)
    ask(open_ledger(tmp_path, storage)).trial.set_user_attr("owner", dead.to_str())
    with working_copy(storage, [NAME]) as memory:
        ledger = open_ledger(tmp_path, memory)
        assert ledger.recover() == 1
    assert [trial.state for trial in kept(storage).trials] == [TrialState.FAIL, TrialState.WAITING]
    assert facts(kept(storage).trials) == facts(ledger.study.trials)


def test_companions_come_along_and_others_stay_away(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    finish(open_ledger(tmp_path, storage, study_name="other"))
    with working_copy(storage, [NAME, f"{NAME}.confirm"]) as memory:
        assert optuna.get_all_study_names(memory) == []
        finish(open_ledger(tmp_path, memory))
        companion = Ledger(settings(tmp_path, study_name=f"{NAME}.confirm"), memory, DEFAULTS, planned=True)
        tell(companion, companion.again({"n_parallel": 4, "n_batch": 64, "cont_batching": True}, False, {"round": 1}))
    assert sorted(optuna.get_all_study_names(storage)) == ["other", NAME, f"{NAME}.confirm"]
    assert kept(storage, f"{NAME}.confirm").trials[0].user_attrs["round"] == 1


def test_writing_back_takes_fewer_statements_than_optunas_own_copy(tmp_path: Path, storage: optuna.storages.RDBStorage) -> None:
    other = open_storage(f"sqlite:///{tmp_path / 'other.db'}")
    counted: Counter[sqlalchemy.Engine] = Counter()

    def count(connection: sqlalchemy.Connection, *rest: Any) -> None:
        counted[connection.engine] += 1

    for engine in (storage.engine, other.engine):
        sqlalchemy.event.listen(engine, "before_cursor_execute", count)
    with working_copy(storage, [NAME]) as memory:
        finish(open_ledger(tmp_path, memory, trials=20))
    optuna.copy_study(from_study_name=NAME, from_storage=memory, to_storage=other)
    assert facts(kept(storage).trials) == facts(kept(other).trials)
    assert counted[storage.engine] < 0.7 * counted[other.engine]
