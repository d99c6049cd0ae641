"""What a run ends with: the front and the default in a table, the launch commands, and where everything is."""

from __future__ import annotations

import shlex
from collections import Counter

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text

from tuner.backends.base import Backend
from tuner.confirm.verdict import Verdict, best_of_front
from tuner.engines.base import Engine
from tuner.report import verdict as words
from tuner.report.front import configuration, front_table
from tuner.settings import Settings
from tuner.storage import shown
from tuner.study import Ledger


def show(ledger: Ledger, engine: Engine, backend: Backend, console: Console, verdict: Verdict) -> None:
    """Prints the result of the study; the launch commands are those of the verdict, or of the front where nothing is confirmed."""
    settings, finished = ledger.settings, ledger.finished
    measured = [trial for trial in finished if trial.values is not None]
    console.print()
    if not measured:
        console.print(Text(f"No trial was measured to its end. The reasons stand in {settings.study_folder}/trial-*/"), soft_wrap=True)
        return
    if ledger.front or ledger.default:
        console.print(front_table(ledger, f"Study {settings.study_name}: Pareto front and the engine's defaults"))
    counts = Counter(trial.user_attrs.get("outcome") for trial in finished)
    outcomes = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("measured", "pruned", "infeasible") if counts[outcome])
    for line in (f"{len(finished)} of {settings.trials} trials: {outcomes}", "", *words.lines(ledger, verdict)):
        console.print(Text(line), soft_wrap=True)
    for sentence, trial in _recommended(ledger, verdict) if settings.confirm.repeats else _best(ledger):
        console.print(Text(f"\n{sentence}"))
        launch = backend.launch_text(engine.launch(configuration(trial), ""))
        # a manifest ends with a word that a shell expects at the beginning of a line
        console.print(Text(launch if "\n" in launch else f"  {launch}"), soft_wrap=True)
    folder = settings.study_folder
    kept = f"Report: {folder}/report.md    Logs and raw results: {folder}/    Storage: {shown(settings.storage.url)}"
    console.print(Text(f"\n{kept}"), soft_wrap=True)
    console.print(Text(f"Browse: {shlex.join(_dashboard_command(settings))}"), soft_wrap=True)


def _dashboard_command(settings: Settings) -> list[str]:
    """The command that finds this study again."""
    folder, url = settings.folder, shown(settings.storage.url)
    return [
        *("python", "-m", "tuner", "dashboard"),
        *([f"folder={folder}"] if folder != Settings.model_fields["folder"].default else []),
        *([f"storage.url={url}"] if url != f"sqlite:///{folder}/tuner.db" else []),
    ]


def _recommended(ledger: Ledger, verdict: Verdict) -> list[tuple[str, FrozenTrial]]:
    """What to launch after the verdict: what it recommends, else the defaults."""
    trials = {trial.number: trial for trial in ledger.finished}
    improved = [f for f in verdict.findings if f.kind == "improved"]
    findings = improved or verdict.findings
    objectives = {number: [f.objective for f in findings if f.trial == number] for number in verdict.recommended}
    shown = [(f"Recommended for {' and '.join(labels)}: trial #{number}", trials[number]) for number, labels in objectives.items()]
    if shown or ledger.default is None or not verdict.findings:
        return shown
    return [("Recommended: the engine's defaults", ledger.default)]


def _best(ledger: Ledger) -> list[tuple[str, FrozenTrial]]:
    """For each objective the front's best trial, each trial once."""
    best: dict[int, tuple[list[str], FrozenTrial]] = {}
    for label, trial in zip(ledger.settings.objective_labels, best_of_front(ledger), strict=False):
        best.setdefault(trial.number, ([], trial))[0].append(label)
    return [
        (f"Best {' and '.join(labels)}: trial #{number}{' (engine defaults)' if trial.user_attrs.get('default') else ''}", trial)
        for number, (labels, trial) in best.items()
    ]
