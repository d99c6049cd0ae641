"""What a study is judged by: objectives and SLOs, each a metric at a load, and what a trial's measurements say about them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import isfinite, nan
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PositiveInt, model_validator

from tuner.benchmark.measurement import RATES
from tuner.benchmark.measurement import Curve as Curve
from tuner.bounds import USERS, Bounded
from tuner.bounds import Metric as Metric
from tuner.explain import nearest, show
from tuner.goodput import Goodput, Limit
from tuner.section import Section

FLOWS = tuple(rate for rate in RATES if rate.endswith("_per_s"))
"""Metrics of which there is more where there is more hardware."""
PLACES = ("min", "max", "best", "goodput")
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Trace:
    """What one trial has shown, and what its numbers are held against.

    Attributes:
        curve: Its measurements so far.
        levels: The load levels of the workload, ascending.
        gpus: GPUs that its deployment held.
        gpu_hour: Price of one of them for an hour, dollars; None where there is none.
        goodput: How its limit is looked for; None where it is not.
    """

    curve: Curve
    levels: tuple[int, ...]
    gpus: int = 0
    gpu_hour: float | None = None
    goodput: Goodput | None = None

    @property
    def limit(self) -> Limit | None:
        """How far it can be loaded; None where that is not looked for."""
        return self.goodput.limit(self.levels, self.curve) if self.goodput is not None else None


def _at(value: Any) -> Any:
    if value in PLACES or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{show(value)} is not allowed; use {', '.join(PLACES)}, or one of workload.levels{nearest(str(value), PLACES)}")


class Wanted(Section):
    """A metric at a load.

    Attributes:
        metric: One of `METRICS`, or `concurrency`.
        at: Users; `min` and `max` stand for the lowest and highest level of the workload, `best` for the one of its levels at which the
            metric is best, `goodput` for the largest load that meets `workload.goodput`.
        per: Divided by the GPUs that a trial holds, or by the dollars that they cost meanwhile.
    """

    metric: Metric
    at: Annotated[PositiveInt | Literal["min", "max", "best", "goodput"], BeforeValidator(_at)] = "max"
    per: Literal["gpu", "dollar"] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Wanted:
        if self.metric == USERS and self.at != "goodput":
            raise ValueError(f"{USERS}@{self.at} is the load itself; as at: goodput it is what the server can bear")
        counted = FLOWS if self.per == "dollar" else (*FLOWS, USERS)
        if self.per is not None and self.metric not in counted:
            raise ValueError(f"per: {self.per} is for {', '.join(counted)}; {self.metric} does not grow with the hardware")
        return self

    @property
    @abstractmethod
    def more(self) -> bool:
        """Whether a higher value is the better one."""

    def level(self, levels: tuple[int, ...]) -> int | None:
        """The level of the workload that is meant; None where the measurements decide: for `best` and `goodput`."""
        if self.at in ("best", "goodput"):
            return None
        return {"min": levels[0], "max": levels[-1]}[self.at] if isinstance(self.at, str) else self.at

    def place(self, levels: tuple[int, ...]) -> str:
        """The metric and where it is taken: `ttft_p99_s@16`, `output_tokens_per_s@best/gpu`, `output_tokens@64/dollar`."""
        metric = self.metric.removesuffix("_per_s") if self.per == "dollar" else self.metric
        return f"{metric}@{self.level(levels) or self.at}{f'/{self.per}' if self.per else ''}"

    def label(self, levels: tuple[int, ...]) -> str:
        """Its name in the study and the dashboard."""
        return self.place(levels)

    def source(self, trace: Trace) -> int | None:
        """The load at which the value is taken, users; None while a level that could decide is missing."""
        level = self.level(trace.levels)
        if level is not None:
            return level if level in trace.curve else None
        if self.at == "best":
            if not all(level in trace.curve for level in trace.levels):
                return None
            shown = {level: trace.curve[level].metric(self.metric) for level in trace.levels}
            finite = [level for level in trace.levels if isfinite(shown[level])]
            return (max if self.more else min)(finite or trace.levels, key=shown.__getitem__)
        limit = trace.limit
        if limit is None or limit.next_level is not None:
            return None
        return limit.users or limit.lowest

    def value(self, trace: Trace) -> float | None:
        """The value that a trial has shown.

        Where not even the lowest load meets `workload.goodput`, nothing is served at all as promised: flows and users are 0, and times are
        those of the lowest load.

        Returns:
            In the metric's unit, or that for each GPU; per dollar as tokens or requests. None while a level that it needs is missing, nan
            where the levels are there and have no value.
        """
        source = self.source(trace)
        if source is None:
            return None
        if self.at == "goodput" and self.metric in (*FLOWS, USERS) and trace.limit is not None and not trace.limit.users:
            return 0.0
        value = float(source) if self.metric == USERS else trace.curve[source].metric(self.metric)
        if self.per is None:
            return value
        if self.per == "gpu":
            return value / trace.gpus if trace.gpus else nan
        dollars_per_hour = trace.gpus * (trace.gpu_hour or 0.0)
        return value * HOUR_S / dollars_per_hour if dollars_per_hour else nan


class Objective(Wanted):
    """What is optimised."""

    direction: Literal["minimize", "maximize"]

    @property
    def more(self) -> bool:
        return self.direction == "maximize"


class Slo(Wanted, Bounded):
    """A bound on a metric; a trial that misses it is measured, but not feasible."""

    @property
    def more(self) -> bool:
        return self.min is not None

    def label(self, levels: tuple[int, ...]) -> str:
        """The constraint's name in the study: `ttft_p99_s@16<=0.5`."""
        return f"{self.place(levels)}{self.bound}"
