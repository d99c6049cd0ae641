"""What a study has seen so far, read once from its finished trials and kept for those who decide: sampler, pruner, stopping rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.benchmark.measurement import Measurement
from tuner.launch import Configuration
from tuner.objectives import Curve

DEPLOYED = ("measured", "pruned", "infeasible")
"""Outcomes of trials that were deployed and say something about their configuration."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One deployed configuration.

    Attributes:
        number: Of the trial.
        parameters: As Optuna has them, encoded.
        configuration: As it was deployed; only the fixed values for the default.
        default: Whether it was the engine's default.
        outcome: One of `DEPLOYED`.
        curve: What it showed; empty where it never served.
        values: Of the objectives, for a measured trial only.
        missed: Whether it is known to miss an SLO.
        gpus: GPUs that it held.
    """

    number: int
    parameters: Mapping[str, Any]
    configuration: Configuration
    default: bool
    outcome: str
    curve: Curve
    values: Sequence[float] | None
    missed: bool
    gpus: int

    @classmethod
    def of(cls, trial: FrozenTrial) -> Seen:
        kept = trial.user_attrs
        curve = {int(level): Measurement.from_dict(shown) for level, shown in kept.get("measurements", {}).items()}
        missed = any(value > 0 for name, value in trial.constraints.items() if name != "deployable")
        return cls(
            trial.number,
            trial.params,
            kept.get("configuration", {}),
            bool(kept.get("default")),
            kept["outcome"],
            curve,
            trial.values,
            missed and kept["outcome"] in ("measured", "pruned"),
            kept.get("gpus", 0),
        )


class History:
    """The deployed configurations of a study, in the order of their trials.

    Args:
        study: Optuna's.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._seen: dict[int, Seen | None] = {}

    def seen(self, by_now: bool = True) -> list[Seen]:
        """All that have ended.

        Args:
            by_now: Otherwise by the time of Optuna's last `ask`, or soon after: its samplers read a study only once for each trial.
        """
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        for trial in self._study._get_trials(deepcopy=False, states=ended, use_cache=not by_now):
            if trial.number not in self._seen:
                deployed = trial.user_attrs.get("outcome") in DEPLOYED
                self._seen[trial.number] = Seen.of(trial) if deployed else None
        return [seen for _, seen in sorted(self._seen.items()) if seen is not None]
