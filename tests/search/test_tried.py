"""Which parameters count as tried."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.search.tried import Tried


def a_trial(number: int, x: float, state: TrialState = TrialState.PRUNED, **attributes: Any) -> FrozenTrial:
    trial = optuna.create_trial(state=state, params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, user_attrs=attributes)
    trial.number = number
    return trial


def test_sums_of_steps_are_the_same_number() -> None:
    tried = Tried()
    tried.take([a_trial(0, 0.1 + 0.2)])
    assert tried.has({"x": 0.3}, default=False)
    assert not tried.has({"x": 0.3001}, default=False)


def test_the_default_stands_for_its_neighbour_but_not_the_other_way_round() -> None:
    tried = Tried()
    tried.take([a_trial(0, 0.5, default=True), a_trial(1, 0.7)])
    assert tried.has({"x": 0.5}, default=False)
    assert tried.has({"x": 0.5}, default=True)
    assert not tried.has({"x": 0.7}, default=True)


def test_what_runs_counts_as_long_as_it_runs_and_what_has_ended_for_ever() -> None:
    tried = Tried()
    tried.take([a_trial(0, 0.1), a_trial(1, 0.2, TrialState.RUNNING, default=True)])
    assert len(tried) == 2
    assert tried.has({"x": 0.2}, default=True)
    tried.take([a_trial(0, 0.1)])
    assert len(tried) == 1
    assert tried.has({"x": 0.1}, default=False)
    assert not tried.has({"x": 0.2}, default=False)
    tried.take([])
    assert tried.has({"x": 0.1}, default=False)
