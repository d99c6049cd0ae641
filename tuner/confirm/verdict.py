"""The verdict of a study: what has been shown about each objective, and at which price in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from optuna.trial import FrozenTrial

from tuner.confirm.companion import CONFIRM, settled
from tuner.confirm.control import Comparison, compare
from tuner.confirm.drift import Change, trend
from tuner.confirm.nearest import Nearest, nearest
from tuner.confirm.race import DEFAULT, Decision, Race, percent
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
class Rival:
    """Another finalist that is worse in nothing than the one that is recommended, as far as can be told, and better elsewhere.

    Attributes:
        trial: Its number.
        here: Its difference to the recommended one in the objective of the finding.
        elsewhere: The same in the other objectives in which it is significantly better, by label.
    """

    trial: int
    here: Gain
    elsewhere: Mapping[str, Gain]


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
        rival: What may be used as well, or better; None where there is none, and for what is not `improved`.
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
    rival: Rival | None = None


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
        """Trials that are shown to be worth more than the defaults, or, where the defaults cannot be used, stand in for them.

        Where nothing is to be confirmed, those that were best when measured once.
        """
        needed = bool(self.default_missing or self.default_misses)
        improved = [f.trial for f in self.findings if f.kind == "improved" and f.trial is not None]
        others = [f.trial for f in self.findings if (f.kind == "unconfirmed" or (f.kind == "same" and needed)) and f.trial is not None]
        return list(dict.fromkeys(improved or others))


def best_of_front(ledger: Ledger) -> list[FrozenTrial]:
    """For each objective the best trial of the front, as it was measured once; none where no trial is feasible."""
    front, objectives = ledger.front, enumerate(ledger.settings.objectives)
    return [(max if objective.more else min)(front, key=lambda trial: trial.values[i]) for i, objective in objectives] if front else []


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
    labels = settings.objective_labels
    if not settings.confirm.repeats:
        return tuple(_unconfirmed(confirmation, labels, i, trial) for i, trial in enumerate(best_of_front(confirmation.ledger)))
    without = [objective for objective in range(len(labels)) if objective not in {claim.objective for claim in claims}]
    found = [(objective, Finding(labels[objective], "default_best", None)) for objective in without]
    for i, claim in enumerate(claims):
        if race is None or rounds is None:
            trial = confirmation.finalists.trials[claim.arm - 1]
            found.append((claim.objective, _unconfirmed(confirmation, labels, claim.objective, trial)))
        else:
            found.append((claim.objective, _finding(confirmation, race, rounds, labels, i)))
    # finalists that stand for what another one claimed may have claimed it too
    unique: dict[tuple[int, int | None], Finding] = {}
    for objective, finding in found:
        unique.setdefault((objective, finding.trial), finding)
    return tuple(finding for _, finding in sorted(unique.items(), key=lambda item: item[0][0]))


def _finding(confirmation: Confirmation, race: Race, rounds: Rounds, labels: list[str], claim: int) -> Finding:
    objective, decision = race.claims[claim].objective, rounds.standing.decided.get(claim)
    if decision is None:
        trial = confirmation.arms[race.claims[claim].arm].number
        return Finding(labels[objective], "unfinished", trial, rounds=len(rounds.gain))
    seen = rounds.gain[: decision.rounds]
    arm = _stands(confirmation, race, rounds, objective, decision)
    trial = confirmation.arms[arm].number
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
    rival = _rival(confirmation, race, rounds, objective, arm, decision) if kind == "improved" else None
    return Finding(labels[objective], kind, trial, shown[objective], decision.rounds, others, chance, slo, reason, rival)


def _stands(confirmation: Confirmation, race: Race, rounds: Rounds, objective: int, decision: Decision) -> int:
    """The finalist that is recommended for a claim: where it holds, one that is better still there and worse in nothing takes its place.

    Wrong findings become no more frequent: the claim was found to hold, so that either it was wrong before, or only the other's own
    difference to the defaults can be.
    """
    seen = rounds.gain[: decision.rounds]
    for other in _usable(confirmation, rounds, decision.arm) if decision.ending == "better" else ():
        found = race.gain(seen, other, objective)
        better = found is not None and found.interval(decision.level)[0] > 0
        if better and objective in race.ahead(seen, other, decision.arm, decision.level):
            return other
    return decision.arm


def _rival(confirmation: Confirmation, race: Race, rounds: Rounds, objective: int, arm: int, decision: Decision) -> Rival | None:
    """The first of the usable finalists that is worse than this one in nothing; see `Race.ahead`."""
    settings, seen = confirmation.ledger.settings, rounds.gain[: decision.rounds]
    for other in _usable(confirmation, rounds, arm):
        ahead = race.ahead(seen, other, arm, decision.level)
        gain = [_gain(race.gain(seen, other, i, arm), decision.level, each.more) for i, each in enumerate(settings.objectives)]
        elsewhere = {settings.objective_labels[i]: shown for i in ahead if i != objective and (shown := gain[i]) is not None}
        here = gain[objective]
        if elsewhere and here is not None:
            return Rival(confirmation.arms[other].number, here, elsewhere)
    return None


def _usable(confirmation: Confirmation, rounds: Rounds, but: int) -> list[int]:
    """The other finalists that held and meet the SLOs."""
    others = [arm for arm in range(1, len(confirmation.arms)) if arm != but and arm not in rounds.reasons]
    return [arm for arm in others if confirmation.chance(rounds.margin, arm)[0] >= SLO_CHANCE]


def _gain(found: Contrast | None, level: float, more: bool) -> Gain | None:
    return None if found is None else Gain(percent(found.log_gain, more), *(percent(end, more) for end in found.interval(level)))


def _unconfirmed(confirmation: Confirmation, labels: list[str], objective: int, trial: FrozenTrial) -> Finding:
    ledger, default = confirmation.ledger, confirmation.ledger.default
    if trial.user_attrs.get("default"):
        return Finding(labels[objective], "default_best", None)
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
