"""The verdict in words, one sentence or two for each objective."""

from __future__ import annotations

import math

from tuner.confirm.control import Comparison
from tuner.confirm.drift import describe
from tuner.confirm.nearest import Helper, Nearest
from tuner.confirm.verdict import Finding, Gain, Rival, Verdict
from tuner.objectives import Slo
from tuner.report import text
from tuner.study import Ledger

KEEP = "keep the defaults"


def lines(ledger: Ledger, verdict: Verdict) -> list[str]:
    """The verdict for the terminal, line by line."""
    told = [_defaults(verdict)] if verdict.default_missing or verdict.default_misses else []
    told += [finding(each, verdict) for each in verdict.findings]
    if verdict.nearest is not None:
        told += nearest(ledger, verdict.nearest)
    told += [f"Doubtful: {doubt}" for doubt in verdict.doubts]
    if verdict.trend is not None:
        told.append(f"Drift: {describe(ledger, verdict.trend)}; trials of different times are not quite comparable.")
    if verdict.control is not None:
        told += control(ledger, verdict.control)
    return told


def _defaults(verdict: Verdict) -> str:
    if verdict.default_missing:
        return f"There are no defaults to compare with: {verdict.default_missing}"
    return f"The defaults miss {', '.join(verdict.default_misses)}."


def finding(found: Finding, verdict: Verdict) -> str:
    """What has been shown about one objective."""
    return f"{found.objective}: {_sentence(found, verdict)}"


def _sentence(found: Finding, verdict: Verdict) -> str:
    unusable = bool(verdict.default_missing or verdict.default_misses)
    rounds = f"{found.rounds} rounds" if found.rounds != 1 else "1 round"
    shown = f"{gain(found.gain, verdict.confidence)}, {rounds}" if found.gain else rounds
    match found.kind:
        case "default_best":
            return f"the search found nothing better: {KEEP}."
        case "unconfirmed" if found.gain is None:
            return f"trial #{found.trial} was best, measured once."
        case "unconfirmed":
            return f"trial #{found.trial} was best, {gain(found.gain)} to the defaults, measured once and not confirmed."
        case "unfinished":
            return f"trial #{found.trial} is being compared with the defaults ({rounds} done); the same command goes on."
        case "failed":
            return f"{found.reason}." + ("" if unusable else f" {_capital(KEEP)}.")
        case "misses":
            chance = f"it meets {found.slo} with a probability {_chance(found.slo_chance)}"
            return f"trial #{found.trial} ({shown}) is not recommended: {chance}." + ("" if unusable else f" {_capital(KEEP)}.")
        case "improved":
            return f"trial #{found.trial} is better than the defaults by {shown}.{_price(found)}{_promise(found)}{_rival(found.rival)}"
    worse = found.gain is not None and found.gain.high is not None and found.gain.high < 0
    if unusable and worse:
        return f"trial #{found.trial} is worse than the defaults ({shown}), which cannot be used.{_promise(found)}"
    if unusable:
        return f"trial #{found.trial} does not differ significantly from the defaults ({shown}), which cannot be used.{_promise(found)}"
    what = "no improvement" if worse else "no significant difference"
    return f"{what}: {KEEP} (trial #{found.trial}: {shown})."


def gain(shown: Gain | None, confidence: float | None = None) -> str:
    """`+12.3% (95% interval +8.1% to +16.5%)`."""
    if shown is None or not math.isfinite(shown.percent):
        return text.NONE
    if shown.low is None or shown.high is None:
        return f"{shown.percent:+.1f}%"
    word = f"{confidence:.0%} interval " if confidence is not None else ""
    return f"{shown.percent:+.1f}% ({word}{shown.low:+.1f}% to {shown.high:+.1f}%)"


def _price(found: Finding) -> str:
    told = []
    for label, other in (found.others or {}).items():
        if other is None or other.low is None or other.high is None:
            continue
        if other.low <= 0 <= other.high:
            told.append(f"no significant change of {label} (estimate {other.percent:+.1f}%, {other.low:+.1f}% to {other.high:+.1f}%)")
        else:
            told.append(f"{'costs' if other.high < 0 else 'also gains'} {label} {gain(other)}")
    return f" {_capital('; '.join(told))}." if told else ""


