from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.confirm.studies import Study, flat
from tests.doubles import measurement, timing
from tuner.confirm.nearest import nearest, rank_correlation
from tuner.launch import Configuration

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

LATENCY = {"metric": "latency_p99_s", "at": "min", "max": 0.1}
THROUGHPUT = {"metric": "output_tokens_per_s", "at": "max", "min": 400}


def by_slots(configuration: Configuration) -> tuple[float, float]:
    return 0.9 / (1 + 0.1 * float(configuration.get("n_parallel", 1))), 100.0


def test_the_nearest_and_what_helps(tmp_path: Path) -> None:
    study = Study(tmp_path, by_slots, trials=30, constraints=[LATENCY]).search()
    best = min(study.ledger.finished, key=lambda trial: trial.values[0])
    found = nearest(study.ledger)
    assert found is not None
    assert found.trial == best.number
    assert found.binding == "latency_p99_s@1<=0.1"
    assert found.helper is not None
    assert (found.helper.name, found.helper.best, found.helper.at_edge) == ("n_parallel", 16, True)
    assert found.helper.correlation < -0.9


def test_the_bound_that_it_would_meet(tmp_path: Path) -> None:
    study = Study(tmp_path, lambda configuration: (0.15, 100.0), trials=4, constraints=[LATENCY]).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.violations == {"latency_p99_s@1<=0.1": pytest.approx(0.5)}
    assert found.needed == pytest.approx(0.15)
    assert found.helper is None  # all are the same, and they are few


def test_a_lower_bound(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=4, constraints=[THROUGHPUT]).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.needed == pytest.approx(100)


def test_far_off(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=4, constraints=[LATENCY]).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.violations == {"latency_p99_s@1<=0.1": pytest.approx(3.0)}
    assert found.needed == pytest.approx(0.4)


def test_the_binding_slo_is_the_one_that_is_missed_most(tmp_path: Path) -> None:
    slos: list[Any] = [{"metric": "latency_p99_s", "at": "min", "max": 0.3}, THROUGHPUT]
    study = Study(tmp_path, flat, trials=4, constraints=slos).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.binding == "output_tokens_per_s@4>=400"
    assert set(found.violations) == {"latency_p99_s@1<=0.3", "output_tokens_per_s@4>=400"}


def test_choices_that_are_words(tmp_path: Path) -> None:
    policy = {"type": "categorical", "choices": ["lpm", "fcfs", "random"], "default": "fcfs"}
    space = {"policy": policy, "n_batch": {"type": "int", "low": 1, "high": 40, "default": 1}}

    def shown(configuration: Configuration) -> tuple[float, float]:
        return (0.12 if configuration.get("policy") == "lpm" else 0.15), 100.0

    study = Study(tmp_path, shown, trials=30, constraints=[LATENCY], space=space).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.helper is not None
    assert (found.helper.name, found.helper.best, found.helper.at_edge) == ("policy", "lpm", False)


def test_noise_is_no_help(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    study = Study(tmp_path, lambda configuration: (0.15 + 0.01 * rng.normal(), 100.0), trials=30, constraints=[LATENCY]).search()
    found = nearest(study.ledger)
    assert found is not None
    assert found.helper is None


def stopped(study: Study, level: int, latency: float, throughput: float, reason: str) -> int:
    """Ends a trial that was stopped after one load level; its number."""
    asked = study.ledger.ask()
    assert asked is not None
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    curve = {level: measurement(level, latency=timing(latency), output_tokens_per_s=throughput)}
    asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
    study.ledger.tell_pruned(asked.trial, curve, reason)
    return asked.trial.number


def test_a_trial_that_was_stopped_early_may_be_the_nearest(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=9, constraints=[LATENCY, {**THROUGHPUT, "min": 50}]).search(1)
    stopped(study, 1, 0.35, 100, "latency_p99_s@1 is 0.35 s, 0.25 s above the SLO; it meets it with a probability below 1 %")
    number = stopped(study, 1, 0.3, 100, "latency_p99_s@1 is 0.3 s, 0.2 s above the SLO; it meets it with a probability below 1 %")
    found = nearest(study.ledger)
    assert found is not None
    assert (found.trial, found.stopped, found.unknown) == (number, True, ("output_tokens_per_s@4>=50",))
    assert found.violations == {"latency_p99_s@1<=0.1": pytest.approx(2.0)}, "as measured, not as clipped"
    assert found.needed == pytest.approx(0.3)


def test_a_measured_trial_is_not_said_to_be_stopped(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=9, constraints=[LATENCY]).search(1)
    stopped(study, 1, 0.5, 100, "latency_p99_s@1 is 0.5 s, 0.4 s above the SLO; it meets it with a probability below 1 %")
    found = nearest(study.ledger)
    assert found is not None
    assert (found.trial, found.stopped, found.unknown) == (0, False, ())


def test_a_trial_that_was_stopped_for_what_it_had_not_shown_is_not_the_nearest(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=9, constraints=[LATENCY, THROUGHPUT]).search(1)
    stopped(study, 1, 0.11, 1.0, "output_tokens_per_s@4 is expected to be about 9 tok/s, 391 tok/s below the SLO; it meets it ...")
    found = nearest(study.ledger)
    assert found is not None
    assert found.trial == 0


def test_what_was_stopped_tells_of_the_parameters_too(tmp_path: Path) -> None:
    slots = {"n_parallel": {"type": "int", "low": 1, "high": 12, "default": 1}}
    study = Study(tmp_path, by_slots, trials=9, constraints=[LATENCY], space=slots).search(1)
    for _ in range(7):
        asked = study.ledger.ask()
        assert asked is not None
        asked.trial.set_user_attr("configuration", dict(asked.configuration))
        curve = {1: measurement(1, latency=timing(by_slots(asked.configuration)[0]))}
        asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
        study.ledger.tell_pruned(asked.trial, curve, "latency_p99_s@1 is above the SLO")
    found = nearest(study.ledger)
    assert found is not None
    assert found.stopped
    assert found.helper is not None
    assert (found.helper.name, found.helper.trials) == ("n_parallel", 7)


def test_for_few_trials_all_orders_are_counted() -> None:
    assert rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 9]) == (pytest.approx(1.0), pytest.approx(2 / 120))
    assert rank_correlation([0, 0, 0, 0, 1], [5, 6, 7, 8, 4])[1] == pytest.approx(2 / 5), "either end is as far"
    many = np.random.default_rng(1).normal(size=(2, 20))
    assert rank_correlation(*many) == pytest.approx(tuple(spearmanr(*many)))


def test_there_is_none_where_a_trial_meets_all_or_nothing_was_measured(tmp_path: Path) -> None:
    assert nearest(Study(tmp_path / "a", flat, trials=4).search().ledger) is None
    assert nearest(Study(tmp_path / "b", flat, trials=4, constraints=[{"metric": "latency_p99_s", "max": 1.0}]).search().ledger) is None
    assert nearest(Study(tmp_path / "c", flat, trials=4, constraints=[LATENCY]).ledger) is None
