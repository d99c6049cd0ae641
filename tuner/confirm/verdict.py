"""The verdict of a study: what has been shown about each objective, and at which price in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuner.confirm.companion import CONFIRM, settled
from tuner.confirm.control import Comparison, compare
from tuner.confirm.drift import Change, trend
from tuner.confirm.nearest import Nearest, nearest
from tuner.confirm.race import DEFAULT, Race, percent
from tuner.confirm.run import Confirmation, Rounds
from tuner.confirm.statistics import Contrast
from tuner.confirm.values import gains
from tuner.study import Ledger

SLO_CHANCE = 0.8
"""A finalist is recommended only if it meets each SLO with this probability, judged by the confirmation alone."""

Kind = Literal["improved", "same", "misses", "failed", "default_best", "unconfirmed", "unfinished"]


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference to the defaults in percent, better being positive: +20 for a fifth fewer seconds.

    Attributes:
        percent: The estimate.
        low: Lower end of its interval; None where it was measured only once.
        high: Upper end.
    """

    percent: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What has been shown about one objective.

    Attributes:
        objective: Label of the objective.
        kind: `improved`; `same`, no significant difference; `misses` an SLO when measured again; `failed` to be deployed again;
            `default_best`, the search found nothing better; `unconfirmed`, measured once; `unfinished`, rounds are missing.
        trial: The finalist that stands for the objective; None where that is the default.
        gain: Its difference to the defaults; None where there is none to compare with.
        rounds: Rounds that it rests on.
        others: The same differences in the other objectives, by label.
        slo_chance: Probability that the finalist meets the SLO that it is nearest to missing.
        slo: That SLO; empty where there is none.
        reason: What failed, as a sentence.
    """

    objective: str
    kind: Kind
    trial: int | None
    gain: Gain | None = None
    rounds: int = 0
    others: Mapping[str, Gain | None] | None = None
    slo_chance: float = 1.0
    slo: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a study has shown.

    Attributes:
        findings: One for each objective; where there is room for the knee of the front, one more for each for that. Empty where no trial is
            feasible.
        confidence: That all intervals hold together.
        deployments: That the confirmation took.
        default_missing: Why there are no defaults to compare with; empty where there are.
        default_misses: SLOs that the defaults miss.
        trend: A significant change of the defaults over the study; None without one.
        control: The search against random trials, after equal deployments and after equal GPU-hours; None without a control arm.
        nearest: Where no trial meets the SLOs.
        doubts: Why measurements of the defaults or the finalists may not be what they seem.
    """

    findings: tuple[Finding, ...]
    confidence: float
    deployments: int = 0
    default_missing: str = ""
    default_misses: tuple[str, ...] = ()
    trend: Change | None = None
    control: tuple[Comparison, Comparison] | None = None
    nearest: Nearest | None = None
    doubts: tuple[str, ...] = ()

    @property
    def recommended(self) -> list[int]:
        """Trials that are shown to be worth more than the defaults, or, where the defaults cannot be used, stand in for them."""
        needed = bool(self.default_missing or self.default_misses)
        improved = [f.trial for f in self.findings if f.kind == "improved" and f.trial is not None]
        others = [f.trial for f in self.findings if f.kind in ("same", "unconfirmed") and f.trial is not None]
        return list(dict.fromkeys(improved or (others if needed else [])))


def verdict_of(confirmation: Confirmation, control: Ledger | None = None) -> Verdict:
    """Reads the verdict from the storage; deploys nothing.

    Args:
        confirmation: Of the study, done or not.
        control: The study of its control arm, where it has one.
    """
    ledger = confirmation.ledger
    default = ledger.default
    race = confirmation.race
    rounds = confirmation.rounds() if race is not None else None
    return Verdict(
        _findings(confirmation, race, rounds) if ledger.front else (),
        ledger.settings.confirm.confidence,
        rounds.deployments if rounds is not None else 0,
        "" if default is not None else _why_missing(ledger),
        _missed_by_default(confirmation, rounds),
        trend(ledger, confirmation.companion),
        compare(ledger, control) if control is not None else None,
        nearest(ledger),
        _doubts(confirmation),
    )


