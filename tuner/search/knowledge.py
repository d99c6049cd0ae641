"""What a sampler is told of configurations before they are deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.launch import Configuration
from tuner.prior.base import Prior
from tuner.search.history import Seen


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of configurations before they are deployed.

    Attributes:
        priors: What predicts their measurements.
        gpus: GPUs that one holds.
        refuse: Why one would certainly never serve, None where it may.
        risk: How close one comes to the end of memory, see `tuner.feasibility.risk`; None where that cannot be told.
        known: Trials of earlier studies that teach the models as its own do, encoded as the study encodes; they are not of its front.
    """

    priors: Sequence[Prior] = ()
    gpus: Callable[[Configuration], int] = lambda configuration: 1
    refuse: Callable[[Configuration], str | None] = lambda configuration: None
    known: Sequence[Seen] = ()
    risk: Callable[[Configuration], float] | None = None
