"""How the probability of serving follows risk and outcomes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.search.deployable import Deployable
from tuner.search.gaussian_process import Array

D = 5


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


def drawn(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, D))


def middle(risk: Array) -> Array:
    return np.full((len(risk), D), 0.5)


def test_before_any_trial_the_risk_decides() -> None:
    risk = np.linspace(-3, 3, 25)
    p = Deployable(np.zeros((0, D)), np.zeros(0, dtype=bool), np.zeros(0)).probability(middle(risk), risk)
    assert np.all(np.diff(p) <= 1e-9)
    assert p[0] > 0.9
    assert p[-1] < 0.1
    assert 0.6 < p[12] < 0.9


def test_without_risk_all_serve_until_one_does_not() -> None:
    assert np.all(Deployable(drawn(5), np.ones(5, dtype=bool)).probability(drawn(9, 1)) == 1)


def test_failures_at_the_upper_end_of_a_parameter_tell_against_that_end() -> None:
    x = drawn(20)
    learned = Deployable(x, x[:, 2] < 0.7)
    low, high = (np.tile(np.where(np.arange(D) == 2, at, 0.5), (1, 1)) for at in (0.1, 0.95))
    assert learned.probability(low)[0] > 0.8
    assert learned.probability(high)[0] < 0.4


def test_a_failure_lowers_all_of_more_risk_and_a_success_raises_those_of_less() -> None:
    x, risk = drawn(6), np.array([-1.0, -0.5, 0.0, 0.2, 0.3, 0.5])
    ahead = np.linspace(-1, 1.5, 11)
    served = np.ones(6, dtype=bool)
    success = Deployable(x, served, risk).probability(middle(ahead), ahead)
    failure = Deployable(x, np.where(risk > 0.4, False, served), risk).probability(middle(ahead), ahead)
    before = Deployable(x[:5], served[:5], risk[:5]).probability(middle(ahead), ahead)
    assert np.all(failure[ahead >= 0] < before[ahead >= 0])
    assert np.all(success[ahead >= 0] > before[ahead >= 0])


def test_a_risk_that_is_wrong_is_overcome() -> None:
    """A GPU of which more is free than was thought, or less."""
    rng = np.random.default_rng(1)
    for boundary in (-0.4, 1.8):
        x, risk = drawn(40, 3), rng.uniform(-2, 3, 40)
        learned = Deployable(x, risk < boundary, risk)
        ahead = np.array([boundary - 0.6, boundary + 0.6])
        safe, unsafe = learned.probability(middle(ahead), ahead)
        assert safe > 0.6
        assert unsafe < 0.4


def test_a_cause_beside_the_risk_is_learned() -> None:
    x, risk = drawn(40, 5), np.full(40, -1.0)
    learned = Deployable(x, x[:, 0] > 0.3, risk)
    ends = middle(risk[:2])
    ends[:, 0] = 0.05, 0.95
    low, high = learned.probability(ends, risk[:2])
    assert low < 0.5 < 0.8 < high


def boundaries() -> Iterator[tuple[Array, Array, NDArray[np.bool_]]]:
    """Configurations, risks and outcomes on boundaries like those of memory, each at a risk of its own."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = rng.random((330, D))
        risk = 3 * (x[:, 0] + 0.5 * x[:, 1]) - 2.5
        yield x, risk, risk + 0.8 * (x[:, 2] - 0.5) + rng.normal(0, 0.1, 330) < rng.normal(0.6, 0.4)


def test_calibrated_on_a_boundary() -> None:
    """What is said to serve with a probability serves about so often."""
    said, did = [], []
    for x, risk, served in boundaries():
        said.append(Deployable(x[:30], served[:30], risk[:30]).probability(x[30:], risk[30:]))
        did.append(served[30:])
    p, y = np.concatenate(said), np.concatenate(did)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        within = (p >= low) & (p < high)
        assert within.sum() > 100
        assert abs(p[within].mean() - y[within].mean()) < 0.15


def test_the_risk_makes_up_for_trials() -> None:
    """Five trials and the risk tell more than thirty without."""
    with_risk: list[float] = []
    without: list[float] = []
    for x, risk, served in boundaries():
        for known, told, losses in ((5, risk, with_risk), (30, None, without)):
            here, there = (None, None) if told is None else (told[:known], told[30:])
            p = Deployable(x[:known], served[:known], here).probability(x[30:], there).clip(1e-6, 1 - 1e-6)
            losses.append(-np.where(served[30:], np.log(p), np.log1p(-p)).mean())
    assert np.mean(with_risk) < np.mean(without)


@pytest.mark.parametrize("served", [True, False])
def test_extremes_give_probabilities(served: bool) -> None:
    x = np.repeat(drawn(1), 70, axis=0)
    risk = np.full(70, 4.0 if served else -4.0)
    learned = Deployable(x, np.full(70, served), risk)
    p = learned.probability(drawn(50, 2), np.linspace(-4, 4, 50))
    assert np.all((p >= 0) & (p <= 1))
    assert np.all(np.isfinite(p))
