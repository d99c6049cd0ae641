from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.doubles import OBJECTIVES, settings
from tuner.confirm.finalists import Finalists, choose
from tuner.confirm.race import Claim

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": "min", "max": 0.5}


def trials(values: Sequence[Sequence[float]], violations: Sequence[float] | None = None) -> list[FrozenTrial]:
    """Measured trials; the first is the default."""
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"][: len(values[0])])
    for i, value in enumerate(values):
        trial = study.ask()
        trial.set_user_attr("default", i == 0)
        if violations is not None:
            trial.set_constraint("latency_p99_s@1<=0.5", violations[i])
        study.tell(trial, value)
    return study.get_trials(states=(TrialState.COMPLETE,))


def chosen(folder: Path, measured: list[FrozenTrial], finalists: int = 2, **changes: Any) -> Finalists:
    return choose(settings(folder, confirm={"finalists": finalists}, **changes), measured)


def numbers(found: Finalists) -> list[int]:
    return [trial.number for trial in found.trials]


def test_the_best_of_each_objective(tmp_path: Path) -> None:
    found = chosen(tmp_path, trials([[0.4, 100.0], [0.2, 90.0], [0.3, 110.0], [0.5, 130.0], [0.9, 50.0]]))
    assert numbers(found) == [1, 3]
    assert found.claims == (Claim(0, 1), Claim(1, 2))
    assert found.on_front[1] > 0.99
    assert 4 not in found.on_front


def test_then_the_knee(tmp_path: Path) -> None:
    found = chosen(tmp_path, trials([[0.4, 100.0], [0.2, 90.0], [0.25, 120.0], [0.5, 130.0]]), finalists=3)
    assert numbers(found) == [1, 3, 2]
    assert found.claims == (Claim(0, 1), Claim(1, 2), Claim(0, 3), Claim(1, 3))


def test_a_single_finalist_is_the_knee_and_stands_for_all(tmp_path: Path) -> None:
    found = chosen(tmp_path, trials([[0.4, 100.0], [0.2, 90.0], [0.25, 120.0], [0.5, 130.0]]), finalists=1)
    assert numbers(found) == [2]
    assert found.claims == (Claim(0, 1), Claim(1, 1))


def test_one_trial_may_be_best_in_everything(tmp_path: Path) -> None:
    found = chosen(tmp_path, trials([[0.4, 100.0], [0.2, 130.0]]))
    assert numbers(found) == [1]
    assert found.claims == (Claim(0, 1), Claim(1, 1))


def test_an_objective_that_the_default_is_best_in_has_no_claim(tmp_path: Path) -> None:
    found = chosen(tmp_path, trials([[0.2, 100.0], [0.4, 130.0]]))
    assert numbers(found) == [1]
    assert found.claims == (Claim(1, 1),)


def test_a_default_that_is_best_in_everything_has_no_rival(tmp_path: Path) -> None:
    assert chosen(tmp_path, trials([[0.2, 200.0], [0.4, 130.0]])).claims == ()
    assert chosen(tmp_path, trials([[0.2, 200.0]])).trials == ()


def test_a_trial_that_meets_an_slo_by_luck_is_not_chosen(tmp_path: Path) -> None:
    measured = trials([[0.4, 100.0], [0.499, 130.0], [0.42, 129.0]], violations=[-0.2, -0.002, -0.16])
    assert numbers(chosen(tmp_path, measured, constraints=[SLO])) == [2]


def test_a_safe_trial_goes_before_a_better_one_at_the_edge(tmp_path: Path) -> None:
    measured = trials([[0.4, 100.0], [0.498, 190.0], [0.42, 129.0]], violations=[-0.2, -0.004, -0.16])
    found = chosen(tmp_path, measured, constraints=[SLO])
    assert numbers(found) == [2]
    assert found.on_front[1] > 0.4
    edge = trials([[0.49, 100.0], [0.498, 190.0]], violations=[-0.02, -0.004])
    assert numbers(chosen(tmp_path, edge, constraints=[SLO])) == [1]


def test_what_misses_an_slo_is_not_chosen(tmp_path: Path) -> None:
    measured = trials([[0.4, 100.0], [0.9, 190.0], [0.3, 110.0]], violations=[-0.2, 0.8, -0.4])
    assert numbers(chosen(tmp_path, measured, constraints=[SLO])) == [2]
    assert chosen(tmp_path, trials([[0.4, 100.0]], violations=[1.0]), constraints=[SLO]) == Finalists((), (), {})


def test_three_objectives_and_two_finalists(tmp_path: Path) -> None:
    third = {"metric": "latency_p50_s", "at": "max", "direction": "minimize"}
    measured = trials([[0.4, 100.0, 0.3], [0.2, 90.0, 0.2], [0.5, 130.0, 0.25], [0.45, 100.0, 0.1]])
    found = chosen(tmp_path, measured, objectives=[*OBJECTIVES, third])
    assert numbers(found) == [1, 2]
    assert found.claims == (Claim(0, 1), Claim(1, 2), Claim(2, 1))


def test_the_choice_is_always_the_same(tmp_path: Path) -> None:
    measured = trials([[0.4, 100.0], [0.395, 100.5], [0.396, 100.4], [0.397, 100.3]])
    first, second = chosen(tmp_path, measured), chosen(tmp_path, measured)
    assert (numbers(first), first.claims, first.on_front) == (numbers(second), second.claims, second.on_front)


def test_zero_errors_are_better_than_some(tmp_path: Path) -> None:
    objectives = [{"metric": "error_rate", "direction": "minimize"}, OBJECTIVES[1]]
    found = chosen(tmp_path, trials([[0.01, 100.0], [0.0, 100.0], [0.02, 130.0]]), objectives=objectives)
    assert numbers(found) == [1, 2]
