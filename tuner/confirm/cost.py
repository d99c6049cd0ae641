"""What deployments cost: the time for which they held GPUs."""

from __future__ import annotations

from optuna.trial import FrozenTrial

HOUR_S = 3600.0
PAID = ("deploy", "warm-up", "load")
"""Stages in which a deployment holds its GPUs; in the queue it does not."""


def charged_h(*trials: FrozenTrial) -> float:
    """GPU-hours that these trials held GPUs for; hours of the server where the engine uses no GPU."""
    return sum(_seconds(trial) * max(1, int(trial.user_attrs.get("gpus", 0))) for trial in trials) / HOUR_S


def on_gpus(*trials: FrozenTrial) -> bool:
    """Whether these hours are GPU-hours."""
    return any(trial.user_attrs.get("gpus", 0) for trial in trials)


def _seconds(trial: FrozenTrial) -> float:
    spent = trial.user_attrs.get("durations_s", {})
    return float(sum(spent.get(stage, 0.0) for stage in PAID))
