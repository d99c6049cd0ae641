from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.doubles import DEFAULTS, OBJECTIVES, SPACE, measurement, settings, timing
from tests.ledger import ask, count, finish, open_ledger, tell
from tuner import study
from tuner.errors import Infeasible
from tuner.owner import Owner
from tuner.settings import Settings
from tuner.storage import open_storage
from tuner.study import RETRIES, Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}
TINY = {"n_parallel": {"type": "power_of_two", "low": 1, "high": 8}}


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


@pytest.fixture
def dead_owner() -> str:
    tell = "from tuner.owner import Owner; print(Owner.current().to_str())"
    return subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True).stdout.strip()


class TestFailures:
    def test_retries_are_bounded_and_the_given_up_is_left_alone(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=TINY, trials=9)
        tell(ledger, ask(ledger))
        bad = ask(ledger)
        again = [ledger.tell_failed(bad.trial, "no luck")]
        while again[-1]:
            retried = ask(ledger)
            assert retried.configuration == bad.configuration
            again.append(ledger.tell_failed(retried.trial, "no luck"))
        assert again == [True] * RETRIES + [False]
        assert bad.configuration not in [asked.configuration for asked in finish(ledger)]
        assert len(ledger.finished) == 3
        assert bad.configuration in [asked.configuration for asked in finish(open_ledger(tmp_path, storage, space=TINY, trials=9))]

    def test_one_bad_configuration_cannot_exhaust_the_patience(self, tmp_path: Path) -> None:
        assert settings(tmp_path).max_consecutive_failures > RETRIES + 1

    def test_interrupted_again_and_again(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        for _ in range(2 * RETRIES + 5):
            asked = ask(ledger)
            assert asked.default
            assert dict(asked.configuration) == {"n_ctx": 8192}
            ledger.tell_interrupted(asked.trial)
        assert len(ledger.finished) == 0
        finish(ledger)
        assert ledger.default is not None

    def test_interruption_after_the_end_changes_nothing(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        asked = ask(ledger)
        tell(ledger, asked)
        ledger.tell_interrupted(asked.trial)
        assert [t.state for t in ledger.study.trials] == [TrialState.COMPLETE]

    def test_abandoned_trials_are_tried_again_without_limit(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, dead_owner: str
    ) -> None:
        for _ in range(2 * RETRIES + 5):
            ledger = open_ledger(tmp_path, storage)
            asked = ask(ledger)
            assert asked.default
            asked.trial.set_user_attr("owner", dead_owner)
            assert open_ledger(tmp_path, storage).recover() == 1
        assert count(ledger, "abandoned") == 2 * RETRIES + 5
        assert ledger.recover() == 0

    def test_broken_off_between_parameters_it_keeps_what_was_queued(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, dead_owner: str
    ) -> None:
        ledger = open_ledger(tmp_path, storage)
        trial = ledger.study.ask()
        trial.set_user_attr("owner", dead_owner)
        trial.suggest_int("log2_n_parallel", 0, 4)
        ledger.recover()
        asked = ask(ledger)
        assert asked.default
        assert asked.trial.params == {"log2_n_parallel": 2, "log2_n_batch": 9, "cont_batching": True}

    def test_the_living_keep_their_trials(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        ask(ledger)
        ask(ledger).trial.set_user_attr("owner", replace(Owner.current(), host="another").to_str())
        assert open_ledger(tmp_path, storage).recover() == 0

    def test_a_trial_without_owner_is_left_for_a_while(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open_ledger(tmp_path, storage)
        ledger.study.ask()
        assert ledger.recover() == 0
        monkeypatch.setattr(study, "UNSIGNED", timedelta(0))
        assert ledger.recover() == 1
        assert ask(ledger).default

    def test_two_that_recover_at_once_queue_it_once(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, dead_owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger, other = open_ledger(tmp_path, storage), open_ledger(tmp_path, storage)
        ask(ledger).trial.set_user_attr("owner", dead_owner)
        alive = Owner.alive

        def slowly(owner: Owner) -> bool:
            monkeypatch.setattr(Owner, "alive", alive)
            assert other.recover() == 1
            return alive(owner)

        monkeypatch.setattr(Owner, "alive", slowly)
        running = ledger.study.get_trials(states=(TrialState.RUNNING,))
        monkeypatch.setattr(ledger.study, "get_trials", lambda **options: running)
        assert ledger.recover() == 0
        monkeypatch.undo()
        assert len(ledger.study.get_trials(states=(TrialState.WAITING,))) == 1


class TestOutcomes:
    def test_values_and_constraints_of_a_measured_trial(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        throughput = {"metric": "output_tokens_per_s", "at": "max", "min": 1000}
        ledger = open_ledger(tmp_path, storage, constraints=[SLO, throughput])
        values = ledger.tell_measured(ask(ledger).trial, {1: measurement(latency=timing(0.4)), 4: measurement(output_tokens_per_s=600.0)})
        trial = ledger.study.trials[0]
        assert values == trial.values == [0.4, 600.0]
        assert trial.constraints["latency_p99_s@1<=0.5"] == pytest.approx(-0.2)
        assert trial.constraints["output_tokens_per_s@4>=1000"] == pytest.approx(0.4)
        assert trial.user_attrs["feasible"] is False
        assert ledger.missed(trial) == ["output_tokens_per_s@4>=1000"]
        assert ledger.front == []
        assert ledger.default is not None

    def test_a_bound_that_is_just_met_is_met(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[SLO])
        ledger.tell_measured(ask(ledger).trial, {1: measurement(latency=timing(0.5)), 4: measurement()})
        assert ledger.study.trials[0].user_attrs["feasible"]
        assert len(ledger.front) == 1

    def test_infeasible_trials_are_pruned_and_count(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[SLO])
        ledger.tell_infeasible(ask(ledger).trial, "out of memory")
        trial = ledger.study.trials[0]
        assert (trial.state, trial.values) == (TrialState.PRUNED, None)
        assert trial.user_attrs["reason"] == "out of memory"
        assert trial.user_attrs["feasible"] is False
        assert len(ledger.finished) == 1
        assert ledger.front == []
        assert ledger.default is None

    def test_all_told_trials_have_the_same_constraints(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[SLO], space=SPACE | {"constraints": ["n_parallel != 1"]}, trials=30)
        ledger.tell_infeasible(ask(ledger).trial, "out of memory")
        finish(ledger)
        told = [t for t in ledger.study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        assert {t.user_attrs["outcome"] for t in told} == {"measured", "infeasible", "refused"}
        assert {frozenset(t.constraints) for t in told} == {frozenset({"latency_p99_s@1<=0.5", "deployable", "0", "1"})}

    def test_the_dashboards_list_mirrors_the_constraints(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[SLO])
        tell(ledger, ask(ledger))
        trial = ledger.study.trials[0]
        assert trial.system_attrs["constraints"] == [trial.constraints["latency_p99_s@1<=0.5"], -1.0]

    @pytest.mark.parametrize("value", [nan, inf])
    def test_objective_without_a_value_is_infeasible(self, tmp_path: Path, storage: optuna.storages.BaseStorage, value: float) -> None:
        ledger = open_ledger(tmp_path, storage)
        trial = ask(ledger).trial
        with pytest.raises(Infeasible, match=r"^latency_p99_s@1 has no value"):
            ledger.tell_measured(trial, {1: measurement(latency=timing(value)), 4: measurement()})
        ledger.tell_infeasible(trial, "no value")
        assert ledger.study.trials[0].state == TrialState.PRUNED

    def test_constraint_without_a_value_is_infeasible(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[{"metric": "tpot_p99_s", "max": 0.1}])
        trial = ask(ledger).trial
        with pytest.raises(Infeasible, match=r"^tpot_p99_s@4<=0\.1 has no value"):
            ledger.tell_measured(trial, {1: measurement(), 4: measurement(tpot=None)})
        ledger.tell_infeasible(trial, "no value")

    def test_front_is_feasible_undominated_and_ordered(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, constraints=[SLO | {"max": 0.8}], space=SPACE | {"cont_batching": True}, trials=100)
        finish(ledger)
        front = ledger.front
        assert [t.values for t in front] == sorted(t.values for t in front)
        assert [t.values[0] for t in front] == pytest.approx([0.1, 0.2, 0.4, 0.8])
        assert {t.user_attrs.get("configuration", {}).get("n_batch", 512) for t in front} == {512}

    @pytest.mark.parametrize("objectives", [OBJECTIVES[:1], [*OBJECTIVES, {"metric": "ttft_p99_s", "direction": "minimize"}]])
    def test_any_number_of_objectives(self, tmp_path: Path, storage: optuna.storages.BaseStorage, objectives: list[Any]) -> None:
        ledger = open_ledger(tmp_path, storage, objectives=objectives)
        finish(ledger)
        assert len(ledger.finished) == 4
        assert ledger.front


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "random"])
def test_samplers_take_all_outcomes_without_a_warning(tmp_path: Path, storage: optuna.storages.BaseStorage, sampler: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        ledger = open_ledger(
            tmp_path,
            storage,
            sampler={"name": sampler},
            constraints=[SLO],
            space=SPACE | {"n_ubatch": {"type": "int", "low": 64, "high": 512, "step": 64, "when": "n_batch > 64", "default": 512}},
            trials=30,
        )
        outcomes = {"measured": 0, "infeasible": 0, "failed": 0, "interrupted": 0}
        while ledger.remaining:
            asked = ask(ledger)
            match asked.trial.number % 5:
                case 1:
                    ledger.tell_infeasible(asked.trial, "out of memory")
                case 2 if outcomes["failed"] < 5:
                    ledger.tell_failed(asked.trial, "no port")
                case 3 if outcomes["interrupted"] < 5:
                    ledger.tell_interrupted(asked.trial)
                case _:
                    tell(ledger, asked)
            outcomes[ledger.study.trials[asked.trial.number].user_attrs["outcome"]] += 1
    assert all(outcomes.values())
    assert len(ledger.finished) == 30


def test_tpe_learns_from_infeasible_trials(tmp_path: Path) -> None:
    space = {name: {"type": "int", "low": 0, "high": 19, "default": 2} for name in ("a", "b")}
    suggested = []
    for seed in range(3):
        ledger = open_ledger(tmp_path, optuna.storages.InMemoryStorage(), sampler={"name": "tpe"}, space=space, seed=seed, trials=30)
        while ledger.remaining:
            asked = ask(ledger)
            a, b = (float(asked.configuration.get(name, 2)) for name in ("a", "b"))
            suggested.append(a)
            if a >= 10:
                ledger.tell_infeasible(asked.trial, "out of memory")
            else:
                ledger.tell_measured(asked.trial, {1: measurement(latency=timing(1 + b)), 4: measurement(output_tokens_per_s=1 + b)})
    assert sum(a >= 10 for a in suggested) < 0.4 * len(suggested)


def test_works_in_the_storage_of_a_run(tmp_path: Path) -> None:
    def opened() -> Ledger:
        config: Settings = settings(tmp_path, constraints=[SLO])
        return Ledger(config, open_storage(config.storage.url), DEFAULTS)

    ledger = opened()
    tell(ledger, ask(ledger))
    ledger.tell_infeasible(ask(ledger).trial, "out of memory")
    ledger.tell_interrupted(ask(ledger).trial)
    resumed = opened()
    assert [trial.user_attrs["outcome"] for trial in resumed.finished] == ["measured", "infeasible"]
    finish(resumed)
    assert len(opened().finished) == 4
