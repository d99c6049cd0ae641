"""The probability that a configuration serves at all, learned from those that did and did not.

Gaussian-process classification with the Laplace approximation [Rasmussen and Williams, 2006, algorithms 3.1 and 3.2], its kernel fixed: a
handful of failures is too little to learn a kernel from. Where `tuner.feasibility.risk` can tell a risk, the mean falls along it, and
failures teach first of all where on its scale the trouble begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_ndtr, ndtr

from tuner.search.gaussian_process import Array

CENTRE, SLOPE, REACH = 0.6, 3.0, 1.3
"""The risk at which one in two serves, how steeply the latent mean falls there, and how far: beyond, more risk or less is all the same."""
CENTRE_SD, SLOPE_SD = 1.2, 1.0
"""How little is known of the latent value at that risk, and of the slope."""
LENGTH = 0.5
STEPS = 30


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kernel over the parameters: a linear part, because memory runs out towards one end of a parameter, and a smooth one."""

    linear_sd: float
    smooth_sd: float
    mean: float


_BLIND = _Kind(linear_sd=1.5, smooth_sd=1.5, mean=1.0)
"""Before anything is known, a configuration that the gate lets pass serves with a probability of about 0.75."""
_INFORMED = _Kind(linear_sd=0.5, smooth_sd=0.5, mean=0.0)
"""For what the risk does not explain; its mean comes from the risk."""


class Deployable:
    """Learns from outcomes.

    Args:
        x: Configurations in the unit cube; shape (n, d).
        served: Whether each served its load; shape (n,).
        risk: The risk of each; shape (n,). None where none can be told.
    """

    def __init__(self, x: Array, served: NDArray[np.bool_], risk: Array | None = None) -> None:
        self._x, self._risk = x, risk
        self._kind = _BLIND if risk is None else _INFORMED
        self._certain = risk is None and bool(served.all())
        if self._certain:
            return
        sign = np.where(served, 1.0, -1.0)
        prior = self._mean(len(x), risk)
        kernel = self._kernel(x, risk)
        latent = np.zeros(len(x))
        for _ in range(STEPS):
            z = sign * (latent + prior)
            ratio = np.exp(-(z**2) / 2 - log_ndtr(z)) / np.sqrt(2 * np.pi)
            self._gradient = sign * ratio
            root = np.sqrt(np.maximum(ratio * (z + ratio), 1e-12))
            factor = cho_factor(np.eye(len(x)) + root[:, None] * kernel * root[None], lower=True)
            b = root**2 * latent + self._gradient
            latent, before = kernel @ (b - root * cho_solve(factor, root * (kernel @ b))), latent
            if len(x) == 0 or np.abs(latent - before).max() < 1e-6:
                break
        self._known = root[:, None] * cho_solve(factor, np.diag(root))

    def probability(self, x: Array, risk: Array | None = None) -> Array:
        """Of serving, for each row of `x`; shape (c,).

        Args:
            x: Configurations; shape (c, d).
            risk: The risk of each, if it was told of those that were learned from; shape (c,).
        """
        if self._certain:
            return np.ones(len(x))
        cross = self._kernel(x, risk)
        mean = self._mean(len(x), risk) + cross @ self._gradient
        own = self._kind.smooth_sd**2 + (self._lines(x, risk) ** 2).sum(axis=1)
        variance = np.maximum(own - ((cross @ self._known) * cross).sum(axis=1), 0.0)
        return np.asarray(ndtr(mean / np.sqrt(1 + variance)))

    def _mean(self, count: int, risk: Array | None) -> Array:
        return np.full(count, self._kind.mean) if risk is None else -SLOPE * _from_centre(risk)

    def _kernel(self, a: Array, risk: Array | None) -> Array:
        """Between `a` and what was learned from."""
        b = self._x
        # minus the squared distances, in one product: this is reckoned for thousands of candidates
        left = np.column_stack([2 * a, (a**2).sum(axis=1), np.ones(len(a))])
        kernel = left @ np.column_stack([b, -np.ones(len(b)), -(b**2).sum(axis=1)]).T
        kernel /= LENGTH**2 * a.shape[1] / 2
        np.exp(kernel, out=kernel)
        kernel *= self._kind.smooth_sd**2
        kernel += self._lines(a, risk) @ self._lines(b, self._risk).T
        return np.asarray(kernel)

    def _lines(self, x: Array, risk: Array | None) -> Array:
        """What the latent value is linear in, each times its standard deviation."""
        parameters = self._kind.linear_sd * (x - 0.5)
        if risk is None:
            return np.asarray(parameters)
        return np.column_stack([parameters, np.full(len(x), CENTRE_SD), SLOPE_SD * _from_centre(risk)])


def _from_centre(risk: Array) -> Array:
    return np.clip(risk - CENTRE, -REACH, REACH)
