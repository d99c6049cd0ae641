"""Where no trial meets the SLOs: the trial nearest to them, the bound that binds, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from optuna.trial import FrozenTrial

from tuner.confirm.statistics import Array
from tuner.confirm.values import margins
from tuner.evaluation import trace_of
from tuner.launch import Value
from tuner.objectives import Trace
from tuner.report.front import configuration
from tuner.report.pages import curve_of
from tuner.settings import Settings
from tuner.study import Ledger

FEWEST = 5
"""Trials below which an association with a parameter is not looked for: of 4, no order is significant (2 of 24 are perfect)."""
EXACT = 8
"""Trials up to which all their orders are counted: the distribution that is used for more calls too much significant among few."""
ERROR = 0.05
"""Of such an association, shared by all parameters (Bonferroni)."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A parameter that goes with the binding bound.

    Attributes:
        name: Of the parameter.
        best: Its value with the smallest mean violation.
        correlation: Spearman's rank correlation of its values with the violation.
        trials: That it rests on.
        at_edge: Whether `best` is the lowest or highest value that the space has.
    """

    name: str
    best: Value
    correlation: float
    trials: int
    at_edge: bool


@dataclass(frozen=True, slots=True)
class Nearest:
    """The trial with the smallest greatest violation.

    Attributes:
        trial: Its number.
        violations: By label of the SLOs that it is known to miss, the share of the bound by which it does.
        binding: Label of the SLO that it misses most.
        needed: The bound that this trial would meet; None where that is not a number.
        helper: What goes with a smaller violation of the binding SLO; None where nothing does significantly.
        stopped: Whether it was stopped early.
        unknown: Labels of the SLOs of which it has not shown whether it meets them; empty unless it was stopped.
    """

    trial: int
    violations: dict[str, float]
    binding: str
    needed: float | None
    helper: Helper | None
    stopped: bool = False
    unknown: tuple[str, ...] = ()


def nearest(ledger: Ledger) -> Nearest | None:
    """The nearest trial of a study, also of those stopped early; None where a trial meets all SLOs, or none has shown what it misses."""
    settings, labels = ledger.settings, ledger.settings.constraint_labels
    if not labels or ledger.front:
        return None
    trials = [trial for trial in ledger.finished if trial.user_attrs.get("outcome") in ("measured", "pruned")]
    violation = _violations(settings, trials)
    known = np.nan_to_num(violation, nan=-np.inf)
    rated = [i for i, trial in enumerate(trials) if known[i].max() > 0 and not _stopped_unseen(settings, trial, violation[i])]
    if not rated:
        return None
    best = min(rated, key=lambda i: (known[i].max(), np.isnan(violation[i]).sum()))
    worst = int(known[best].argmax())
    slo = settings.constraints[worst] if worst < len(settings.constraints) else None
    return Nearest(
        trials[best].number,
        {label: float(by) for label, by in zip(labels, known[best], strict=True) if by > 0},
        labels[worst],
        None if slo is None else slo.value(_trace(settings, trials[best])),
        _helper(ledger, trials, violation[:, worst]),
        trials[best].user_attrs["outcome"] == "pruned",
        tuple(label for label, by in zip(labels, violation[best], strict=True) if np.isnan(by)),
    )


def _stopped_unseen(settings: Settings, trial: FrozenTrial, violation: Array) -> bool:
    """Whether a trial was stopped for an SLO that it had not shown, with which its reason begins: how far it misses that is not known."""
    unseen = [slo.place(settings.workload.levels) for slo, by in zip(settings.constraints, violation, strict=False) if np.isnan(by)]
    return any(trial.user_attrs.get("reason", "").startswith(f"{place} ") for place in unseen)


def _helper(ledger: Ledger, trials: Sequence[FrozenTrial], violation: Array) -> Helper | None:
    """The parameter most associated with a violation, over all trials that show it, those stopped early too."""
    known = [i for i, by in enumerate(violation) if np.isfinite(by)]
    helpers = [_association(ledger, name, [trials[i] for i in known], violation[known]) for name in ledger.space.searched]
    significant = [(p, helper) for found in helpers if found is not None for p, helper in [found] if p < ERROR / len(helpers)]
    return min(significant, key=lambda item: item[0])[1] if significant else None


def _violations(settings: Settings, trials: Sequence[FrozenTrial]) -> Array:
    """Trials x SLOs: by which share of its bound each is missed, not clipped as the study keeps it; nan where it was not measured."""
    violations = -margins(settings, trials)
    for i, trial in enumerate(trials):
        trace = _trace(settings, trial)
        for j, slo in enumerate(settings.constraints):
            if (value := slo.value(trace)) is not None:
                violations[i, j] = value / slo.max - 1 if slo.max is not None else 1 - value / (slo.min or 1.0)
    return violations


def _trace(settings: Settings, trial: FrozenTrial) -> Trace:
    return trace_of(settings, curve_of(trial), trial.user_attrs.get("gpus", 0))


def _association(ledger: Ledger, name: str, trials: list[FrozenTrial], violation: Array) -> tuple[float, Helper] | None:
    """The rank correlation of a parameter with a violation and its p; categories stand in the order of their mean violation."""
    seen = [(configuration(trial)[name], by) for trial, by in zip(trials, violation, strict=True) if name in configuration(trial)]
    values = list(dict.fromkeys(value for value, _ in seen))
    if len(seen) < FEWEST or len(values) < 2 or len({by for _, by in seen}) < 2:
        return None
    means = {value: float(np.mean([by for other, by in seen if other == value])) for value in values}
    categories = any(isinstance(value, str) for value in values)
    if categories and len(values) > 2:
        # ordered by what they are to explain: only one against the rest can be tested
        first = min(means, key=means.__getitem__)
        codes = [float(value == first) for value, _ in seen]
    else:
        order = {value: float(i if categories else value) for i, value in enumerate(values)}
        codes = [order[value] for value, _ in seen]
    correlation, chance = rank_correlation(codes, [by for _, by in seen])
    best = min(means, key=means.__getitem__)
    ordered = not categories and not isinstance(best, bool)
    at_edge = ordered and best in (min(values), max(values))
    picked = len(values) if categories and len(values) > 2 else 1  # the best of so many chances to be the first
    return chance * picked, Helper(name, best, correlation, len(seen), at_edge)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p, for few pairs the exact share of their orders that correlate as much."""
    from scipy.stats import rankdata, spearmanr

    found = spearmanr(first, second)
    if len(first) > EXACT:
        return float(found.statistic), float(found.pvalue)
    ranks, others = rankdata(first) - (len(first) + 1) / 2, rankdata(second) - (len(first) + 1) / 2
    products = np.abs(np.array(list(permutations(ranks))) @ others)
    return float(found.statistic), float((products >= abs(ranks @ others) - 1e-9).mean())
