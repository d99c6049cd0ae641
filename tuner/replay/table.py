"""A table of recorded measurements: what each configuration showed, and for how long it was at it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tuner.errors import MemoryStage
from tuner.launch import Configuration, Value
from tuner.replay.values import same

MEASURED = "measured"
MEMORY_STAGES: Mapping[str, MemoryStage] = {"oom_load": "load", "oom_capture": "capture", "oom_run": "run"}
"""Outcomes of configurations for which GPU memory did not suffice."""
LOAD = "load_s"
"""What has a column for each load level beside the metrics: seconds that the level took."""

Levels = npt.NDArray[np.int64]
Column = tuple[str, int]
"""A metric, or `LOAD`, and a load level."""


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration.

    Attributes:
        index: Its place in the table, from 0.
        line: Its line in the file.
        configuration: Its parameters, those that are not given left out.
        outcome: `MEASURED`, one of `MEMORY_STAGES`, or another word for why it is infeasible.
        reason: One line on that; may be empty.
        deploy_s: Seconds until it was ready, or had failed; None where the table does not say.
        warmup_s: Seconds of the warm-up; None where the table does not say.
        gpus: GPUs that it held; None where the table does not say.
    """

    index: int
    line: int
    configuration: Configuration
    outcome: str
    reason: str
    deploy_s: float | None
    warmup_s: float | None
    gpus: int | None


@dataclass(frozen=True)
class Table:
    """A whole table.

    Attributes:
        path: The file.
        parameters: Names of the parameters, in the order of the columns.
        rows: One for each configuration.
        columns: Metrics and durations by load level.
        numbers: Their values, rows by columns; nan where a cell is empty.
        digest: Of the file's content.
    """

    path: Path
    parameters: tuple[str, ...]
    rows: Sequence[Row]
    columns: tuple[Column, ...]
    numbers: npt.NDArray[np.float64]
    digest: str

    @cached_property
    def metrics(self) -> Mapping[str, tuple[int, ...]]:
        """The load levels that each metric was recorded at, in their order."""
        names = dict.fromkeys(name for name, _ in self.columns if name != LOAD)
        return {name: tuple(sorted(level for column, level in self.columns if column == name)) for name in names}

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """All load levels with a metric."""
        return tuple(sorted({level for levels in self.metrics.values() for level in levels}))

    @cached_property
    def constants(self) -> Mapping[str, Value | None]:
        """Parameters that have one value in the whole table; None for one that is never given."""
        first = self.rows[0].configuration
        return {name: first.get(name) for name in self.parameters if len(self._distinct[name]) == 1}

    def values(self, name: str) -> list[Value]:
        """The different values of a parameter, as they are written where they stand first."""
        return [value for value in self._distinct[name].values() if value is not None]

    @cached_property
    def _distinct(self) -> Mapping[str, Mapping[float | str | None, Value | None]]:
        distinct: dict[str, dict[float | str | None, Value | None]] = {name: {} for name in self.parameters}
        for row in self.rows:
            for name, seen in distinct.items():
                value = row.configuration.get(name)
                seen.setdefault(same(value), value)
        return distinct

    @cached_property
    def _by_configuration(self) -> Mapping[tuple[float | str | None, ...], Row]:
        return {self._key(row.configuration): row for row in self.rows}

    def _key(self, configuration: Configuration) -> tuple[float | str | None, ...]:
        return tuple(same(configuration.get(name)) for name in self.parameters)

    def find(self, configuration: Configuration) -> Row | None:
        """The row of a configuration, numbers compared in `values.DIGITS` digits; None where there is none.

        Args:
            configuration: What it leaves out has the one value that stands in the table, or is not given.
        """
        known = {name: value for name, value in self.constants.items() if value is not None}
        return self._by_configuration.get(self._key({**known, **configuration}))

    def value(self, row: Row, name: str, level: int) -> float:
        """What a row shows at a load level; between two recorded levels on the line between them, both axes logarithmic.

        Args:
            row: One of `rows`.
            name: A metric, or `LOAD`.
            level: Concurrent users.

        Returns:
            nan where it was not recorded.
        """
        return float(self.column(name, level)[row.index])

    def column(self, name: str, level: int) -> npt.NDArray[np.float64]:
        """`value` of all rows, in their order."""
        if (name, level) not in self._interpolated:
            self._interpolated[name, level] = self._interpolate(name, level)
        return self._interpolated[name, level]

    @cached_property
    def _interpolated(self) -> dict[Column, npt.NDArray[np.float64]]:
        return {column: self.numbers[:, position] for position, column in enumerate(self.columns)}

    def _interpolate(self, name: str, level: int) -> npt.NDArray[np.float64]:
        neighbours = between((known for column, known in self.columns if column == name), level)
        if neighbours is None:
            return np.full(len(self.rows), math.nan)
        (low, below), (high, above) = ((known, self.numbers[:, self.columns.index((name, known))]) for known in neighbours)
        share = math.log(level / low) / math.log(high / low)
        positive = (below > 0) & (above > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithmic = np.exp((1 - share) * np.log(below) + share * np.log(above))
        return np.where(positive, logarithmic, (1 - share) * below + share * above)  # an error rate may be 0

    def serves(self, row: Row, level: int) -> bool:
        """Whether a row got through a load level; one that ran out of memory under load has no values from there on."""
        return row.outcome == MEASURED or any(math.isfinite(self.value(row, metric, level)) for metric in self.metrics)


def between(known: Iterable[int], level: int) -> tuple[int, int] | None:
    """The nearest of the `known` levels below and above one; None where it lies outside of them."""
    levels = sorted(known)
    below, above = [one for one in levels if one < level], [one for one in levels if one > level]
    return (below[-1], above[0]) if below and above else None
