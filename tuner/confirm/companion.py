"""Companion studies: deployments that belong to a study without being its trials, in the same storage under `<study_name>.<part>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.confirm.statistics import PRIOR_DF, Variance
from tuner.course import Course, EveryLevel
from tuner.launch import Value
from tuner.report.front import configuration
from tuner.search.pruning import course_of
from tuner.search_settings import PrunerSettings, SamplerSettings, StopSettings
from tuner.settings import Settings
from tuner.study import RETRIES, Asked, Ledger

CONFIRM = "confirm"
CONTROL = "control"


def open_companion(ledger: Ledger, part: str, defaults: Mapping[str, Value], **changes: Any) -> Ledger:
    """Opens or creates the companion of a study. Its logs lie in a folder of that name beside the study's trials.

    Args:
        ledger: The study.
        part: `CONFIRM` or `CONTROL`.
        defaults: The engine's own values, by parameter.
        changes: Settings that differ from the study's.
    """
    settings = ledger.settings
    own = {
        "study_name": f"{settings.study_name}.{part}",
        "study_folder": settings.study_folder / part,
        "sampler": SamplerSettings(name="random"),  # one that models would do so for configurations that are given
        "pruner": PrunerSettings(name="none"),
        "stop": StopSettings(),  # what ends a search is no reason to leave out what is to judge it
    }
    return Ledger(settings.model_copy(update=own | changes), ledger.study._storage, defaults, planned=True)


def has_companion(ledger: Ledger, part: str) -> bool:
    """Whether the companion of a study exists."""
    return f"{ledger.settings.study_name}.{part}" in optuna.get_all_study_names(ledger.study._storage)


def ask_again(companion: Ledger, trial: FrozenTrial, attributes: Mapping[str, Any]) -> Asked:
    """Asks the companion for the configuration of one of the study's trials."""
    return companion.again(configuration(trial), bool(trial.user_attrs.get("default")), attributes)


def settled(companion: Ledger | None, **attributes: Any) -> list[FrozenTrial]:
    """The ended trials of the companion that have these attributes, in their order; those that the user broke off are none."""
    if companion is None:
        return []
    ended = companion.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    found = [trial for trial in ended if all(trial.user_attrs.get(key) == value for key, value in attributes.items())]
    return [trial for trial in found if trial.user_attrs.get("outcome") in ("measured", "infeasible", "failed")]


def given_up(trials: list[FrozenTrial]) -> bool:
    """Whether these tries of one deployment are enough: it was measured, cannot be, or has failed too often."""
    return any(trial.user_attrs["outcome"] != "failed" for trial in trials) or len(trials) > RETRIES


def course(companion: Ledger, asked: Asked) -> Course:
    """The course of a repeated measurement: only the levels that an objective or an SLO names, to save load time."""
    settings = companion.settings
    levels = settings.workload.levels
    named = {want.level(levels) for want in (*settings.objectives, *settings.constraints)}
    return course_of(companion, asked) if None in named else EveryLevel(tuple(level for level in levels if level in named))


def prior(settings: Settings) -> Variance:
    """What is known of the noise before anything was repeated."""
    return Variance(settings.noise, PRIOR_DF)
