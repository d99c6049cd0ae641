"""What earlier studies of the same engine, model and GPUs have measured, as a prior for the next one.

A Gaussian process for each metric tells what is left over of their curves once the analytic prior, if there is one, has been told which
traffic each of them had. So what an earlier study knows of the analytic prior's errors is carried over to another workload and other
levels, the less the farther these are. Every workload has a mean of its own at each level; that of a level which none has measured is not
known, and the sampler learns it anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, log2, nan
from typing import Any, ClassVar

import numpy as np

from tuner.benchmark.measurement import METRICS
from tuner.launch import Configuration, Value
from tuner.parameters import Categorical, Fixed, Float, Int, Ordinal, PowerOfTwo
from tuner.prior.base import Prior
from tuner.prior.records import Earlier, Trial, origin_of
from tuner.search.encoding import Encoding
from tuner.search.gaussian_process import Array, Points, Process
from tuner.search.history import Seen
from tuner.search.tried import Key, key
from tuner.settings import Settings, Workload

FEWEST, MOST = 4, 60
"""Served trials that a prior is made of: fewer say nothing of so many parameters, more make it slow and teach little."""
FORETOLD = frozenset(METRICS) - {"error_rate"}
"""Errors are none at all or an accident."""
STEPS = 25
"""Iterations of the search for hyperparameters."""

Analytic = Callable[[Workload], Prior | None]
"""The prior that needs no measurement, for a workload."""


class EarlierStudies(Prior):
    """Predicts what configurations show from what others have shown in earlier studies. `create` makes one.

    Attributes:
        studies: Names of the studies that it learned from.
        trials: How many of their trials.
    """

    name: ClassVar[str] = "earlier studies"

    def __init__(self, settings: Settings, rows: Sequence[_Row], defaults: Configuration, analytic: Prior | None) -> None:
        self.studies = list(dict.fromkeys(row.study.name for row in rows))
        self.trials = len(rows)
        self._space, self._levels, self._defaults, self._analytic = settings.space, settings.workload.levels, defaults, analytic
        self._encoding = Encoding(settings.space)
        counted = Counter(row.study.origin for row in rows)
        own = origin_of(settings.identity)
        home = own if own in counted else counted.most_common(1)[0][0]
        shown = {(row.study.origin, level) for row in rows for level in row.trial.seen.curve if level in row.study.workload.levels}
        self._index = {place: i for i, place in enumerate(sorted(shown | {(home, level) for level in self._levels}))}
        users = np.log2([level for _, level in self._index])
        self._positions = (users - users.min()) / max(float(np.ptp(users)), 1.0)
        self._asked = np.array([self._index[home, level] for level in self._levels])
        columns = [np.array([name in row.apart for row in rows], dtype=float) for name in sorted({n for row in rows for n in row.apart})]
        columns += [np.array([row.study.origin == origin for row in rows], dtype=float) for origin in sorted(counted) if origin != home]
        varying = [column for column in columns if np.ptp(column)]
        self._near = np.zeros(len(varying))  # the new study is set apart from itself by nothing
        x = np.column_stack([self._encoding.rows([row.code for row in rows]), *varying])
        self._models: dict[str, tuple[Process, Array]] = {}
        for metric in sorted({want.metric for want in (*settings.objectives, *settings.constraints)} & FORETOLD):
            self._fit(metric, rows, x, settings.noise)
        self._told: dict[Key, dict[int, dict[str, float]]] = {}

    @classmethod
    def create(
        cls, settings: Settings, earlier: Sequence[Earlier], defaults: Configuration, analytic: Analytic = lambda workload: None
    ) -> EarlierStudies | None:
        """The prior that earlier studies make; None where they have too little in common with this one.

        A parameter that an earlier study did not set had its default there. One that it searched in another range stands outside the unit
        cube, which the models allow; a trial with a choice that is none here is left out. Another workload, and another value of what is
        not searched here, set a trial apart by a dimension of their own.

        Args:
            settings: The experiment.
            earlier: What `read` found.
            defaults: `Engine.defaults`.
            analytic: What is to be corrected by what was measured.
        """
        plain = {name: value for name, value in defaults.items() if name not in settings.engine.args}
        rows = [row for study in earlier for trial in study.trials if trial.seen.curve and (row := _row(settings, plain, study, trial))]
        here = origin_of(settings.identity)
        rows = sorted(rows, key=lambda row: (row.study.origin != here, len(row.apart), -len(row.trial.seen.curve)))[:MOST]
        if len(rows) < FEWEST:
            return None
        priors = {study.name: analytic(study.workload) for study in {row.study.name: row.study for row in rows}.values()}
        now = analytic(settings.workload)
        own = {**plain, **_declared(settings), **settings.engine.args}
        if now is None or None in priors.values():
            return cls(settings, rows, own, None)
        return cls(settings, [row.explained(priors[row.study.name]) for row in rows], own, now)

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        name = key(configuration)
        if name not in self._told:
            self._told[name] = self._predict(configuration)
        return self._told[name].get(level)

    def _fit(self, metric: str, rows: Sequence[_Row], x: Array, noise: float) -> None:
        found = [
            (i, place, log(value), shown.spread.get(metric, 0.0), row.told(level, metric))
            for i, row in enumerate(rows)
            for level, shown in row.trial.seen.curve.items()
            if (place := self._index.get((row.study.origin, level))) is not None and (value := shown.metric(metric)) > 0
        ]
        if not found:
            return
        of, at, logs, spread, told = (np.array(column) for column in zip(*found, strict=True))
        known = np.isfinite(told)
        whole = told[known].mean() if known.any() else 0.0
        means = np.array([told[known & (at == i)].mean() if np.any(known & (at == i)) else whole for i in self._index.values()])
        features = np.nan_to_num(told - means[at])[:, None] if known.any() else np.zeros((len(of), 0))
        model = Process(self._positions, noise)
        model.fit(Points(x[of], at, features), logs, spread, STEPS)
        self._models[metric] = model, means if known.any() else np.zeros(0)

    def _predict(self, configuration: Configuration) -> dict[int, dict[str, float]]:
        x = np.append(self._encoding.rows([self._space.encode({**self._defaults, **configuration})])[0], self._near)
        analytic = [self._analytic.predict(configuration, level) or {} for level in self._levels] if self._analytic else []
        predicted: dict[int, dict[str, float]] = {level: {} for level in self._levels}
        for metric, (model, means) in self._models.items():
            features = np.zeros((len(self._levels), 0))
            if len(means):
                told = np.array([_log(one.get(metric)) for one in analytic])
                features = np.nan_to_num(told - means[self._asked])[:, None]
            logs, _ = model.predict(Points(np.tile(x, (len(self._levels), 1)), self._asked, features))
            for level, value in zip(self._levels, logs, strict=True):
                predicted[level][metric] = float(np.exp(value))
        return predicted


def known(settings: Settings, earlier: Sequence[Earlier], defaults: Configuration) -> list[Seen]:
    """Trials of studies that are `alike`, as if this study had made them: for the models, not for its front.

    Args:
        settings: The experiment.
        earlier: What `read` found.
        defaults: `Engine.defaults`.

    Returns:
        With `parameters` as the new study encodes them. Without those that had another value of what is not searched now, or values that
        are none of the space.
    """
    plain = {name: value for name, value in defaults.items() if name not in settings.engine.args}
    rows = [_row(settings, plain, study, trial) for study in earlier if study.alike for trial in study.trials]
    return [replace(row.trial.seen, parameters=row.code) for row in rows if row is not None and row.inside and not row.apart][-MOST:]


@dataclass(frozen=True, slots=True)
class _Row:
    """A served trial as the models take it.

    Attributes:
        study: Whose it is.
        trial: The trial.
        full: What it was launched with.
        code: The same as encoded parameters of the new study.
        inside: Whether the new study could suggest it.
        apart: What is not searched now and was another value then.
        analytic: What the analytic prior says of it, by level.
    """

    study: Earlier
    trial: Trial
    full: Configuration
    code: Mapping[str, Value]
    inside: bool
    apart: frozenset[str]
    analytic: Mapping[int, Mapping[str, float]]

    def explained(self, prior: Prior | None) -> _Row:
        assert prior is not None
        return replace(self, analytic={level: prior.predict(self.full, level) or {} for level in self.trial.seen.curve})

    def told(self, level: int, metric: str) -> float:
        """Logarithm of what the analytic prior says; nan where it says nothing."""
        return _log(self.analytic.get(level, {}).get(metric))


def _row(settings: Settings, plain: Configuration, study: Earlier, trial: Trial) -> _Row | None:
    """A trial in terms of the new study; None where it cannot be told what it was, or it was nothing that can be encoded."""
    parameters = settings.space.parameters
    theirs = {name: default for name, dumped in study.identity["space"].items() if (default := _default(dumped)) is not None}
    set_then = {**study.args, **trial.seen.configuration}
    full = {
        **{n: v for n, v in trial.effective.items() if n in settings.space.searched},
        **plain,
        **_declared(settings),
        **theirs,
        **set_then,
    }
    active: dict[str, Value] = {}
    code: dict[str, Value] = {}
    moved: dict[str, Value] = {}
    for name, parameter in parameters.items():
        if not settings.space.active(name, active):
            continue
        if isinstance(parameter, Fixed):
            active[name] = parameter.value
            continue
        place = _place(parameter, full.get(name))
        if place is None:
            return None
        active[name] = full[name]
        code[parameter.code_name(name)] = place
        moved[parameter.code_name(name)] = parameter.encode(full[name])
    set_now = {**settings.engine.args, **settings.space.fixed}
    fixed = (set_now.keys() | set_then.keys()) - set(settings.space.searched)
    apart = frozenset(n for n in fixed if set_then.get(n, full.get(n)) != set_now.get(n, plain.get(n)))
    return _Row(study, trial, set_then, code, key(moved) == key(code), apart, {})


def _declared(settings: Settings) -> dict[str, Value]:
    return {name: parameter.default for name, parameter in settings.space.parameters.items() if parameter.default is not None}


def _place(parameter: Float | Int | PowerOfTwo | Ordinal | Categorical, value: Value | None) -> Value | None:
    """A value as its parameter encodes it, but not moved into its range; None for what is no such value."""
    if isinstance(parameter, Ordinal | Categorical):
        return parameter.encode(value) if value in parameter.choices else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not isinstance(parameter, PowerOfTwo):
        return None if parameter.log and value <= 0 else float(value)
    return log2(value) if value > 0 else None


def _log(value: float | None) -> float:
    return log(value) if value else nan


def _default(dumped: Any) -> Value | None:
    """The default that a dumped parameter declares; the constraints of the space stand among them."""
    return dumped.get("default") if isinstance(dumped, Mapping) else None
