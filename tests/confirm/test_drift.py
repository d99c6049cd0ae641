from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.studies import Study, attributes, flat
from tests.doubles import DEFAULTS
from tuner.confirm import drift
from tuner.confirm.companion import CONFIRM, open_companion
from tuner.confirm.drift import check_drift, describe, drift_due, estimated_noise, latest_change, trend
from tuner.errors import Transient
from tuner.runner import Patience

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def searched(folder: Path, speeds: list[float], noise: float = 0.0, **changes: Any) -> tuple[Study, list[int]]:
    """A search of 4 trials for each check, on a machine of these speeds at the checks; returns after how many trials they came."""
    study = Study(folder, flat, noise, **({"trials": 40, "confirm": {"drift_every": 4}} | changes))
    companion = open_companion(study.ledger, CONFIRM, DEFAULTS)
    checks = []
    for speed in speeds:
        while not drift_due(study.ledger, companion):
            study.search(1)
        checks.append(len(study.ledger.finished))
        study.shown = lambda configuration, speed=speed: (0.4 / speed, 100.0 * speed)  # type: ignore[misc]
        check_drift(study.ledger, companion, study.rig, study.progress, study.pages, Patience(3, measured=True))
        study.shown = flat
    return study, checks


def companion_of(study: Study) -> Any:
    return open_companion(study.ledger, CONFIRM, DEFAULTS)


def test_the_defaults_are_measured_again_now_and_then(tmp_path: Path) -> None:
    study, checks = searched(tmp_path, [1.0, 1.0, 1.0])
    assert checks == [4, 8, 12]
    assert [kept["after"] for kept in attributes(study)] == [4, 8, 12]
    assert all(kept["purpose"] == "drift" and kept["default"] for kept in attributes(study))
    assert len(study.ledger.finished) == 12
    assert not any(line.startswith("Drift") for line in study.progress.lines)
    assert latest_change(study.ledger, companion_of(study)) is None


def test_it_is_not_due_without_need(tmp_path: Path) -> None:
    assert not drift_due(*never(tmp_path / "a", trials=8, confirm={"drift_every": 0}))
    assert not drift_due(*never(tmp_path / "b", trials=8, confirm={"drift_every": 8}))  # the confirmation comes next
    study = Study(tmp_path / "c", flat, trials=40, confirm={"drift_every": 4})
    asked = study.ledger.ask()
    assert asked is not None
    study.ledger.tell_infeasible(asked.trial, "out of memory")
    study.search(6)
    assert not drift_due(study.ledger, companion_of(study))


def never(folder: Path, **changes: Any) -> tuple[Any, Any]:
    study = Study(folder, flat, **changes).search()
    return study.ledger, companion_of(study)


def test_a_check_that_fails_is_not_repeated_at_once(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=40, confirm={"drift_every": 4}).search(4)
    companion = companion_of(study)

    def at(stage: str) -> None:
        if stage == "deploy":
            raise Transient("no port")

    study.world.at = at
    check_drift(study.ledger, companion, study.rig, study.progress, study.pages, Patience(3, measured=True))
    assert not drift_due(study.ledger, companion)
    study.search(4)
    assert drift_due(study.ledger, companion)


def test_a_check_that_was_broken_off_is_due_again(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=40, confirm={"drift_every": 4}).search(4)
    companion = companion_of(study)

    def at(stage: str) -> None:
        if stage == "ready":
            raise KeyboardInterrupt

    study.world.at = at
    with pytest.raises(KeyboardInterrupt):
        check_drift(study.ledger, companion, study.rig, study.progress, study.pages, Patience(3, measured=True))
    assert drift_due(study.ledger, companion_of(study))


def test_a_slower_machine_is_told_at_once(tmp_path: Path) -> None:
    study, _ = searched(tmp_path, [1.0, 1.0, 0.7], 0.01)
    told = [line for line in study.progress.lines if line.startswith("Drift")]
    assert len(told) == 1
    assert "of the defaults" in told[0]
    change = latest_change(study.ledger, companion_of(study))
    assert change is not None
    assert change.log_gain == pytest.approx(np.log(0.7), abs=0.05)
    assert change.low < np.log(0.7) < change.high < 0


def test_noise_is_no_drift(tmp_path: Path) -> None:
    told = 0
    for seed in range(10):
        study, _ = searched(tmp_path / str(seed), [1.0])
        study.rng = np.random.default_rng(seed)
        study, _ = searched(tmp_path / f"{seed}-noisy", [1.0, 1.0, 1.0], 0.03)
        told += any(line.startswith("Drift") for line in study.progress.lines)
    assert told <= 1


def test_a_trend_over_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = searched(tmp_path, [0.97, 0.94, 0.91, 0.88], 0.003)
    monkeypatch.setattr(drift, "_hours", lambda series: np.arange(len(series), dtype=float))
    change = trend(study.ledger, companion_of(study))
    assert change is not None
    assert change.log_gain == pytest.approx(np.log(0.88), abs=0.02)
    assert change.hours == 4
    sentence = describe(study.ledger, change)
    assert sentence.startswith(("latency_p99_s@1 of the defaults rose by 1", "output_tokens_per_s@4 of the defaults fell by 1"))
    assert "95% interval" in sentence
    assert sentence.endswith("within 4 h 00 min")


def test_no_trend_without_change_or_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_hours", lambda series: np.arange(len(series), dtype=float))
    study, _ = searched(tmp_path / "a", [1.0, 1.0, 1.0], 0.02)
    assert trend(study.ledger, companion_of(study)) is None
    study, _ = searched(tmp_path / "b", [0.5])
    assert trend(study.ledger, companion_of(study)) is None


def test_hours_are_those_between_the_measurements(tmp_path: Path) -> None:
    study, _ = searched(tmp_path, [1.0])
    series = drift.default_series(study.ledger, companion_of(study))
    first = series[0].datetime_complete
    assert first is not None
    series[1].datetime_complete = first + timedelta(hours=3)
    assert drift._hours(series).tolist() == [0.0, 3.0]


def test_noise_is_estimated_from_repeats_and_the_settings(tmp_path: Path) -> None:
    study = Study(tmp_path / "a", flat, trials=4).search()
    assert estimated_noise(study.ledger, companion_of(study)) == (0.03, 0.03)
    study, _ = searched(tmp_path / "b", [1.0] * 8, 0.15)
    noise = estimated_noise(study.ledger, companion_of(study))
    assert all(0.06 < sd < 0.2 for sd in noise)
