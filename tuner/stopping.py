"""When a study has had enough before all its trials are used up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner.benchmark.measurement import Measurement
from tuner.evaluation import trace_of
from tuner.settings import Settings

HOUR_S = 3600.0
PAID = ("deploy", "warm-up", "load")
"""Stages in which a trial holds its GPUs; it has none yet while it waits for a place."""
BEYOND = 2.0
"""A better value counts as better from so many times the noise of one measurement on."""


class Ended(Protocol):
    """A trial that has ended, as the study keeps it."""

    @property
    def number(self) -> int: ...

    @property
    def values(self) -> Sequence[float] | None: ...

    @property
    def user_attrs(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Spent:
    """What a study has cost and brought.

    Attributes:
        trials: That have ended.
        wall_s: Seconds since this run began.
        gpu_hours: That all trials of the study held GPUs for, those that failed too.
        since_improvement: Trials since the feasible front last became better beyond noise; 0 while there is none.
        reached: Number of the first trial that meets all of `stop.target`; None while none does.
    """

    trials: int
    wall_s: float
    gpu_hours: float
    since_improvement: int
    reached: int | None

    @classmethod
    def of(cls, settings: Settings, ended: Sequence[Ended], paid: Iterable[Ended], noise: float, wall_s: float) -> Spent:
        """Adds up.

        Args:
            settings: Of the study.
            ended: Its trials that count, in their order.
            paid: All of its trials that were deployed, however they ended.
            noise: Relative standard deviation between runs of one configuration.
            wall_s: See the attributes.
        """
        feasible = [trial.values if trial.user_attrs.get("feasible") else None for trial in ended]
        signs = [1 if objective.direction == "maximize" else -1 for objective in settings.objectives]
        reached = next((trial.number for trial in ended if _meets_target(settings, trial)), None)
        return cls(len(ended), wall_s, gpu_hours(paid), since_improvement(feasible, signs, BEYOND * noise), reached)


def reason_to_stop(settings: Settings, spent: Spent) -> str | None:
    """The first condition of `stop` that holds, in one line; None where the study goes on."""
    stop, trials = settings.stop, f"{spent.trials} trial{'s' if spent.trials != 1 else ''}"
    if stop.target and spent.reached is not None:
        bounds = " and ".join(bound.label(settings.workload.levels) for bound in stop.target)
        return f"stop.target is reached: trial {spent.reached} meets {bounds}"
    if stop.wall_time_h is not None and spent.wall_s >= stop.wall_time_h * HOUR_S:
        return f"stop.wall_time_h={stop.wall_time_h:g} is reached: {spent.wall_s / HOUR_S:.3g} hours, {trials} in the study"
    if stop.gpu_hours is not None and spent.gpu_hours >= stop.gpu_hours:
        return f"stop.gpu_hours={stop.gpu_hours:g} is reached: {spent.gpu_hours:.3g} GPU-hours in {trials}"
    if stop.no_improvement is not None and spent.since_improvement >= stop.no_improvement:
        return f"stop.no_improvement={stop.no_improvement} is reached: no better front in the last {spent.since_improvement} trials"
    return None


def gpu_hours(trials: Iterable[Ended]) -> float:
    """GPU-hours that trials held GPUs for, from what they keep: `gpus` and `durations_s`."""
    kept = [trial.user_attrs for trial in trials]
    held_s = (facts.get("gpus", 0) * sum(facts.get("durations_s", {}).get(stage, 0.0) for stage in PAID) for facts in kept)
    return float(sum(held_s)) / HOUR_S


def since_improvement(values: Sequence[Sequence[float] | None], signs: Sequence[int], margin: float) -> int:
    """Trials since the front last became better.

    A trial makes it better when no earlier one is as good within the margin in every objective (epsilon dominance: Laumanns et al.,
    Combining convergence and diversity in evolutionary multiobjective optimization, 2002): then the front's hypervolume has grown by more
    than noise. Compared is with those only that did make it better, so that many small steps add up to one.

    Args:
        values: Of the trials in their order; None for one that is not feasible or has none.
        signs: 1 for an objective to be maximised, -1 for one to be minimised.
        margin: Relative.

    Returns:
        0 while no trial is feasible.
    """
    better: list[Sequence[float]] = []
    last = len(values)
    for index, found in enumerate(values):
        if found is not None and not any(_as_good(other, found, signs, margin) for other in better):
            better.append(found)
            last = index + 1
    return len(values) - last


def _as_good(other: Sequence[float], found: Sequence[float], signs: Sequence[int], margin: float) -> bool:
    return all(sign * (a - b) >= -margin * abs(b) for a, b, sign in zip(other, found, signs, strict=True))


def _meets_target(settings: Settings, trial: Ended) -> bool:
    facts = trial.user_attrs
    if not settings.stop.target or not facts.get("feasible"):
        return False
    curve = {int(level): Measurement.from_dict(shown) for level, shown in facts.get("measurements", {}).items()}
    trace = trace_of(settings, curve, facts.get("gpus", 0))
    return all((value := bound.value(trace)) is not None and bound.violation(value) <= 0 for bound in settings.stop.target)
