"""A population of servers whose curves follow from two properties, measured with noise; for tests of what is learnt from curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.doubles import measurement, timing
from tuner.benchmark.measurement import Measurement
from tuner.search.history import Seen

LEVELS = (4, 16, 64)


@dataclass(frozen=True)
class Server:
    """Serves so many users at a time, the others wait; and the more it serves, the slower is each.

    Attributes:
        step_s: Seconds of a token for a single user.
        slots: Users served at a time.
    """

    step_s: float
    slots: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Server:
        return cls(0.01 * float(np.exp(0.4 * rng.normal())), float(rng.choice([4, 8, 16, 32, 64, 128])))

    def curve(self, rng: np.random.Generator, noise: float, levels: tuple[int, ...] = LEVELS) -> dict[int, Measurement]:
        return {level: self.at(level, rng, noise) for level in levels}

    def at(self, level: int, rng: np.random.Generator, noise: float) -> Measurement:
        def noisy(value: float) -> float:
            return float(value * np.exp(noise * rng.normal()))

        served = min(level, self.slots)
        token_s = self.step_s * (1 + served / 32)
        wait_s = 50 * token_s * (level / served - 1)
        return measurement(
            level,
            duration_s=20 * (50 * token_s * level / served),
            ttft=timing(noisy(5 * self.step_s * (1 + level / 16) + wait_s)),
            tpot=timing(noisy(token_s)),
            latency=timing(noisy(50 * token_s + wait_s)),
            output_tokens_per_s=noisy(served / token_s),
        )


def seen(number: int, curve: Mapping[int, Measurement], outcome: str = "measured", default: bool = False, gpus: int = 1) -> Seen:
    """A trial as a study keeps it."""
    return Seen(number, {}, {}, default, outcome, dict(curve), None, False, gpus)
