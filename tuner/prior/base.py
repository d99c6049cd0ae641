"""The contract of a prior: what a configuration will probably measure, told before it was ever deployed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from tuner.launch import Configuration


class Prior(ABC):
    """Ranks configurations; its absolute values are not to be trusted, nor ever shown as measurements.

    The sampler learns `log(measured / predicted)` with a scale of its own, so that a wrong prior costs a few trials and no more.

    Attributes:
        name: For the log.
        trust: 1 where model and GPU are known: then the search begins where the prediction points. Less where the prediction is of
            another case: then it looks around first.
    """

    name: ClassVar[str]
    trust: ClassVar[float] = 1.0

    @abstractmethod
    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        """What the configuration would show at a load level; None where it cannot tell.

        Args:
            configuration: As it would be deployed; what it does not give is the engine's default.
            level: Concurrent users.

        Returns:
            Values by metric, each one of `tuner.benchmark.measurement.METRICS` and above 0; not all of them need be there.
        """
