from __future__ import annotations

import numpy as np
import pytest

from tuner.confirm.race import Claim, Race, percent
from tuner.confirm.statistics import PRIOR_DF, Array, Variance

NOISE = 0.03


def race(*claims: tuple[int, int], rounds: int = 14, objectives: int = 2) -> Race:
    return Race(tuple(Claim(*claim) for claim in claims), rounds, 0.95, (Variance(NOISE, PRIOR_DF),) * objectives)


def measured(gains: list[list[float]], rounds: int, seed: int = 0, noise: float = NOISE) -> Array:
    """Rounds of arms with these true gains."""
    truth = np.array(gains)
    return truth + noise * np.random.default_rng(seed).normal(size=(rounds, *truth.shape))


def test_the_order_alternates_and_the_default_is_in_every_round() -> None:
    some, nothing = race((0, 1), (1, 2)), [[0.0, 0.0]] * 3
    assert [some.standing(measured(nothing, n)).running for n in range(3)] == [(0, 1, 2), (2, 1, 0), (0, 1, 2)]


def test_a_clear_gain_ends_after_three_rounds() -> None:
    values = measured([[0, 0], [0.18, 0.18]], 3)
    standing = race((0, 1), (1, 1)).standing(values)
    assert standing.running == ()
    assert {decision.ending for decision in standing.decided.values()} == {"better"}
    assert standing.decided[0].rounds == 3


def test_nothing_is_decided_before_three_rounds() -> None:
    assert race((0, 1)).standing(measured([[0, 0], [1, 1]], 2)).decided == {}


def test_a_loss_is_given_up() -> None:
    standing = race((0, 1), (1, 1)).standing(measured([[0, 0], [-0.1, -0.1]], 3))
    assert {decision.ending for decision in standing.decided.values()} == {"futile"}


def test_all_rounds_are_the_end() -> None:
    standing = race((0, 1), rounds=3).standing(measured([[0, 0], [0.01, 0]], 3))
    assert standing.decided[0].ending == "exhausted"
    assert standing.running == ()


def test_who_is_decided_is_not_deployed_any_more() -> None:
    values = measured([[0, 0], [0.2, 0], [0, 0.045]], 3, seed=2)
    standing = race((0, 1), (1, 2)).standing(values)
    assert standing.decided[0].ending == "better"
    assert set(standing.running) == {0, 2}


def test_a_decision_stays_whatever_comes_later() -> None:
    values = measured([[0, 0], [0.2, 0], [0, 0.045]], 3, seed=2)
    later = np.concatenate([values, np.full((1, 3, 2), np.nan)])
    later[3, [0, 2]] = 0.0
    some = race((0, 1), (1, 2))
    assert some.standing(later).decided[0] == some.standing(values).decided[0]


def test_a_finalist_that_is_worse_everywhere_leaves_and_the_other_stands_for_its_claim() -> None:
    values = measured([[0, 0], [0.035, 0.035], [0.3, 0.3]], 3, seed=1)
    standing = race((0, 1), (1, 2)).standing(values)
    assert standing.running == ()
    assert [(decision.arm, decision.ending) for decision in standing.decided.values()] == [(2, "better"), (2, "better")]


def test_who_is_ahead_of_another_finalist() -> None:
    some = race((0, 1), (1, 2))
    level = some.level(3)
    as_good = measured([[0, 0], [0.2, 0], [0.2, 0.3]], 3, noise=0.01)
    assert some.ahead(as_good, 2, 1, level) == (1,)
    assert some.ahead(as_good, 1, 2, level) == ()
    # a loss of 8 % is one, though the level of a claim would not show it after three rounds
    less = measured([[0, 0], [0.2, 0], [0.12, 0.6]], 3, seed=1)
    found = some.gain(less, 2, 0, 1)
    assert found is not None
    assert found.interval(level)[1] > 0
    assert some.ahead(less, 2, 1, level) == ()
    assert some.ahead(np.full((3, 3, 2), np.nan), 2, 1, level) == ()


def test_what_cannot_be_deployed_again_is_decided() -> None:
    some = race((0, 1), (1, 2))
    values = measured([[0, 0]] * 3, 1)
    assert some.standing(values, frozenset({1})).decided[0].ending == "failed"
    assert some.standing(values, frozenset({1})).running == (2, 0)
    assert some.standing(values, frozenset({0})).running == ()


def test_fewer_rounds_than_a_first_look() -> None:
    some = race((0, 1), rounds=1, objectives=1)
    assert some.looks == (1,)
    assert some.standing(np.array([[[0.0], [0.5]]])).decided[0].ending == "better"
    assert some.standing(np.array([[[0.0], [0.01]]])).decided[0].ending == "exhausted"


def test_a_metric_without_ratios_decides_nothing() -> None:
    values = np.full((14, 2, 1), np.nan)
    assert race((0, 1), objectives=1).standing(values).decided[0].ending == "exhausted"


def share_found(gain: float, replays: int, noise: float = NOISE, drift: float = 0.0) -> tuple[float, float]:
    """Share of races in which some claim is found to hold, and the mean number of deployments."""
    some, found, deployments = race((0, 1), (1, 2)), 0, 0
    for replay in range(replays):
        rng = np.random.default_rng(replay)
        values = np.empty((0, 3, 2))
        while (standing := some.standing(values)).running:
            row = np.full((1, 3, 2), np.nan)
            for arm in standing.running:
                row[0, arm] = (gain if arm else 0.0) + drift * deployments + noise * rng.normal(size=2)
                deployments += 1
            values = np.concatenate([values, row])
        found += any(decision.ending == "better" for decision in standing.decided.values())
    return found / replays, deployments / replays


def test_equal_arms_are_rarely_told_apart() -> None:
    assert share_found(0.0, 60)[0] <= 0.05


def test_a_linear_drift_is_no_gain() -> None:
    assert share_found(0.0, 40, drift=0.005)[0] <= 0.05


def test_a_wrong_prior_is_corrected() -> None:
    assert share_found(0.0, 40, noise=0.12)[0] <= 0.075


def test_large_gains_cost_few_deployments() -> None:
    found, deployments = share_found(0.18, 20)
    assert found == 1
    assert deployments < 10.5


def test_percentages_are_those_that_users_mean() -> None:
    assert percent(np.log(1.25), more=True) == pytest.approx(25)
    assert percent(np.log(1 / 0.8), more=False) == pytest.approx(20)  # a fifth fewer seconds
    assert percent(np.log(0.5), more=False) == pytest.approx(-100)  # twice as many
