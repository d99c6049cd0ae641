"""What a table really holds: which configurations are feasible, which are the best, and what share of that a set of them has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuner.benchmark.measurement import Curve, Measurement
from tuner.course import Course, EveryLevel
from tuner.errors import ConfigError, Infeasible
from tuner.evaluation import evaluate
from tuner.goodput import GoodputCourse
from tuner.replay.engine import Replay
from tuner.replay.measuring import measurement
from tuner.replay.table import MEASURED, Row, Table
from tuner.replay.values import same
from tuner.search.hypervolume import front_of, volume
from tuner.settings import Settings

MARGIN = 0.1
"""The reference point lies this share of the front's range beyond its worst values, so that the ends of the front count too; and no less
than this share of those values: where the front is narrower than the noise, what comes close to it would count for nothing."""

Vectors = npt.NDArray[np.float64]
"""Values of the objectives, configurations by objectives; all are minimised, those to be maximised have changed their sign."""


@dataclass(frozen=True)
class Truth:
    """The table without noise.

    Attributes:
        vectors: Of all rows; nan where an objective was not recorded.
        feasible: For each row whether it was measured, meets all constraints and can be reached in the space.
        front: The best of the feasible ones.
        reference: What they are measured up to.
    """

    vectors: Vectors
    feasible: npt.NDArray[np.bool_]
    front: Vectors
    reference: Vectors

    def share(self, rows: Sequence[int]) -> float:
        """The share of the true front's hypervolume that the feasible ones of some rows dominate, 0 to 1.

        With one objective this is how far the best of them has come from the reference to the best of all.
        """
        chosen = [row for row in rows if self.feasible[row]]
        return volume(self.vectors[chosen], self.reference) / volume(self.front, self.reference) if chosen else 0.0


def truth_of(settings: Settings, engine: Replay, reference: Sequence[float] | None = None) -> Truth:
    """The truth of a case.

    Args:
        settings: Any experiment of it.
        engine: Its engine.
        reference: Values of the objectives in their own units, in their order; by default `MARGIN` beyond the worst of the front, or with
            one objective the worst feasible value.

    Raises:
        ConfigError: nothing is feasible, or the reference does not fit.
    """
    table = engine.table
    signs = np.array([1.0 if objective.direction == "minimize" else -1.0 for objective in settings.objectives])
    vectors = np.full((len(table.rows), len(signs)), math.nan)
    feasible = np.zeros(len(table.rows), dtype=bool)
    for row in table.rows:
        if row.outcome == MEASURED and _reachable(settings, engine, row):
            evaluation = evaluate(settings, _curve(settings, table, row), engine.launch(row.configuration, "").gpus)
            vectors[row.index] = signs * [math.nan if value is None else value for value in evaluation.values]
            known = len(evaluation.violations) == len(settings.constraint_labels)
            feasible[row.index] = known and not evaluation.missed and bool(np.all(np.isfinite(vectors[row.index])))
    if not feasible.any():
        raise ConfigError(f"{table.path}: no configuration in the space was measured and meets all constraints; loosen them")
    front = front_of(vectors[feasible])
    if reference is None:
        point = vectors[feasible].max(axis=0) if len(signs) == 1 else _beyond(front)
    else:
        if len(reference) != len(signs):
            raise ConfigError(f"--reference: {len(reference)} values for {len(signs)} objectives; give one for each, in their order")
        point = signs * np.array(reference)
    if not volume(front, point):
        raise ConfigError("--reference: nothing on the true front is better than this; give values that are worse than the front's")
    return Truth(vectors, feasible, front, point)


def _curve(settings: Settings, table: Table, row: Row) -> Curve:
    """All that a trial of the row would measure, without noise."""
    workload = settings.workload
    curve: dict[int, Measurement] = {}
    course: Course = EveryLevel(workload.levels) if workload.goodput is None else GoodputCourse(workload.goodput, workload.levels)
    while (level := course.next_level(curve)) is not None:
        curve[level] = measurement(table, row, level, workload.requests(level), 0.0)
    return curve


def _beyond(front: Vectors) -> Vectors:
    worst = front.max(axis=0)
    moved: Vectors = worst + MARGIN * np.maximum(worst - front.min(axis=0), np.abs(worst))
    return moved


def _reachable(settings: Settings, engine: Replay, row: Row) -> bool:
    """Whether a trial of the space can have this row."""
    space, values = settings.space, {}
    for name, parameter in space.parameters.items():
        recorded = row.configuration.get(name)
        if not space.active(name, values):
            if recorded is not None and name not in engine.table.constants:
                return False
            continue
        if recorded is None:
            return False
        try:
            value = parameter.decode(parameter.encode(recorded))
        except (TypeError, ValueError):
            return False
        if same(value) != same(recorded):
            return False
        values[name] = value
    if space.violated(values) is not None:
        return False
    try:
        return engine.row(values) is row
    except Infeasible:
        return False
