from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.studies import Study, flat
from tuner.confirm.nearest import nearest
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


def test_there_is_none_where_a_trial_meets_all_or_nothing_was_measured(tmp_path: Path) -> None:
    assert nearest(Study(tmp_path / "a", flat, trials=4).search().ledger) is None
    assert nearest(Study(tmp_path / "b", flat, trials=4, constraints=[{"metric": "latency_p99_s", "max": 1.0}]).search().ledger) is None
    assert nearest(Study(tmp_path / "c", flat, trials=4, constraints=[LATENCY]).ledger) is None
