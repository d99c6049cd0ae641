"""Trials as numbers that can be compared: logarithms of objectives, turned so that more is better, and margins of SLOs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from tuner.confirm.statistics import Array
from tuner.settings import Settings


def gains(settings: Settings, trials: Sequence[FrozenTrial]) -> Array:
    """Logarithms of the objectives, more being better.

    Returns:
        Trials x objectives; infinite where a value is zero, which has no ratio to another.
    """
    values = np.array([trial.values for trial in trials], dtype=np.float64).reshape(len(trials), len(settings.objectives))
    signs = np.array([1.0 if objective.more else -1.0 for objective in settings.objectives])
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values) * signs)


def ranked(gain: Array) -> Array:
    """Gains for choosing among trials: those of zeros stand a step of 1 beyond all others of their objective."""
    finite = np.where(np.isfinite(gain), gain, np.nan)
    columns = []
    for column, known in zip(gain.T, finite.T, strict=True):
        present = known[np.isfinite(known)]
        low, high = (present.min(), present.max()) if len(present) else (0.0, 0.0)
        columns.append(np.clip(column, low - 1, high + 1))
    return np.column_stack(columns)


def margins(settings: Settings, trials: Sequence[FrozenTrial]) -> Array:
    """By which share of its bound each SLO was met, negative where it was missed; clipped to [-1, 1] as the study keeps it.

    Returns:
        Trials x SLOs; nan where a trial did not show it.
    """
    labels = settings.constraint_labels
    shown = [[-trial.constraints.get(label, np.nan) for label in labels] for trial in trials]
    return np.array(shown, dtype=np.float64).reshape(len(trials), len(labels))
