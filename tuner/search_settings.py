"""Settings of the search: sampler, pruner, confirmation, control, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from tuner.objectives import Slo
from tuner.section import Section, as_tuple


class SamplerSettings(Section):
    """Who chooses the next configuration.

    Attributes:
        name: `ehvi` is tuner's own; the others are Optuna's.
        startup_trials: Trials after the default before the model takes over (ehvi, tpe, gp), or the size of the population (nsgaii).
        prior: Whether `ehvi` starts from a performance prediction.
        warm_start: Whether `ehvi` learns from earlier studies of the same engine, model and GPUs in the same storage.
    """

    name: Literal["ehvi", "tpe", "gp", "nsgaii", "random", "grid", "qmc"]
    startup_trials: PositiveInt = 5
    prior: Literal["auto", "none"] = "auto"
    warm_start: bool = True


class PrunerSettings(Section):
    """When a trial is stopped between two load levels.

    Attributes:
        name: `front` stops what can no longer enter the feasible front, `slo` only what misses an SLO, `none` nothing.
        confidence: Probability with which a trial that belongs to the front goes on, as far as each of the two rules is concerned.
        order: Order of the load levels: `up`, `down`, or `auto`, which begins with the one that decides most for its cost.
    """

    name: Literal["front", "slo", "none"] = "front"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    order: Literal["auto", "up", "down"] = "auto"


class ConfirmSettings(Section):
    """The finalists against the engine's defaults, deployed again in turns when the search is over.

    Attributes:
        repeats: Most rounds of deployments; a clear result ends after three. 0 leaves the confirmation out.
        finalists: Most configurations that take part beside the defaults.
        confidence: That all intervals of the verdict hold together.
        drift_every: The defaults are measured once more after so many trials, to see whether the machine has changed; 0 for never.
    """

    repeats: NonNegativeInt = 14
    finalists: PositiveInt = 2
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    drift_every: NonNegativeInt = 15


class ControlSettings(Section):
    """A control arm.

    Attributes:
        random: Trials of a plain random search, run after the search and in a study of its own, to say whether the search was worth it.
    """

    random: NonNegativeInt = 0


class StopSettings(Section):
    """When a study ends before `trials`; None for never.

    Attributes:
        wall_time_h: Hours since this run began.
        gpu_hours: GPU-hours that all trials of the study have held GPUs for.
        no_improvement: Trials in a row without a better front.
        target: Bounds that one trial has to meet, all at once.
    """

    wall_time_h: PositiveFloat | None = None
    gpu_hours: PositiveFloat | None = None
    no_improvement: PositiveInt | None = None
    target: Annotated[tuple[Slo, ...], BeforeValidator(as_tuple)] = ()
