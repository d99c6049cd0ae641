"""The pruner of a study: what its trials have shown, applied to the one that is running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, inf

import numpy as np

from tuner.benchmark.measurement import TIMINGS
from tuner.goodput import GoodputCourse
from tuner.objectives import Curve, Slo, Trace, Wanted
from tuner.search.history import Seen
from tuner.search.pruner_order import Order
from tuner.search.pruner_peers import MOST, Belief, Peers, logarithm
from tuner.search.pruner_rules import Beliefs, Goals
from tuner.settings import Settings, Workload


class Pruner:
    """What one study has learnt about which trials are not worth going on with.

    Args:
        settings: Of the study.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._levels = settings.workload.levels
        self._objectives = settings.objectives
        self._constraints = (*settings.constraints, *_promises(settings.workload))
        wants: tuple[Wanted, ...] = (*self._objectives, *self._constraints)
        self._goals = Goals(self._objectives, self._constraints)
        self._peers = Peers(wants, self._levels)
        meant = [want.level(self._levels) for want in wants]
        self.order = Order(settings.pruner.order, self._levels, self._levels if None in meant else {level for level in meant if level})
        self._known = 0
        self._front = np.array([], dtype=int)
        self._nearest, self._missed_by = 0, inf

    def learn(self, seen: Sequence[Seen]) -> None:
        """Takes over the trials that have ended since the last call.

        Args:
            seen: All trials of the study that were deployed, in the order of their ends or numbers.
        """
        new = seen[self._known :]
        for left, trial in zip(range(len(new), 0, -1), new, strict=True):
            if not trial.curve:
                continue
            seconds = {level: shown.duration_s for level, shown in trial.curve.items()}
            # of a long study that goes on, the last trials tell enough: to judge all would take seconds at its start
            self.order.learn(seconds, None if trial.default or left > MOST else self._ends(trial))
            self._peers.add(trial.number, self.trace(trial.curve, trial.gpus))
            if trial.outcome == "measured":
                candidates = np.append(self._front, len(self._peers.numbers) - 1)
                self._front = candidates[self._goals.front(self._peers.values[candidates])]
                if (missed_by := float(self._goals.violation(self._peers.values[-1:])[0])) < self._missed_by:
                    self._nearest, self._missed_by = trial.number, missed_by
        self._known = len(seen)

    def _ends(self, trial: Seen) -> set[int]:
        """The levels each of which alone would have shown that a trial is hopeless, so that a level is known that was always run last."""
        if self._settings.pruner.order != "auto":
            return set()
        noise = self._settings.noise
        return {level for level, shown in trial.curve.items() if self.hopeless(self.trace({level: shown}, trial.gpus), noise)}

    def trace(self, curve: Curve, gpus: int) -> Trace:
        """A trial as objectives and SLOs see it."""
        return Trace(curve, self._levels, gpus, self._settings.cost.gpu_hour, self._settings.workload.goodput)

    def course(self, gpus: int, noise: float) -> PrunedCourse:
        """The course of the next trial. Arguments: see `tuner.search.pruning.course_of`."""
        return PrunedCourse(self, self._settings.workload, gpus, noise)

    def settled(self, trace: Trace) -> bool:
        """Whether a trial has shown all that objectives and SLOs ask for."""
        return all(want.value(trace) is not None for want in (*self._objectives, *self._constraints))

    def contends(self, trace: Trace) -> bool:
        """Whether a trial that is settled would be on the front, taken as measured; with the pruner `slo`, whether it meets its SLOs."""
        values = np.array([[logarithm(want, trace) for want in (*self._objectives, *self._constraints)]])
        if self._settings.pruner.name == "front":
            values = np.vstack([self._peers.values[self._front], values])
        return len(values) - 1 in self._goals.front(values)

    def hopeless(self, trace: Trace, noise: float) -> str | None:
        """Why a trial cannot enter the feasible front any more, in one line; None where it may.

        While no trial has met the SLOs, what comes nearer to them than all before it may: it is the best that there is to be measured.
        """
        beliefs = self._peers.beliefs(trace, noise)
        error = 1 - self._settings.pruner.confidence
        missed = self._goals.meets(beliefs, self._eased_by)
        if len(missed) and missed.min() < error / len(missed):
            return self._out_of_reach(beliefs, int(missed.argmin()), error)
        if self._settings.pruner.name == "front" and len(self._front):
            values, spreads = self._peers.values[self._front], self._peers.spreads[self._front]
            open_ = self._goals.undominated(beliefs, values, np.maximum(spreads, noise))
            if open_.min() < error / len(open_):
                return self._dominated(beliefs, int(self._front[open_.argmin()]), error)
        return None

    @property
    def _eased_by(self) -> float:
        """Share of the bounds by which the nearest of the measured trials misses an SLO; 0 once one has met them all."""
        return max(0.0, self._missed_by)

    def _out_of_reach(self, beliefs: Beliefs, i: int, error: float) -> str:
        slo, bound = self._constraints[i], self._constraints[i].max or self._constraints[i].min or 1.0
        belief = _clearest(slo, beliefs[len(self._objectives) + i], float(self._goals.eased(self._eased_by)[i]))
        gap = f"{_amount(slo, abs(exp(belief.mean) - bound))} {'below' if slo.more else 'above'} the SLO"
        hope = f"comes nearer to the SLOs than trial #{self._nearest}" if self._eased_by else "meets it"
        return f"{self._says(slo, belief)}, {gap}; it {hope} with a probability below {100 * error:.2g} %"

    def _dominated(self, beliefs: Beliefs, row: int, error: float) -> str:
        against = [
            f"{self._says(objective, _clearest(objective, ways, value))} against {_amount(objective, exp(value))}"
            for objective, ways, value in zip(self._objectives, beliefs, self._peers.values[row], strict=False)
        ]
        who, sure = f"dominated by trial #{self._peers.numbers[row]}", f"with a probability above {100 * (1 - error):.3g} %"
        return f"{who} {sure}: {', '.join(against)}"

    def _says(self, want: Wanted, belief: Belief) -> str:
        bounded = "is at most about" if want.more else "is at least about"
        verb = {"measured": "is", "expected": "is expected to be about", "bounded": bounded}[belief.source]
        return f"{want.place(self._levels)} {verb} {_amount(want, exp(belief.mean))}"


