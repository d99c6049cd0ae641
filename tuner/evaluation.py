"""What a trial's measurements are worth under the settings of its study: the one place where values, SLOs and doubts come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from tuner.benchmark.measurement import TIMINGS
from tuner.objectives import Curve, Trace, Wanted
from tuner.settings import Settings


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A trial, evaluated.

    Attributes:
        values: Of the objectives, in their order; None while a level is missing, not finite where the levels are there and have no value.
        violations: By the label of a constraint, <= 0 where it is met; without those of which nothing is known.
        unknown: Labels of objectives and constraints whose levels were measured and that have no value.
        doubts: Why values may not be what they seem, a line for each.
    """

    values: tuple[float | None, ...]
    violations: Mapping[str, float]
    unknown: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def missed(self) -> list[str]:
        """Labels of the constraints that are missed."""
        return [label for label, violation in self.violations.items() if violation > 0]


def trace_of(settings: Settings, curve: Curve, gpus: int) -> Trace:
    """A trial's measurements as objectives and bounds take them."""
    return Trace(curve, settings.workload.levels, gpus, settings.cost.gpu_hour, settings.workload.goodput)


def evaluate(settings: Settings, curve: Curve, gpus: int) -> Evaluation:
    """Evaluates a trial, whole or as far as it has come.

    Args:
        settings: Of its study.
        curve: What it has shown.
        gpus: GPUs that its deployment held.
    """
    trace, levels = trace_of(settings, curve, gpus), settings.workload.levels
    values = tuple(objective.value(trace) for objective in settings.objectives)
    bounded = {slo: slo.value(trace) for slo in settings.constraints}
    violations = {slo.label(levels): slo.violation(value) for slo, value in bounded.items() if value is not None and isfinite(value)}
    if (limit := trace.limit) is not None and curve and (limit.users or limit.next_level is None):
        violations[settings.goodput_label] = min(limit.violation, 0.0) if limit.users else limit.violation
    named = [*zip(settings.objectives, values, strict=True), *bounded.items()]
    unknown = tuple(want.label(levels) for want, value in named if value is not None and not isfinite(value))
    recorded = settings.engine.name == "replay"
    doubts = dict.fromkeys(doubt for want, _ in named for doubt in _doubts(want, trace, recorded))
    return Evaluation(values, violations, unknown, tuple(doubts))


def _doubts(want: Wanted, trace: Trace, recorded: bool) -> Iterator[str]:
    """Doubts about one value. A recorded table gives its percentiles without their requests, and has no loads beyond its own."""
    level = want.source(trace)
    if level is None:
        return
    place, shown = want.place(trace.levels), trace.curve[level]
    if shown.client_bound:
        yield f"{place}: client-bound, at {level} users the load generator set the pace and not the server"
    if shown.cache_reuse:
        yield f"{place}: at {level} users the prompt cache answered {shown.cache_reuse:.0%} of the prompts beyond what they share"
    if not recorded and want.metric.startswith(TIMINGS) and shown.unresolved(want.metric):
        # without their number, which differs from trial to trial where a slow first wave is left out: one doubt is enough
        yield f"{place}: too few requests for this percentile, it is the slowest of them; raise workload.min_requests"
    if want.at != "goodput" or (limit := trace.limit) is None:
        return
    if limit.at_least:
        advice = "" if recorded else "; raise workload.goodput.high"
        yield f"{place}: the bounds hold at all loads that were tried, so it is at least this{advice}"
    elif any(shown.client_bound for users, shown in trace.curve.items() if users > limit.users):
        yield f"{place}: client-bound above {limit.users} users, where the load generator may have missed the bounds and not the server"
