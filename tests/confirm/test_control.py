from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.studies import Study, gaining
from tests.doubles import DEFAULTS
from tuner.confirm.control import Comparison, compare, open_control
from tuner.confirm.cost import charged_h
from tuner.launch import Configuration
from tuner.runner import run_trials
from tuner.study import Ledger

Interval = tuple[float, float, float]
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def controlled(study: Study, noise: float = 0.0) -> Ledger:
    study.noise = noise
    control = open_control(study.ledger, DEFAULTS)
    run_trials(control, study.rig, study.progress, study.pages)
    for trial in control.finished:  # doubles take no time
        control.study._storage.get_trial(trial._trial_id)
        trial.user_attrs["durations_s"] = {"deploy": 60.0, "load": 120.0}
        trial.user_attrs["gpus"] = 2
    return control


def test_random_trials_in_a_study_of_their_own(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, control={"random": 6}).search()
    control = controlled(study)
    assert len(control.finished) == 6
    assert not any(trial.user_attrs.get("default") for trial in control.study.trials)
    assert control.study.study_name == "some-study.control"
    assert type(control.study.sampler).__name__ == "RandomSampler"
    assert (study.ledger.settings.study_folder / "control" / "trial-0000").is_dir()
    assert len(study.ledger.finished) == 12
    before = len(study.world.deployed)
    controlled(study)
    assert len(study.world.deployed) == before


def test_no_more_trials_than_the_space_has(tmp_path: Path) -> None:
    space = {"n_parallel": {"type": "int", "low": 1, "high": 4}}
    study = Study(tmp_path, gaining(1.25, 1.25), trials=3, control={"random": 60}, space=space)
    assert open_control(study.search().ledger, DEFAULTS).settings.trials == 4


def test_a_search_that_found_more(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, control={"random": 6}).search()
    study.shown = lambda configuration: (0.4, 100.0)
    found = compare(study.ledger, controlled(study))
    assert found is not None
    equal, paid = found
    assert equal.search == "ahead"
    assert equal.deployments == (6, 6)
    assert equal.volume is not None
    assert equal.volume[1] > 0
    assert equal.best[1] is not None
    assert equal.best[1][0] == pytest.approx(25, abs=1)
    assert paid.hours[0] <= paid.hours[1]


def test_a_search_that_found_no_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def noisy(configuration: Configuration) -> Any:
        return np.array([0.4, 100.0]) * np.exp(0.03 * rng.normal(size=2))

    study = Study(tmp_path, noisy, trials=12, control={"random": 12}).search()
    found = compare(study.ledger, controlled(study))
    assert found is not None
    assert found[0].search in ("level", "unclear")


def test_a_search_that_found_less(tmp_path: Path) -> None:
    study = Study(tmp_path, lambda configuration: (0.4, 100.0), trials=12, control={"random": 12}).search()
    study.shown = lambda configuration: (0.2, 200.0)
    found = compare(study.ledger, controlled(study))
    assert found is not None
    assert found[0].search == "behind"


def test_equal_cost_may_be_other_than_equal_deployments(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, control={"random": 6}).search()
    control = controlled(study)
    for trial in control.finished:
        trial.user_attrs["durations_s"] = {"deploy": 60.0, "load": 300.0}
    found = compare(study.ledger, control)
    assert found is not None
    assert found[1].deployments == (12, 6)
    assert found[1].hours == (pytest.approx(1.2), pytest.approx(1.2))


@pytest.mark.parametrize(("in_search", "expected"), [(True, "ahead"), (False, "behind")])
def test_only_one_of_them_found_something_feasible(tmp_path: Path, in_search: bool, expected: str) -> None:
    slo = {"metric": "latency_p99_s", "at": 1, "max": 0.5}
    met, missed = (0.4, 100.0), (0.9, 100.0)

    def shown(configuration: Configuration) -> Any:
        return met if in_search else missed

    study = Study(tmp_path, shown, trials=6, control={"random": 6}, constraints=[slo]).search()
    study.shown = lambda configuration: missed if in_search else met
    found = compare(study.ledger, controlled(study))
    assert found is not None
    assert found[0].search == expected


def test_nothing_to_compare(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=4).search()
    assert compare(study.ledger, open_control(study.ledger, DEFAULTS)) is None


def test_the_interval_holds_the_estimate(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.05, 1.05), trials=12, control={"random": 12}).search()
    found = compare(study.ledger, controlled(study, 0.03))
    assert found is not None
    for ahead in (found[0].volume, *found[0].best):
        assert ahead is not None
        assert ahead[1] <= ahead[0] <= ahead[2]


def test_charged_hours(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=4).search()
    assert charged_h(study.ledger.finished[0]) == pytest.approx(2 * 180 / 3600)  # the queue is free
    assert np.isclose(charged_h(*study.ledger.finished), 4 * 0.1)


AHEAD, OPEN, LEVEL, BEHIND = (8.0, 2.0, 14.0), (1.0, -9.0, 11.0), (1.0, -2.0, 4.0), (-8.0, -14.0, -2.0)


@pytest.mark.parametrize(
    ("volume", "best", "expected"),
    [
        (None, (None, None), "ahead"),
        (AHEAD, (OPEN, OPEN), "ahead"),
        (OPEN, (AHEAD, AHEAD), "ahead"),
        (BEHIND, (AHEAD, AHEAD), "ahead"),
        (AHEAD, (BEHIND, AHEAD), "unclear"),
        (OPEN, (OPEN, OPEN), "unclear"),
        (OPEN, (AHEAD, OPEN), "unclear"),
        (LEVEL, (LEVEL, LEVEL), "level"),
        (LEVEL, (LEVEL, OPEN), "unclear"),
        (LEVEL, (LEVEL, (3.0, 1.0, 4.0)), "unclear"),
        (BEHIND, (LEVEL, LEVEL), "behind"),
        (BEHIND, (AHEAD, BEHIND), "unclear"),
        (LEVEL, (BEHIND, BEHIND), "behind"),
    ],
)
def test_the_intervals_say_how_the_search_did(volume: Interval | None, best: tuple[Interval | None, ...], expected: str) -> None:
    assert Comparison((1, 1), (1.0, 1.0), volume, best).search == expected