def _doubts(confirmation: Confirmation) -> tuple[str, ...]:
    """Of the search and of the repeated measurements, each once."""
    arms = confirmation.arms if confirmation.ledger.front else ()
    repeats = settled(confirmation.companion, purpose=CONFIRM, race=confirmation.key)
    return tuple(dict.fromkeys(doubt for trial in (*arms, *repeats) for doubt in trial.user_attrs.get("doubts", ())))


def _findings(confirmation: Confirmation, race: Race | None, rounds: Rounds | None) -> tuple[Finding, ...]:
    settings, claims = confirmation.ledger.settings, confirmation.finalists.claims
    labels = [objective.label(settings.workload.levels) for objective in settings.objectives]
    without = [objective for objective in range(len(labels)) if objective not in {claim.objective for claim in claims}]
    found = [(objective, Finding(labels[objective], "default_best", None)) for objective in without]
    for i, claim in enumerate(claims):
        if race is None or rounds is None:
            found.append((claim.objective, _unconfirmed(confirmation, labels, claim.objective, claim.arm)))
        else:
            found.append((claim.objective, _finding(confirmation, race, rounds, labels, i)))
    return tuple(finding for _, finding in sorted(found, key=lambda item: item[0]))


def _finding(confirmation: Confirmation, race: Race, rounds: Rounds, labels: list[str], claim: int) -> Finding:
    objective, decision = race.claims[claim].objective, rounds.standing.decided.get(claim)
    arm = decision.arm if decision is not None else race.claims[claim].arm
    trial = confirmation.arms[arm].number
    if decision is None:
        return Finding(labels[objective], "unfinished", trial, rounds=len(rounds.gain))
    seen = rounds.gain[: decision.rounds]
    more = [each.more for each in confirmation.ledger.settings.objectives]
    shown = [_gain(race.gain(seen, arm, i), decision.level, up) for i, up in enumerate(more)]
    chance, slo = confirmation.chance(rounds.margin, arm)
    kind: Kind = "improved" if decision.ending == "better" else "same"
    reason = ""
    if decision.ending == "failed" and {arm, DEFAULT} & rounds.reasons.keys():
        kind = "failed"
        who, why = (f"trial #{trial}", rounds.reasons[arm]) if arm in rounds.reasons else ("the defaults", rounds.reasons[DEFAULT])
        reason = f"{who} did not hold when deployed again: {why}"
    elif slo and chance < SLO_CHANCE:
        kind = "misses"
    others = {label: gain for i, (label, gain) in enumerate(zip(labels, shown, strict=True)) if i != objective}
    return Finding(labels[objective], kind, trial, shown[objective], decision.rounds, others, chance, slo, reason)


def _gain(found: Contrast | None, level: float, more: bool) -> Gain | None:
    return None if found is None else Gain(percent(found.log_gain, more), *(percent(end, more) for end in found.interval(level)))


def _unconfirmed(confirmation: Confirmation, labels: list[str], objective: int, arm: int) -> Finding:
    ledger, default = confirmation.ledger, confirmation.ledger.default
    trial = confirmation.finalists.trials[arm - 1]
    if default is None:
        return Finding(labels[objective], "unconfirmed", trial.number)
    once, before = gains(ledger.settings, [trial, default])
    more = [each.more for each in ledger.settings.objectives]
    shown = {label: Gain(percent(float(by), up)) for label, by, up in zip(labels, once - before, more, strict=True)}
    gain = shown.pop(labels[objective])
    return Finding(labels[objective], "unconfirmed", trial.number, gain, others=dict(shown))


def _why_missing(ledger: Ledger) -> str:
    tried = [trial for trial in ledger.study.get_trials(deepcopy=False) if trial.user_attrs.get("default")]
    return next((trial.user_attrs["reason"] for trial in tried if "reason" in trial.user_attrs), "they were not measured")


def _missed_by_default(confirmation: Confirmation, rounds: Rounds | None) -> tuple[str, ...]:
    """By the confirmation where there was one: a single measurement near a bound says little."""
    ledger = confirmation.ledger
    if ledger.default is None:
        return ()
    if rounds is None or not np.isfinite(rounds.margin[:, DEFAULT]).any():
        return tuple(ledger.missed(ledger.default))
    means = np.nanmean(rounds.margin[:, DEFAULT], axis=0)
    return tuple(label for label, mean in zip(ledger.settings.constraint_labels, means, strict=True) if mean < 0)
