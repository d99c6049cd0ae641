"""Whether the machine has changed while the study ran: the defaults are measured again now and then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from tuner.confirm.companion import ask_again, course, prior, settled
from tuner.confirm.statistics import Array, Variance, successive_variance, t_quantile
from tuner.confirm.values import gains
from tuner.report import text
from tuner.report.pages import Pages
from tuner.runner import Patience, run_trial
from tuner.study import Ledger
from tuner.telemetry.progress import Progress
from tuner.trial import Rig

DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Change:
    """A significant change of the defaults in one objective.

    Attributes:
        objective: Index of the objective.
        log_gain: Difference of the logarithms, positive where the machine has become better.
        low: Lower end of its interval.
        high: Upper end of its interval.
        hours: Time over which it came about.
    """

    objective: int
    log_gain: float
    low: float
    high: float
    hours: float


def default_series(ledger: Ledger, companion: Ledger | None) -> list[FrozenTrial]:
    """The measured trials of the defaults during the search, in their order: that of the study, and those of the drift checks."""
    repeats = [trial for trial in settled(companion, purpose=DRIFT) if trial.values is not None]
    return [*([ledger.default] if ledger.default else []), *repeats]


def drift_due(ledger: Ledger, companion: Ledger) -> bool:
    """Whether the defaults are to be measured again before the next trial.

    Not after the last trial, where the confirmation measures them anyway.

    Args:
        ledger: The study.
        companion: Its companion `CONFIRM`.
    """
    every, done = ledger.settings.confirm.drift_every, len(ledger.finished)
    if not every or done < every or not ledger.remaining or ledger.default is None:
        return False
    return done // every > len({trial.user_attrs["after"] // every for trial in settled(companion, purpose=DRIFT)})


def check_drift(ledger: Ledger, companion: Ledger, rig: Rig, progress: Progress, pages: Pages, patience: Patience) -> None:
    """Measures the defaults again, and says so if they have changed. Arguments and errors: see `runner.run_trial`."""
    default = ledger.default
    assert default is not None
    progress.notice("The defaults are measured again, to see whether the machine has changed")
    asked = ask_again(companion, default, {"purpose": DRIFT, "after": len(ledger.finished)})
    run_trial(companion, rig, progress, pages, patience, asked, course(companion, asked))
    if change := latest_change(ledger, companion):
        progress.notice(f"Drift: {describe(ledger, change)}")


def latest_change(ledger: Ledger, companion: Ledger) -> Change | None:
    """The greatest significant difference between the last measurement of the defaults and the mean of those before; None without one.

    The error `1 - confirm.confidence` is shared by all objectives and all checks of the study.
    """
    settings, series = ledger.settings, default_series(ledger, companion)
    if len(series) < 2:
        return None
    checks = max(1, settings.trials // settings.confirm.drift_every) if settings.confirm.drift_every else 1
    values = gains(settings, series)
    changes = []
    for objective, column in enumerate(values.T):
        before, last = column[:-1], column[-1]
        # the last value is what is asked about: only those before it tell the noise
        noise = _noise(before, prior(settings))
        se = noise.sd * math.sqrt(1 + 1 / len(before))
        level = (1 - settings.confirm.confidence) / 2 / len(values.T) / checks
        changes.append(_change(objective, float(last - before.mean()), se, noise.df, level, _hours(series)[-1]))
    return _greatest(changes)


def trend(ledger: Ledger, companion: Ledger | None) -> Change | None:
    """The greatest significant trend of the defaults over the time of the study, as the change from its beginning to its end; None
    without one.

    A regression line over time, with the residuals' variance and the prior on it; error `1 - confirm.confidence` over all objectives.
    """
    settings, series = ledger.settings, default_series(ledger, companion)
    hours = _hours(series)
    if len(series) < 3 or not hours[-1] > 0:
        return None
    centred = hours - hours.mean()
    weight = float((centred**2).sum())
    level = (1 - settings.confirm.confidence) / 2 / len(settings.objectives)
    changes = []
    for objective, column in enumerate(gains(settings, series).T):
        slope = float((centred * column).sum() / weight)
        residuals = column - column.mean() - slope * centred
        noise = prior(settings).updated(float((residuals**2).sum()), len(series) - 2)
        span = float(hours[-1])
        changes.append(_change(objective, slope * span, noise.sd / math.sqrt(weight) * span, noise.df, level, span))
    return _greatest(changes)


def noise_of_defaults(ledger: Ledger, companion: Ledger | None) -> tuple[Variance, ...]:
    """What the search has shown of the noise between runs of one configuration, by objective.

    From the repeated measurements of the defaults (neighbours in time, so that drift does not count) and, as long as these are few,
    `settings.noise`.
    """
    settings = ledger.settings
    return tuple(_noise(column, prior(settings)) for column in gains(settings, default_series(ledger, companion)).T)


def estimated_noise(ledger: Ledger, companion: Ledger) -> tuple[float, ...]:
    """The relative standard deviations of `noise_of_defaults`."""
    return tuple(noise.sd for noise in noise_of_defaults(ledger, companion))


def describe(ledger: Ledger, change: Change) -> str:
    """One sentence: `output_tokens_per_s@64 of the defaults fell by 8.1% (95% interval 3.9 to 12.1%) within 3 h 12 min`."""
    settings = ledger.settings
    objective = settings.objectives[change.objective]
    sign = 1 if objective.direction == "maximize" else -1
    sizes = sorted(abs(math.expm1(sign * size)) * 100 for size in (change.low, change.high))
    moved = sign * change.log_gain
    return (
        f"{objective.label(settings.workload.levels)} of the defaults {'rose' if moved > 0 else 'fell'} by {abs(math.expm1(moved)):.1%} "
        f"({settings.confirm.confidence:.0%} interval {sizes[0]:.1f} to {sizes[1]:.1f}%) within {text.duration(change.hours * 3600)}"
    )


def _noise(column: Array, before: Variance) -> Variance:
    finite: Sequence[float] = column[np.isfinite(column)].tolist()
    return successive_variance(finite, before)


def _hours(series: Sequence[FrozenTrial]) -> Array:
    ends = [trial.datetime_complete for trial in series]
    return np.array([(end - ends[0]).total_seconds() / 3600 if end and ends[0] else 0.0 for end in ends])


def _change(objective: int, log_gain: float, se: float, df: float, level: float, hours: float) -> Change:
    reach = t_quantile(1 - level, df) * se
    return Change(objective, log_gain, log_gain - reach, log_gain + reach, float(hours))


def _greatest(changes: Sequence[Change]) -> Change | None:
    significant = [change for change in changes if change.low > 0 or change.high < 0]
    return max(significant, key=lambda change: abs(change.log_gain), default=None)
