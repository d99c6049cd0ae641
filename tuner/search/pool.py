"""The candidates of a sampler, and what is known of each before it was tried: reckoned once, and looked up for every trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.launch import Value
from tuner.search.encoding import Encoding
from tuner.search.gaussian_process import Array
from tuner.search.knowledge import Knowledge
from tuner.search.targets import Targets
from tuner.search.tried import Key, key
from tuner.space import Space

Code = Mapping[str, Any]
"""Encoded parameters of a configuration."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some configurations.

    Attributes:
        codes: Their encoded parameters.
        x: Their points in the unit cube; shape (n, d).
        features: What the priors say of them, by metric; shape (n, levels, priors) each. Empty without priors.
        risk: How close they come to the end of memory; shape (n,). None where that cannot be told.
    """

    codes: Sequence[Mapping[str, Value]]
    x: Array
    features: Mapping[str, Array]
    risk: Array | None


class Pool:
    """All configurations of a finite space, or new ones of one that cannot be listed.

    Args:
        space: The search space.
        targets: What the priors are asked for.
        knowledge: What is known beforehand.
    """

    def __init__(self, space: Space, targets: Targets, knowledge: Knowledge) -> None:
        self.encoding = Encoding(space)
        self._space = space
        self._targets = targets
        self._knowledge = knowledge
        self._where: dict[Key, int] = {}
        self._codes: list[Mapping[str, Value]] = []
        self._x = np.empty((0, 0))
        self._features: dict[str, Array] = {}
        self._risk = np.empty(0)
        self._asked = np.empty(0, dtype=bool)
        self._taken: set[Key] = set()
        if self.encoding.everything is not None:
            self._append(*self.encoding.everything)

    def take(self, codes: Iterable[Code]) -> None:
        """These configurations are not wanted again."""
        self._taken |= {key(code) for code in codes}

    def untried(self, running: Iterable[Code], known: Sequence[Code], count: int, rng: np.random.Generator) -> Batch:
        """Configurations that may be tried.

        Args:
            running: Those that are not wanted now, beside those that were taken.
            known: Around which to look where not all can be listed.
            count: At most so many.
            rng: Draws them where there are more.
        """
        taken = self._taken | {key(code) for code in running}
        if self.encoding.everything is None:
            kept = len(self._codes)
            batch = self.batch([code for code in self.encoding.drawn(known, count, rng) if key(code) not in taken])
            self._forget(kept)
            return batch
        free = np.arange(len(self._codes)) < len(self.encoding.everything[0])  # what was learned of beside them is none of the space
        free[[self._where[name] for name in taken if name in self._where]] = False
        rows = np.flatnonzero(free)
        return self._rows(rows if len(rows) <= count else rng.choice(rows, count, replace=False))

    def batch(self, codes: Sequence[Code]) -> Batch:
        """What is known of these configurations."""
        unknown = {name: code for code in codes if (name := key(code)) not in self._where}
        if unknown:
            self._append(list(unknown.values()), self.encoding.rows(list(unknown.values())))
        return self._rows(np.array([self._where[key(code)] for code in codes], dtype=np.int64))

    def _forget(self, kept: int) -> None:
        """Drops what was drawn and will hardly be drawn again."""
        for code in self._codes[kept:]:
            del self._where[key(code)]
        self._codes, self._x, self._risk, self._asked = self._codes[:kept], self._x[:kept], self._risk[:kept], self._asked[:kept]
        self._features = {name: told[:kept] for name, told in self._features.items()}

    def _append(self, codes: Sequence[Code], x: Array) -> None:
        self._where |= {key(code): len(self._codes) + i for i, code in enumerate(codes)}
        self._codes += codes
        self._x = x if not len(self._x) else np.concatenate([self._x, x])
        self._risk = np.append(self._risk, np.zeros(len(codes)))
        self._asked = np.append(self._asked, np.zeros(len(codes), dtype=bool))
        self._features = {name: np.concatenate([told, np.zeros((len(codes), *told.shape[1:]))]) for name, told in self._features.items()}

    def _rows(self, rows: Any) -> Batch:
        if self._knowledge.priors or self._knowledge.risk:
            for row in rows[~self._asked[rows]]:
                self._ask(row)
        features = {name: told[rows] for name, told in self._features.items()}
        return Batch([self._codes[row] for row in rows], self._x[rows], features, self._risk[rows] if self._knowledge.risk else None)

    def _ask(self, row: int) -> None:
        configuration = self._space.decode(self._codes[row])
        self._asked[row] = True
        if self._knowledge.risk:
            self._risk[row] = self._knowledge.risk(configuration)
        if self._knowledge.priors:
            told = self._targets.around(self._targets.predicted(self._knowledge.priors, configuration))
            for name, values in told.items():
                if name not in self._features:
                    self._features[name] = np.zeros((len(self._codes), *values.shape))
                self._features[name][row] = values