class PrunedCourse:
    """The course of one trial. See `tuner.course.Course`.

    Args:
        pruner: Of its study.
        workload: Its traffic.
        gpus: GPUs that its deployment holds.
        noise: Relative standard deviation between runs of one configuration.
    """

    def __init__(self, pruner: Pruner, workload: Workload, gpus: int, noise: float) -> None:
        self._pruner = pruner
        self._search = GoodputCourse(workload.goodput, workload.levels) if workload.goodput is not None else None
        self._gpus = gpus
        self._noise = noise

    def next_level(self, measured: Curve) -> int | None:
        trace = self._trace(measured)
        if self._pruner.settled(trace) and not self._pruner.contends(trace):
            return None
        level = self._pruner.order.next_level(measured)
        return self._search.next_level(measured) if level is None and self._search is not None else level

    def hopeless(self, measured: Curve) -> str | None:
        trace = self._trace(measured)
        return None if self._pruner.settled(trace) else self._pruner.hopeless(trace, self._noise)

    def _trace(self, measured: Curve) -> Trace:
        return self._pruner.trace(measured, self._gpus)


def _promises(workload: Workload) -> Iterator[Slo]:
    """The bounds of goodput at the lowest load that counts: a trial that misses one of them there is not feasible."""
    if workload.goodput is not None:
        for bound in workload.goodput.bounds:
            yield Slo(metric=bound.metric, at=workload.goodput.low or workload.levels[0], min=bound.min, max=bound.max)


def _clearest(want: Wanted, ways: Sequence[Belief], against: float) -> Belief:
    """The way to see a want in which it looks worst beside the logarithm `against`."""
    return max(ways, key=lambda way: (against - way.mean if want.more else way.mean - against) / way.sd)


def _amount(want: Wanted, value: float) -> str:
    return f"{value:.3g}{' s' if want.metric.startswith(TIMINGS) else ''}"
