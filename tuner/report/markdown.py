"""`report.md` in the study's folder: the verdict and all that stands behind it, to be read in a year or by somebody else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from tuner.backends.base import Backend
from tuner.confirm.companion import CONFIRM, settled
from tuner.confirm.cost import charged_h, on_gpus
from tuner.confirm.drift import DRIFT, default_series
from tuner.confirm.run import Confirmation
from tuner.confirm.statistics import PRIOR_DF
from tuner.confirm.values import gains
from tuner.confirm.verdict import Verdict
from tuner.engines.base import Engine
from tuner.objectives import FLOWS
from tuner.report import text
from tuner.report import verdict as words
from tuner.report.front import configuration
from tuner.settings import Settings
from tuner.storage import shown
from tuner.study import Ledger


def write(confirmation: Confirmation, control: Ledger | None, verdict: Verdict, engine: Engine, backend: Backend) -> Path:
    """Writes the report of a study and returns where it is.

    Args:
        confirmation: Of the study, done or not.
        control: The study of its control arm, where it has one.
        verdict: What `verdict_of` reads from these.
        engine: Makes the launch commands.
        backend: Writes them as a user would type them.
    """
    ledger = confirmation.ledger
    settings = ledger.settings
    parts = [
        f"# {settings.study_name}",
        f"{settings.subject} on backend {settings.backend.name}; "
        f"traffic `{settings.workload.scenario}` at {', '.join(map(str, settings.workload.levels))} users.",
        *(["**A stand-in on the CPU: the numbers say nothing about a GPU.**"] if settings.stand_in_for else []),
        "## Verdict",
        *(words.lines(ledger, verdict) or ["No trial was measured."]),
        *_launch(ledger, verdict, engine, backend),
        *_front(confirmation),
        *_confirmed(confirmation),
        *_drift(confirmation),
        *_outcomes(ledger),
        *_cost(confirmation, control, verdict),
        "## Settings",
        f"```json\n{json.dumps(_settings(settings), indent=2)}\n```",
    ]
    path = settings.study_folder / "report.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _settings(settings: Settings) -> dict[str, Any]:
    """All that a study needs to be run again, without secrets."""
    search = {"trials", "seed", "noise", "max_consecutive_failures", "sampler", "pruner", "confirm", "control", "stop", "cost"}
    dumped = settings.model_dump(mode="json", include={"study_name", *search})
    return settings.identity | dumped | {"storage": {"url": shown(settings.storage.url)}}


def _launch(ledger: Ledger, verdict: Verdict, engine: Engine, backend: Backend) -> list[str]:
    """The commands of what is recommended, and of the defaults where nothing is."""
    numbers = verdict.recommended or ([ledger.default.number] if ledger.default is not None else [])
    parts = []
    for trial in (trial for trial in ledger.finished if trial.number in numbers):
        name = "The engine's defaults" if trial.user_attrs.get("default") else f"Trial #{trial.number}"
        parts += [f"{name}:", f"```\n{backend.launch_text(engine.launch(configuration(trial), ''))}\n```"]
    return ["## Launch", *parts] if parts else []


def _front(confirmation: Confirmation) -> list[str]:
    ledger = confirmation.ledger
    if not ledger.front:
        return []
    labels = _labels(ledger)
    noise, chances = confirmation.noise, confirmation.on_front
    assumed = [label for label, known in zip(labels, noise, strict=True) if known.df == PRIOR_DF]
    source = f" (assumed for {', '.join(assumed)}, since nothing was repeated)" if assumed else ", from repeated ones"
    rows = [
        [
            f"#{trial.number}",
            *(f"{text.metric(label, value)} ± {known.sd:.0%}" for label, value, known in zip(labels, trial.values, noise, strict=True)),
            f"{chances.get(trial.number, 0.0):.0%}",
            "engine defaults" if trial.user_attrs.get("default") else f"`{text.configuration(configuration(trial))}`",
        ]
        for trial in ledger.front
    ]
    return [
        "## Front",
        f"Single measurements, with the standard deviation of a run{source}. The last but one column is the probability that the trial is "
        "on the feasible front, if all trials were measured anew.",
        _table(["trial", *labels, "on the front", "configuration"], rows),
    ]


def _confirmed(confirmation: Confirmation) -> list[str]:
    if confirmation.race is None:
        return []
    settings, labels = confirmation.ledger.settings, _labels(confirmation.ledger)
    rounds = confirmation.rounds()
    signs = [1.0 if objective.more else -1.0 for objective in settings.objectives]
    rows = []
    for arm, trial in enumerate(confirmation.arms):
        measured = rounds.gain[np.isfinite(rounds.gain[:, arm]).any(axis=1), arm]
        if not len(measured):
            continue
        means = np.exp(signs * measured.mean(axis=0))
        chance, slo = confirmation.chance(rounds.margin, arm)
        name = "defaults" if arm == 0 else f"#{trial.number}"
        cells = [text.metric(label, float(mean)) for label, mean in zip(labels, means, strict=True)]
        rows.append([name, str(len(measured)), *cells, f"{chance:.0%} ({slo})" if slo else "no SLO"])
    return [
        "## Confirmation",
        f"Deployed again in alternating order, {rounds.deployments} deployments. Geometric means; what the search measured is not in them.",
        _table(["arm", "runs", *labels, "meets its SLOs"], rows),
    ]


def _drift(confirmation: Confirmation) -> list[str]:
    ledger = confirmation.ledger
    series = default_series(ledger, confirmation.companion)
    if len(series) < 2:
        return []
    first = gains(ledger.settings, series[:1])[0]
    rows = [
        [
            f"{trial.datetime_complete:%Y-%m-%d %H:%M}",
            *(text.metric(label, value) for label, value in zip(_labels(ledger), trial.values, strict=True)),
            ", ".join(f"{by:+.1%}" for by in np.expm1(gains(ledger.settings, [trial])[0] - first)),
        ]
        for trial in series
    ]
    return ["## Drift", "The defaults over the time of the search.", _table(["at", *_labels(ledger), "better than at first by"], rows)]


def _outcomes(ledger: Ledger) -> list[str]:
    counts = Counter(trial.user_attrs.get("outcome", "unknown") for trial in ledger.study.get_trials(deepcopy=False))
    reasons = Counter(trial.user_attrs["reason"] for trial in ledger.finished if trial.user_attrs.get("outcome") == "infeasible")
    rows = [[outcome, str(counts[outcome])] for outcome in ("measured", "pruned", "infeasible", "refused", "failed") if counts[outcome]]
    told = [f"- {count} x {reason}" for reason, count in reasons.most_common(5)]
    return ["## Trials", _table(["outcome", "trials"], rows), *(["Why trials were infeasible:\n" + "\n".join(told)] if told else [])]


def _cost(confirmation: Confirmation, control: Ledger | None, verdict: Verdict) -> list[str]:
    ledger, companion = confirmation.ledger, confirmation.companion
    parts: Mapping[str, Sequence[FrozenTrial]] = {
        "search": ledger.study.get_trials(deepcopy=False),
        "drift checks": settled(companion, purpose=DRIFT),
        "confirmation": settled(companion, purpose=CONFIRM),
        "control arm": control.study.get_trials(deepcopy=False) if control is not None else [],
    }
    unit = "GPU-" if on_gpus(*parts["search"]) else ""
    rows = [[part, _held(charged_h(*trials), unit)] for part, trials in parts.items() if trials]
    total = sum(charged_h(*trials) for trials in parts.values())
    return ["## Cost", _table(["part", "cost"], [*rows, ["together", _held(total, unit)]]), *_payback(ledger, verdict, total, unit)]


def _held(hours: float, unit: str) -> str:
    """`12 GPU-hours`, `1.25 GPU-hours`, `40 GPU-minutes`."""
    if hours < 1:
        return f"{hours * 60:.2g} {unit}minutes"
    return f"{hours:.{0 if hours >= 100 else 1 if hours >= 10 else 2}f} {unit}hours"


def _payback(ledger: Ledger, verdict: Verdict, spent_h: float, unit: str) -> list[str]:
    """Each GPU-hour with 1 + g times the throughput of a GPU saves g GPU-hours of the defaults, so that x hours pay back after x / g."""
    trials = {trial.number: trial for trial in ledger.finished}
    objectives = dict(zip(_labels(ledger), ledger.settings.objectives, strict=True))
    gains_of: dict[int, float] = {}
    for finding in verdict.findings:
        objective = objectives[finding.objective]
        if finding.kind != "improved" or finding.trial is None or finding.gain is None or ledger.default is None:
            continue
        if not objective.more or objective.metric not in FLOWS:
            continue
        # per GPU or dollar, which GPUs of one price make the same, the gain is one for each GPU already
        more = 1.0 if objective.per else _gpus(trials[finding.trial]) / _gpus(ledger.default)
        gains_of[finding.trial] = max(gains_of.get(finding.trial, 0.0), (1 + finding.gain.percent / 100) / more - 1)
    best = max(gains_of, key=gains_of.__getitem__, default=None)
    if best is None or not gains_of[best] > 0:
        return []
    return [f"All this pays back after about {_held(spent_h / gains_of[best], unit)} of serving at full load with trial #{best}."]


def _gpus(trial: FrozenTrial) -> int:
    """Those that a deployment holds; a host without any counts as one."""
    return max(1, int(trial.user_attrs.get("gpus", 0)))


def _labels(ledger: Ledger) -> list[str]:
    return ledger.settings.objective_labels


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
