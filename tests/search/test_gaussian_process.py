"""The model of a metric: its loss and gradient, what it interpolates, and that joint draws scatter as they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from tuner.search.gaussian_process import INTERCEPT_SD, Array, Points, Process

POSITIONS = np.array([0.0, 0.4, 1.0])


def points(rng: np.random.Generator, n: int, priors: int = 1) -> Points:
    return Points(rng.random((n, 3)), rng.integers(0, 3, n), 0.3 * rng.standard_normal((n, priors)))


def metric(where: Points, slope: float = 1.0) -> Array:
    """A logarithm that hangs on level, prior and two of three parameters."""
    shape = 0.5 * np.sin(3 * where.x[:, 0]) + 0.4 * where.x[:, 1] ** 2
    return np.asarray(1.5 * where.level + shape + slope * where.features.sum(axis=1))


def fitted(n: int = 30, noise: float = 0.02, steps: int = 60, priors: int = 1, slope: float = 1.0) -> tuple[Process, Points, Array]:
    rng = np.random.default_rng(0)
    known = points(rng, n, priors)
    y = metric(known, slope) + noise * rng.standard_normal(n)
    process = Process(POSITIONS, noise)
    process.fit(known, y, np.zeros(n), steps)
    return process, known, y


@pytest.mark.parametrize("priors", [0, 1, 2])
def test_the_gradient_is_that_of_the_loss(priors: int) -> None:
    process, _, _ = fitted(priors=priors, steps=0)
    rng = np.random.default_rng(1)
    for _ in range(5):
        theta = process._mean + 0.7 * process._sd * rng.standard_normal(len(process._mean))
        size = float(np.linalg.norm(process._loss(theta)[1]))
        assert check_grad(lambda t: process._loss(t)[0], lambda t: process._loss(t)[1], theta, epsilon=1e-6) < 1e-4 * max(size, 1.0)


def test_the_loss_is_the_density_of_the_data_and_of_the_hyperparameters() -> None:
    process, known, _ = fitted(8, steps=0)
    theta = process._mean + 0.3
    loss = process._loss(theta)[0]
    covariance = process._covariance(known, known) + np.diag(process._noise_variance())
    _, determinant = np.linalg.slogdet(covariance)
    expected = 0.5 * process._y @ np.linalg.solve(covariance, process._y) + 0.5 * determinant + 0.5 * ((0.3 / process._sd) ** 2).sum()
    assert loss == pytest.approx(expected)


def test_fitting_makes_the_data_likelier() -> None:
    before, _, _ = fitted(steps=0)
    after, _, _ = fitted(steps=60)
    assert after._loss(after._theta)[0] < before._loss(before._theta)[0] - 1


def test_no_steps_keep_the_hyperparameters() -> None:
    process, known, y = fitted()
    kept = process._theta.copy()
    process.fit(known, y + 0.1, np.zeros(len(y)), 0)
    assert np.array_equal(process._theta, kept)


def test_interpolates_what_it_was_told() -> None:
    process, known, y = fitted(noise=0.01)
    mean, sd = process.predict(known)
    assert np.abs(mean - y).max() < 0.05
    assert sd.max() < 0.03


def test_predicts_what_it_was_not_told_better_than_the_mean_of_the_level() -> None:
    process, known, y = fitted(60)
    new = points(np.random.default_rng(2), 200)
    mean, sd = process.predict(new)
    error = np.abs(mean - metric(new))
    naive = np.abs(np.array([y[known.level == level].mean() for level in new.level]) - metric(new))
    assert error.mean() < 0.25 * naive.mean()
    assert np.mean(error < 2 * sd + 1e-3) > 0.85, "its own standard deviations hold"


def test_far_from_all_data_it_knows_that_it_does_not_know() -> None:
    process, known, _ = fitted()
    _, near = process.predict(known)
    _, far = process.predict(Points(known.x + 30, known.level, known.features))
    assert far.min() > 5 * near.max()


def test_a_level_without_data_learns_from_the_others() -> None:
    rng = np.random.default_rng(3)
    known = points(rng, 30)
    known = Points(known.x, np.minimum(known.level, 1), known.features)
    process = Process(POSITIONS, 0.02)
    process.fit(known, metric(known), np.zeros(30), 40)
    new = Points(rng.random((100, 3)), np.full(100, 2), np.zeros((100, 1)))
    mean, _ = process.predict(new)
    assert np.corrcoef(mean, metric(new))[0, 1] > 0.8


@pytest.mark.parametrize(("slope", "near"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_prior_counts_as_far_as_it_is_right(slope: float, near: float) -> None:
    process, _, _ = fitted(60, slope=slope)
    x = np.full((2, 3), 0.5)
    mean, _ = process.predict(Points(x, np.array([1, 1]), np.array([[0.0], [1.0]])))
    assert mean[1] - mean[0] == pytest.approx(near, abs=0.25)


def test_one_uncertain_measurement_moves_it_less() -> None:
    known = Points(np.full((2, 3), 0.5), np.array([1, 1]), np.zeros((2, 0)))
    means = []
    for spread in (0.0, 1.0):
        process = Process(POSITIONS, 0.02)
        process.fit(known, np.array([0.0, 1.0]), np.array([0.0, spread]), 0)
        means.append(process.predict(Points(known.x[:1], known.level[:1], known.features[:1]))[0][0])
    assert means[0] == pytest.approx(0.5, abs=0.01)
    assert means[1] < 0.05


def test_the_prior_variance_is_the_diagonal_of_the_kernel() -> None:
    process, known, _ = fitted(10)
    assert np.allclose(process._diagonal(known), np.diag(process._covariance(known, known)))
    other = points(np.random.default_rng(6), 20)
    assert np.allclose(process._diagonal(other), np.diag(process._covariance(other, other)))
    assert process._diagonal(other).min() > INTERCEPT_SD**2


def test_joint_draws_scatter_as_the_posterior_says() -> None:
    process, known, _ = fitted(12, noise=0.05)
    rng = np.random.default_rng(4)
    here = Points(known.x[:4], known.level[:4], known.features[:4])
    there = points(rng, 3)
    together = Points(*(np.concatenate([getattr(here, name), getattr(there, name)]) for name in ("x", "level", "features")))
    kernel = process._covariance(together, together)
    cross = process._covariance(known, together)
    inside = process._covariance(known, known) + np.diag(process._noise_variance())
    expected = kernel - cross.T @ np.linalg.solve(inside, cross)
    drawn_here, means_there, sd_there = process.sample(here, there, 40_000, rng)
    drawn = np.concatenate([drawn_here, means_there + sd_there[:, None] * rng.standard_normal(means_there.shape)])
    mean, sd = process.predict(together)
    assert np.allclose(drawn.mean(axis=1), mean, atol=5 * sd.max() / 200)
    found = np.cov(drawn)
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert np.allclose(found[:4] / scale[:4], expected[:4] / scale[:4], atol=0.03), "among the known, and between them and the others"
    assert np.allclose(found.diagonal(), expected.diagonal(), rtol=0.05)


def test_a_draw_says_the_same_of_a_configuration_wherever_it_stands() -> None:
    process, known, _ = fitted(12, noise=0.05)
    here = Points(known.x[:5], known.level[:5], known.features[:5])
    drawn, means, sd = process.sample(here, here, 200, np.random.default_rng(5))
    assert np.abs(drawn - means).max() < 0.02
    assert sd.max() < 0.02
