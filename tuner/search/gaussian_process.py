"""Gaussian-process regression of the logarithm of one metric over configurations and load levels.

Matérn-5/2 with a length scale for each dimension [Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4, 5],
hyperparameters at the maximum of their posterior. All levels of a metric share one model: what the busiest level has shown of a
configuration says something about the others, and a trial that was stopped early teaches as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

ROOT5 = np.sqrt(5.0)
INTERCEPT_SD = 2.0
"""Of each level's own mean, in logarithms: wide, so that data decide."""
SLOPE_SD = 0.5
"""Of the factor on a prior's logarithm, which is 1 where the prior is right: within a few trials a useless prior gets a factor near 0."""
LENGTH = (np.log(1.5), 0.9)
"""Mean and standard deviation of a logarithmic length scale, parameters being scaled to [0, 1]."""
SIGNAL = (np.log(0.4), 0.8)
"""The same of the standard deviation of what neither level nor prior explains."""
LEVEL_LENGTH = (np.log(0.8), 0.6)
SHARED = (0.5, 1.0)
"""Mean and standard deviation of the logit of the share of a configuration's effect that is the same at all levels."""
NOISE_SD = 0.3
"""Standard deviation of the logarithm of the noise around what is assumed."""
JITTER = 1e-8


@dataclass(frozen=True, slots=True)
class Points:
    """Where a metric is known or wanted.

    Attributes:
        x: Configurations in the unit cube, one row each; shape (n, d).
        level: Index of the load level of each row; shape (n,).
        features: Logarithms of what priors predict, centred; shape (n, number of priors).
    """

    x: Array
    level: NDArray[np.int64]
    features: Array


