"""The tests that a trial has to fail before it is stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from tuner.objectives import Objective, Slo
from tuner.search.pruner_peers import Belief
from tuner.search.pruner_rules import Goals, tail

NOISE = 0.03
FAST = Objective(metric="ttft_p99_s", at=16, direction="minimize")
MUCH = Objective(metric="output_tokens_per_s", at=64, direction="maximize")
SOON = Slo(metric="ttft_p99_s", at=64, max=0.5)
ENOUGH = Slo(metric="requests_per_s", at=64, min=10)


def measured(*values: float) -> list[list[Belief]]:
    return [[Belief(math.log(value), NOISE)] for value in values]


def front(*rows: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    values = np.log(np.array(rows))
    return values, np.full(values.shape, NOISE)


@pytest.mark.parametrize(("slo", "value", "z"), [(SOON, 0.55, 1), (SOON, 0.45, 1), (ENOUGH, 9.0, -1), (ENOUGH, 11.0, -1)])
def test_a_bound_is_met_with_the_probability_of_the_normal_distribution(slo: Slo, value: float, z: int) -> None:
    (chance,) = Goals([FAST], [slo]).meets(measured(1.0, value))
    assert chance == pytest.approx(norm.sf(z * math.log(value / (slo.max or slo.min or 0)) / NOISE))


def test_a_violation_is_that_of_the_slo_that_is_missed_most_as_a_share_of_its_bound() -> None:
    goals = Goals([FAST], [SOON, ENOUGH])
    values = np.log([(0.1, 0.75, 9.0), (0.1, 0.5, 2.5), (0.1, 0.4, 20.0), (0.1, np.nan, 1.0)])
    assert goals.violation(values) == pytest.approx([0.5, 0.75, -0.2, np.nan], nan_ok=True)


def test_eased_bounds_are_those_that_a_trial_with_that_violation_just_meets() -> None:
    goals = Goals([FAST], [SOON, ENOUGH])
    assert np.exp(goals.eased(0.2)) == pytest.approx([0.6, 8.0])
    assert goals.meets(measured(1.0, 0.6, 8.0), 0.2) == pytest.approx([0.5, 0.5])
    assert goals.meets(measured(1.0, 9.0, 0.001), math.inf).tolist() == [1.0, 1.0]


def test_of_an_slo_of_which_nothing_is_known_nothing_is_said() -> None:
    assert Goals([FAST], [SOON]).meets([*measured(1.0), []]) == [1.0]


def test_the_most_certain_way_to_see_an_slo_counts() -> None:
    ways = [Belief(math.log(1.0), 0.5, 4.0, "expected"), Belief(math.log(0.9), 0.06, source="bounded")]
    (chance,) = Goals([FAST], [SOON]).meets([*measured(1.0), ways])
    assert chance == pytest.approx(norm.sf(math.log(1.8) / 0.06))


def test_few_peers_make_broad_tails() -> None:
    assert tail(3.0, 4.0) == pytest.approx(t.sf(3.0, 4.0))
    assert tail(3.0, math.inf) == pytest.approx(norm.sf(3.0))


def test_the_front_is_what_meets_the_slos_as_measured_and_is_dominated_by_none() -> None:
    goals = Goals([FAST, MUCH], [SOON])
    rows = [(0.10, 900, 0.4), (0.20, 1000, 0.4), (0.20, 950, 0.4), (0.05, 2000, 0.6), (0.10, 900, 0.3), (0.01, 3000, math.nan)]
    assert goals.front(np.log(np.array(rows))).tolist() == [0, 1, 4], "equals do not dominate one another"


def test_dominance_carries_the_noise_of_both_sides_and_is_as_likely_as_its_least_likely_part() -> None:
    goals = Goals([FAST, MUCH], [])
    (chance,) = goals.undominated(measured(0.12, 900), *front((0.10, 1000)))
    assert chance == pytest.approx(norm.sf(math.log(1000 / 900) / (NOISE * 2**0.5)))


def test_a_trial_that_is_better_in_one_objective_is_not_dominated() -> None:
    (chance,) = Goals([FAST, MUCH], []).undominated(measured(0.09, 100), *front((0.10, 1000)))
    assert chance > 0.99


def test_a_twin_is_as_likely_better_as_worse() -> None:
    assert Goals([FAST, MUCH], []).undominated(measured(0.1, 1000), *front((0.1, 1000))) == pytest.approx([0.5])


def test_what_may_miss_an_slo_itself_dominates_nothing() -> None:
    edge, safe = Goals([FAST], [SOON]).undominated(measured(0.2, 0.3), *front((0.1, 0.499), (0.1, 0.3)))
    assert edge == pytest.approx(norm.sf(math.log(0.5 / 0.499) / NOISE))
    assert safe < 1e-6


def test_an_objective_of_which_nothing_is_known_keeps_a_trial() -> None:
    assert Goals([FAST, MUCH], []).undominated([*measured(0.9), []], *front((0.1, 1000))) == [1.0]


def test_one_objective_and_three() -> None:
    assert Goals([FAST], []).undominated(measured(0.2), *front((0.1,)))[0] < 1e-6
    third = Objective(metric="tpot_mean_s", at=16, direction="minimize")
    chances = Goals([FAST, MUCH, third], []).undominated(measured(0.2, 500, 0.02), *front((0.1, 1000, 0.01), (0.1, 1000, 0.03)))
    assert chances[0] < 1e-6
    assert chances[1] > 0.99
