from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tuner.confirm.statistics import (
    Contrast,
    Variance,
    chance_of_success,
    chance_to_meet,
    contrast,
    look_levels,
    residual_squares,
    successive_variance,
    t_quantile,
)

NOTHING = Variance(0.03, 1e-9)
"""A prior that counts for nothing."""


def test_two_arms_without_a_prior_are_the_paired_t_test() -> None:
    values = np.random.default_rng(1).normal(size=(6, 2))
    found = contrast(values, 1, 0, NOTHING)
    expected = stats.ttest_rel(values[:, 1], values[:, 0])
    assert found is not None
    assert found.log_gain / found.se == pytest.approx(expected.statistic)
    assert found.df == pytest.approx(expected.df)
    assert found.interval(0.025) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_variance_is_pooled_over_all_arms() -> None:
    values = np.random.default_rng(2).normal(size=(4, 3))
    squares, df = residual_squares(values)
    residuals = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    assert df == 3 * 2
    assert squares == pytest.approx(float((residuals**2).sum()))


def test_what_changes_from_round_to_round_drops_out() -> None:
    values = np.random.default_rng(3).normal(size=(5, 2))
    shifted = values + np.array([0.0, 10.0, -3.0, 7.0, 2.0])[:, None]
    before, after = contrast(values, 1, 0, NOTHING), contrast(shifted, 1, 0, NOTHING)
    assert before is not None
    assert after is not None
    assert after.interval(0.025) == pytest.approx(before.interval(0.025))


def test_an_arm_that_left_does_not_disturb_the_others() -> None:
    values = np.random.default_rng(4).normal(size=(6, 3))
    values[3:, 2] = np.nan
    found, left = contrast(values, 1, 0, NOTHING), contrast(values, 2, 0, NOTHING)
    assert found is not None
    assert left is not None
    assert found.log_gain == pytest.approx(float((values[:, 1] - values[:, 0]).mean()))
    assert (found.rounds, left.rounds) == (6, 3)
    assert found.df == pytest.approx(15 - (6 + 3 - 1))


def test_arms_that_never_met_cannot_be_compared() -> None:
    assert contrast(np.array([[1.0, np.nan], [np.nan, 1.0]]), 1, 0, NOTHING) is None
    assert contrast(np.empty((0, 2)), 1, 0, NOTHING) is None
    assert residual_squares(np.empty((0, 2))) == (0.0, 0)


def test_the_prior_counts_as_its_degrees_of_freedom() -> None:
    assert Variance(0.03, 4).updated(4 * 0.06**2, 4) == Variance(pytest.approx(math.sqrt((0.03**2 + 0.06**2) / 2)), 8)  # type: ignore[arg-type]
    assert Variance(0.03, 4).updated(400 * 0.06**2, 400).sd == pytest.approx(0.06, rel=0.01)


def test_drift_is_no_noise() -> None:
    steady = successive_variance([0.01 * i for i in range(20)], NOTHING)
    assert steady.sd == pytest.approx(0.01 / math.sqrt(2))
    noise = np.random.default_rng(5).normal(scale=0.03, size=2000)
    assert successive_variance((noise + np.linspace(0, 5, 2000)).tolist(), NOTHING).sd == pytest.approx(0.03, rel=0.05)
    assert successive_variance([1.0], Variance(0.03, 4)) == Variance(0.03, 4)
    assert successive_variance([1.0, 1.1], NOTHING).df == pytest.approx(1)


def test_one_look_has_the_whole_error() -> None:
    assert look_levels(0.0125, (1.0,)) == (pytest.approx(0.0125, rel=1e-6),)


def test_two_looks_together_err_as_often_as_allowed() -> None:
    first, second = look_levels(0.025, (0.5, 1.0))
    assert first == pytest.approx(0.025 / 4, rel=1e-4)
    bounds = [stats.norm.isf(first), stats.norm.isf(second)]
    correlation = math.sqrt(0.5)
    inside = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]]).cdf(bounds)
    assert 1 - inside == pytest.approx(0.025, rel=1e-3)


def test_many_looks_together_err_as_often_as_allowed() -> None:
    looks = np.arange(3, 15) / 14
    bounds = stats.norm.isf(look_levels(0.025, tuple(looks)))
    steps = np.random.default_rng(6).normal(size=(100_000, len(looks))) * np.sqrt(np.diff(looks, prepend=0))
    crossed = (steps.cumsum(axis=1) / np.sqrt(looks) > bounds).any(axis=1)
    assert crossed.mean() == pytest.approx(0.025, abs=0.0015)


def test_a_late_look_is_easier_than_an_early_one() -> None:
    levels = look_levels(0.0125, tuple(n / 14 for n in range(3, 15)))
    assert list(levels) == sorted(levels)
    assert levels[0] < 0.001


def test_chance_of_success() -> None:
    def found(log_gain: float, rounds: int = 5) -> Contrast:
        return Contrast(log_gain, 0.03 * math.sqrt(2 / rounds), 1e6, rounds)

    # with known variance: Phi((d - z se_N) / sqrt(se_n^2 - se_N^2))
    needed = stats.norm.isf(0.01) * 0.03 * math.sqrt(2 / 14)
    spread = 0.03 * math.sqrt(2 / 5 - 2 / 14)
    assert chance_of_success(found(0.02), 14, 0.01) == pytest.approx(stats.norm.cdf((0.02 - needed) / spread), rel=1e-3)
    assert chance_of_success(found(-0.05), 14, 0.01) < 0.01
    assert chance_of_success(found(0.2), 14, 0.01) > 0.99
    assert chance_of_success(found(needed * 1.01, 14), 14, 0.01) == 1
    assert chance_of_success(found(needed * 0.99, 14), 14, 0.01) == 0


def test_chance_to_meet_an_slo() -> None:
    margins = np.array([[0.05, -0.05], [0.06, -0.06], [0.04, np.nan]])
    prior = Variance(0.03, 4)
    sd = prior.updated(0.0002 + 0.00005, 3).sd
    assert chance_to_meet(margins, 0, prior) == pytest.approx(stats.t.cdf(0.05 / (sd / math.sqrt(3)), 7))
    assert chance_to_meet(margins, 1, prior) < 0.05
    assert chance_to_meet(np.full((3, 2), np.nan), 0, prior) == 0.5


def test_quantiles() -> None:
    assert t_quantile(0.975, 10) == pytest.approx(2.228, abs=1e-3)
