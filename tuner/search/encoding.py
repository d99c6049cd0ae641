"""Configurations as points of the unit cube, and the candidates among which a sampler chooses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.launch import Value
from tuner.parameters import Fixed
from tuner.search.gaussian_process import Array
from tuner.search.tried import Key, key
from tuner.space import Space

TRIES = 20
"""Draws for a configuration that keeps the constraints of the space."""


class Encoding:
    """Where the parameters of a space stand in the unit cube.

    Ordered parameters take one dimension, by their position; categories one for each choice. A conditional parameter that does not exist
    stands in the middle, and says so in a dimension of its own.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.distributions = {p.code_name(name): _distribution(p, name) for name, p in space.parameters.items() if not isinstance(p, Fixed)}
        self._conditional = {p.code_name(name) for name, p in space.parameters.items() if p.when is not None}

    def rows(self, codes: Sequence[Mapping[str, Any]]) -> Array:
        """Encoded parameters as points; shape (n, dimensions)."""
        return np.array([list(itertools.chain.from_iterable(self._place(name, code) for name in self.distributions)) for code in codes])

    def _place(self, name: str, code: Mapping[str, Any]) -> list[float]:
        distribution, there = self.distributions[name], name in code
        exists = [float(there)] if name in self._conditional else []
        if isinstance(distribution, CategoricalDistribution):
            return exists + [float(there and code[name] == choice) for choice in _ways(distribution)]
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        if not there:
            return [*exists, 0.5]
        low, high, value = (float(each) for each in (distribution.low, distribution.high, code[name]))
        if distribution.log:
            low, high, value = np.log(low), np.log(high), np.log(value)
        return [*exists, (value - low) / (high - low) if high > low else 0.5]

    def whole(self, code: Mapping[str, Any]) -> bool:
        """Whether all encoded parameters are there: another process writes those of its trial one after the other."""
        try:
            self._space.decode(code)
        except KeyError:
            return False
        return True

    @cached_property
    def everything(self) -> tuple[list[dict[str, Value]], Array] | None:
        """Encoded parameters and points of all configurations; None where they cannot be listed."""
        if self._space.size is None:
            return None
        codes = [self._space.encode(configuration) for configuration in self._space.configurations()]
        return codes, self.rows(codes)

    def drawn(self, known: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """Up to `count` different configurations, encoded: half of them anywhere, the others near those that are `known`."""
        found: dict[Key, dict[str, Value]] = {}
        for number in range(count):
            near = known[int(rng.integers(len(known)))] if known and number % 2 else None
            for _ in range(TRIES):
                draw = _Draw(rng, near)
                if self._space.violated(self._space.suggest(draw)) is None:
                    found[key(draw.codes)] = draw.codes
                    break
        return list(found.values())


def _ways(distribution: CategoricalDistribution) -> Sequence[Any]:
    """The choices that need a dimension: of two, one tells all."""
    return distribution.choices[:1] if len(distribution.choices) == 2 else distribution.choices


class _Recorder:
    """Remembers how a parameter asks Optuna for a value."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked: BaseDistribution = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self.asked = FloatDistribution(low, high, log=log, step=step)
        return low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked = CategoricalDistribution(choices)
        return choices[0]


def _distribution(parameter: Any, name: str) -> BaseDistribution:
    recorder = _Recorder()
    parameter.suggest(recorder, name)
    return recorder.asked


class _Draw:
    """Draws at random, or near a known configuration."""

    def __init__(self, rng: np.random.Generator, near: Mapping[str, Any] | None) -> None:
        self._rng = rng
        self._near = near or {}
        self.codes: dict[str, Any] = {}

    def _new(self, name: str) -> bool:
        return name not in self._near or self._rng.random() < 0.3

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            value = round(self.suggest_float(name, low, high, log=True))
        elif self._new(name):
            value = low + step * int(self._rng.integers((high - low) // step + 1))
        else:
            value = int(self._near[name]) + step * int(self._rng.integers(-1, 2))
        self.codes[name] = min(max(value, low), high)
        return int(self.codes[name])

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if step is not None:
            steps = round((high - low) / step)
            at = self._rng.integers(steps + 1) if self._new(name) else round((self._near[name] - low) / step) + self._rng.integers(-1, 2)
            self.codes[name] = round(low + step * min(max(int(at), 0), steps), 12)
            return float(self.codes[name])
        a, b = (np.log(low), np.log(high)) if log else (low, high)
        if self._new(name):
            value = a + (b - a) * self._rng.random()
        else:
            here = np.log(self._near[name]) if log else self._near[name]
            value = here + (b - a) * self._rng.normal(scale=0.1)
        value = min(max(value, a), b)
        self.codes[name] = min(max(float(np.exp(value)) if log else float(value), low), high)
        return float(self.codes[name])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        value = choices[int(self._rng.integers(len(choices)))] if self._new(name) else self._near[name]
        self.codes[name] = value
        return value