class Process:
    """The model of one metric.

    Args:
        positions: Where each load level stands, in the unit interval.
        noise: Assumed relative standard deviation of a measurement.
    """

    def __init__(self, positions: Array, noise: float) -> None:
        self._positions = positions
        self._assumed_noise = noise
        self._theta = np.empty(0)

    def fit(self, points: Points, y: Array, spread: Array, steps: int) -> None:
        """Takes the data in.

        Args:
            points: Where they were measured.
            y: Logarithms of the metric.
            spread: Relative standard errors of the single measurements, on top of the noise between runs.
            steps: Iterations of the search for hyperparameters; 0 keeps those of the last fit.
        """
        if not len(self._theta):
            dimensions = points.x.shape[1]
            self._mean = np.array([LENGTH[0]] * dimensions + [SIGNAL[0], LEVEL_LENGTH[0], SHARED[0], np.log(self._assumed_noise)])
            self._sd = np.array([LENGTH[1]] * dimensions + [SIGNAL[1], LEVEL_LENGTH[1], SHARED[1], NOISE_SD])
            self._theta = self._mean.copy()
        self._points, self._spread = points, spread
        self._centre = np.array([_mean(y[points.level == level], y) for level in range(len(self._positions))])
        self._y = y - self._centre[points.level] - points.features.sum(axis=1)
        if steps:
            found = minimize(
                self._loss,
                self._theta,
                jac=True,
                method="L-BFGS-B",
                bounds=list(zip(self._mean - 3 * self._sd, self._mean + 3 * self._sd, strict=True)),
                options={"maxiter": steps},
            )
            self._theta = found.x
        kernel = self._covariance(self._points, self._points) + np.diag(self._noise_variance())
        self._factor = cho_factor(kernel, lower=True, check_finite=False)
        self._alpha = cho_solve(self._factor, self._y, check_finite=False)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Mean and standard deviation of the metric's logarithm, without the noise of a measurement; shape (n,) each."""
        mean, half = self._condition(points)
        variance = self._diagonal(points) - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def sample(self, here: Points, there: Points, samples: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Draws the metric's logarithm at known and at other points, together: what a draw says of one it says of its like.

        Returns:
            Draws at `here`, shape (n, samples); the means at `there` that follow from each, shape (m, samples), and the standard deviation
            that remains, shape (m,).
        """
        mean_here, half_here = self._condition(here)
        mean_there, half_there = self._condition(there)
        covariance = self._covariance(here, here) - half_here.T @ half_here
        root = np.linalg.cholesky(covariance + (1e-10 + JITTER * np.trace(covariance)) * np.eye(len(covariance)))
        cross = self._covariance(there, here) - half_there.T @ half_here
        half = solve_triangular(root, cross.T, lower=True, check_finite=False)
        own = self._diagonal(there) - np.einsum("ij,ij->j", half_there, half_there) - np.einsum("ij,ij->j", half, half)
        normal = rng.standard_normal((len(root), samples))
        return mean_here[:, None] + root @ normal, mean_there[:, None] + half.T @ normal, np.sqrt(np.maximum(own, 1e-12))

    def _condition(self, points: Points) -> tuple[Array, Array]:
        """The mean at `points`, and the half of what the data take from their covariance; shapes (n,) and (data, n)."""
        cross = self._covariance(self._points, points)
        mean = self._centre[points.level] + points.features.sum(axis=1) + self._alpha @ cross
        return mean, solve_triangular(self._factor[0], cross, lower=True, check_finite=False)

    def _noise_variance(self) -> Array:
        return np.asarray(np.exp(2 * self._theta[-1]) + self._spread**2 + JITTER)

    def _diagonal(self, points: Points) -> Array:
        signal = np.exp(2 * self._theta[-4])
        return np.asarray(signal + INTERCEPT_SD**2 + ((SLOPE_SD * points.features) ** 2).sum(axis=1))

    def _covariance(self, a: Points, b: Points) -> Array:
        signal, levels, root = self._parts(a, b)[:3]
        matern = (1 + root + root**2 / 3) * np.exp(-root)
        return np.asarray(signal * matern * levels + self._trends(a, b))

    def _trends(self, a: Points, b: Points) -> Array:
        """Of each level's own mean, and of what the priors say."""
        return np.asarray((a.level[:, None] == b.level[None]) * INTERCEPT_SD**2 + SLOPE_SD**2 * (a.features @ b.features.T))

    def _parts(self, a: Points, b: Points) -> tuple[Any, ...]:
        """Signal variance, correlation by level, scaled distance by configuration; then what only the gradient needs."""
        lengths, share = np.exp(self._theta[:-4]), 1 / (1 + np.exp(-self._theta[-2]))
        left, right = a.x / lengths, b.x / lengths
        squared = np.maximum(np.sum(left**2, 1)[:, None] + np.sum(right**2, 1)[None] - 2 * left @ right.T, 0.0)
        apart = ((self._positions[:, None] - self._positions[None]) / np.exp(self._theta[-3])) ** 2
        near = np.exp(-apart / 2)
        levels = (share + (1 - share) * near)[a.level][:, b.level]
        return np.exp(2 * self._theta[-4]), levels, ROOT5 * np.sqrt(squared), lengths, share, near, apart

    def _loss(self, theta: Array) -> tuple[float, Array]:
        """Negative logarithm of the posterior density of the hyperparameters, and its gradient."""
        self._theta = theta
        signal, levels, root, lengths, share, near_by_level, apart = self._parts(self._points, self._points)
        at = self._points.level
        near, slope = near_by_level[at][:, at], (near_by_level * apart)[at][:, at]
        decay = np.exp(-root)
        matern, matern_slope = (1 + root + root**2 / 3) * decay, (1 + root) * decay * 5 / 3
        kernel = signal * matern * levels + self._trends(self._points, self._points)
        factor = cho_factor(kernel + np.diag(self._noise_variance()), lower=True, check_finite=False)
        alpha = cho_solve(factor, self._y, check_finite=False)
        inverse = cho_solve(factor, np.eye(len(alpha)), check_finite=False)
        weight = np.outer(alpha, alpha) - inverse
        away = (theta - self._mean) / self._sd
        loss = 0.5 * self._y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        x = self._points.x
        spread = weight * signal * levels * matern_slope
        rows = spread.sum(axis=1)
        by_length = (rows @ x**2 - np.einsum("ij,ij->j", x, spread @ x)) / lengths**2
        scaled = weight * signal * matern
        gradient = np.concatenate(
            [
                by_length,
                [
                    (scaled * levels).sum(),
                    0.5 * (1 - share) * (scaled * slope).sum(),
                    0.5 * share * (1 - share) * (scaled * (1 - near)).sum(),
                    np.trace(weight) * np.exp(2 * theta[-1]),
                ],
            ]
        )
        return float(loss), -gradient + away / self._sd


def _mean(values: Array, otherwise: Array) -> float:
    return float(values.mean() if len(values) else otherwise.mean() if len(otherwise) else 0.0)
