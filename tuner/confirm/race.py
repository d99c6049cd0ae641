"""The rounds of the confirmation as pure decisions: who is deployed next, and what has been shown. No deployment, no study, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuner.confirm.statistics import Array, Contrast, Variance, chance_of_success, contrast, look_levels

DEFAULT = 0
"""The arm of the engine's defaults."""
FIRST_LOOK = 3
"""Nothing is decided on fewer rounds: their spread would say next to nothing about the noise."""
FUTILE = 0.05
"""An objective is given up when the chance that all rounds will show its improvement is below this."""

Ending = Literal["better", "futile", "exhausted", "failed"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be shown: that an arm is better than the defaults in one objective. Made before the first round.

    Attributes:
        objective: Index of the objective.
        arm: 1, 2, ...
    """

    objective: int
    arm: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rounds say about one claim.

    Attributes:
        arm: The finalist that stands for it.
        ending: `better` than the defaults; `futile`, an improvement can hardly be shown any more; `exhausted`, all rounds are done and show
            none; `failed`, it could not be measured again.
        rounds: Rounds after which it was decided.
        level: Error in each tail of the intervals that go with the decision.
    """

    arm: int
    ending: Ending
    rounds: int
    level: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the race is.

    Attributes:
        running: Arms of the next round, in the order of their deployment; empty when all is decided.
        decided: Decisions by the index of the claim.
    """

    running: tuple[int, ...]
    decided: Mapping[int, Decision]


@dataclass(frozen=True)
class Race:
    """A race of finalists against the defaults, in rounds that deploy each once.

    All intervals of the claims hold together with probability `confidence` at least: each claim has its share of the error (Bonferroni),
    half of it in each tail. So any claim is wrongly found to hold with half of `1 - confidence` at most, over all looks. Decisions depend
    on the measurements alone: an interrupted race goes on as if it had not been.

    Attributes:
        claims: What is to be shown.
        rounds: Most rounds.
        confidence: See above.
        priors: By objective, what is known of the noise before.
    """

    claims: tuple[Claim, ...]
    rounds: int
    confidence: float
    priors: tuple[Variance, ...]

    @property
    def looks(self) -> tuple[int, ...]:
        """Rounds after which decisions are made."""
        return tuple(range(min(FIRST_LOOK, self.rounds), self.rounds + 1))

    def level(self, rounds: int) -> float:
        """Error in each tail at the look after so many rounds; that of the first look before it."""
        error = (1 - self.confidence) / 2 / len(self.claims)
        levels = look_levels(error, tuple(look / self.rounds for look in self.looks))
        return levels[max(0, min(rounds, self.rounds) - self.looks[0])]

    def gain(self, values: Array, arm: int, objective: int, other: int = DEFAULT) -> Contrast | None:
        """How much better one arm is than another in one objective.

        Args:
            values: Rounds x arms x objectives, logarithms turned so that more is better; nan where not measured.
            arm: The arm.
            objective: Index of the objective.
            other: What it is compared with.
        """
        return contrast(values[:, :, objective], arm, other, self.priors[objective])

    def ahead(self, values: Array, arm: int, other: int, level: float) -> tuple[int, ...]:
        """Objectives in which one finalist is significantly better than another; none where it is worse in any.

        Worse is asked with the error `1 - confidence` for each objective: the share of one claim would overlook much.

        Args:
            values: See `gain`.
            arm: The finalist.
            other: What it is compared with.
            level: Error in each tail where it is better.
        """
        found = {i: shown for i in range(len(self.priors)) if (shown := self.gain(values, arm, i, other)) is not None}
        if any(shown.interval(1 - self.confidence)[1] < 0 for shown in found.values()):
            return ()
        return tuple(i for i, shown in found.items() if shown.interval(level)[0] > 0)

    def standing(self, values: Array, failed: frozenset[int] = frozenset()) -> Standing:
        """What the rounds so far decide.

        Args:
            values: See `gain`; whole rounds only.
            failed: Arms that cannot be deployed any more.
        """
        done = len(values)
        claims = list(self.claims)
        decided: dict[int, Decision] = {}
        for look in (look for look in self.looks if look <= done):
            seen, level = values[:look], self.level(look)
            self._pass_on(seen, claims, decided, level)
            for i, claim in enumerate(claims):
                if i not in decided and (ending := self._ending(seen, claim, look, level)):
                    decided[i] = Decision(claim.arm, ending, look, level)
        for i, claim in enumerate(claims):
            if i not in decided and (claim.arm in failed or DEFAULT in failed):
                decided[i] = Decision(claim.arm, "failed", done, self.level(done))
        running = sorted({claim.arm for i, claim in enumerate(claims) if i not in decided})
        order = [DEFAULT, *running] if running else []
        return Standing(tuple(order if done % 2 == 0 else reversed(order)), decided)

    def _ending(self, seen: Array, claim: Claim, look: int, level: float) -> Ending | None:
        found = self.gain(seen, claim.arm, claim.objective)
        if found is not None and found.interval(level)[0] > 0:
            return "better"
        if look == self.rounds:
            return "exhausted"
        if found is not None and chance_of_success(found, self.rounds, self.level(self.rounds)) < FUTILE:
            return "futile"
        return None

    def _pass_on(self, seen: Array, claims: list[Claim], decided: Mapping[int, Decision], level: float) -> None:
        """A finalist that is worse than another in every objective leaves; the other stands for its open claims."""
        for arm in sorted({claim.arm for i, claim in enumerate(claims) if i not in decided}):
            for other in sorted({claim.arm for claim in claims}):
                if other != arm and self._worse_everywhere(seen, arm, other, level):
                    claims[:] = [
                        Claim(claim.objective, other) if claim.arm == arm and i not in decided else claim for i, claim in enumerate(claims)
                    ]

    def _worse_everywhere(self, seen: Array, arm: int, other: int, level: float) -> bool:
        ahead = [self.gain(seen, other, objective, arm) for objective in range(len(self.priors))]
        return all(found is not None and found.interval(level)[0] > 0 for found in ahead)


def percent(log_gain: float, more: bool) -> float:
    """A difference of logarithms as the percentage by which a metric is better.

    Args:
        log_gain: Positive where it is better.
        more: Whether a higher value is the better one. Otherwise 20 stands for 20 % less.
    """
    return float(100 * np.expm1(log_gain)) if more else float(-100 * np.expm1(-log_gain))