def _rival(rival: Rival | None) -> str:
    if rival is None:
        return ""
    elsewhere = ", ".join(f"{label} {gain(by)}" for label, by in rival.elsewhere.items())
    return f" Trial #{rival.trial} is as good here as far as can be told, {gain(rival.here)}, and better in {elsewhere}."


def _promise(found: Finding) -> str:
    return f" It meets {found.slo} with a probability {_chance(found.slo_chance)}." if found.slo else ""


def _chance(probability: float) -> str:
    return "above 99%" if probability > 0.99 else "below 1%" if probability < 0.01 else f"of {probability:.0%}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def nearest(ledger: Ledger, found: Nearest) -> list[str]:
    """What to do where no trial meets the SLOs."""
    missed = ", ".join(f"{label} by {by:.1%}" for label, by in found.violations.items())
    told = [f"No trial meets all SLOs. The nearest is trial #{found.trial}: it misses {missed}. {found.binding} binds."]
    if found.stopped:
        open_ = ", ".join(found.unknown)
        told.append(f"It was stopped early{f'; whether it meets {open_} is not known' if open_ else ''}.")
    if found.needed is not None:
        told.append(f"It would meet a bound of {_bound(ledger, found)}.")
    if found.helper is not None:
        told.append(_help(ledger, found, found.helper))
    return told


def _bound(ledger: Ledger, found: Nearest) -> str:
    slo = _slo(ledger, found.binding)
    assert slo is not None  # only an SLO has a bound that is needed
    return f"{found.binding.partition('<=' if slo.max is not None else '>=')[0]} {_outward(found.needed or 0.0, slo):g}"


def _outward(number: float, slo: Slo) -> float:
    """Rounded to three digits, away from where it would be missed."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2) if number > 0 else 1.0
    return (math.ceil if slo.max is not None else math.floor)(round(number / unit, 6)) * unit


def _help(ledger: Ledger, found: Nearest, helper: Helper) -> str:
    slo = _slo(ledger, found.binding)
    if slo is None:
        shown = f"came nearest to {found.binding}"
    else:
        shown = f"had the {'lowest' if slo.max is not None else 'highest'} {found.binding.partition('<=')[0].partition('>=')[0]}"
    edge = " It is the last value of its range: widen that." if helper.at_edge else ""
    return (
        f"{helper.name}={text.value(helper.best)} {shown} (rank correlation with the violation {helper.correlation:+.2f} over"
        f" {helper.trials} trials).{edge}"
    )


def _slo(ledger: Ledger, label: str) -> Slo | None:
    """The SLO of this label; None for the bounds of goodput, which are no SLO of one metric."""
    levels = ledger.settings.workload.levels
    return next((slo for slo in ledger.settings.constraints if slo.label(levels) == label), None)


def control(ledger: Ledger, compared: tuple[Comparison, Comparison]) -> list[str]:
    """Whether the search beat random trials, after equal deployments and after equal cost."""
    return [_compared(ledger, each, what) for each, what in zip(compared, ("equal deployments", "equal cost"), strict=True)]


def _compared(ledger: Ledger, found: Comparison, equal: str) -> str:
    told = {
        "ahead": "The search was worth it",
        "behind": "Random search did better",
        "level": "Random search did as well",
        "unclear": "Whether the search beat random search cannot be told",
    }[found.search]
    counts = f"{found.deployments[0]} ({found.hours[0]:.2g} h) against {found.deployments[1]} ({found.hours[1]:.2g} h)"
    if found.volume is None:
        return f"{told}: at {equal}, {counts}, random trials had found nothing feasible."
    labels = ledger.settings.objective_labels
    best = ", ".join(f"{label} {gain(Gain(*by))}" for label, by in zip(labels, found.best, strict=True) if by is not None)
    return f"{told}: at {equal}, {counts}, its front covers {gain(Gain(*found.volume))} against random's; best {best}."
