"""The Pareto front and the engine's defaults as a table, during a run and at its end."""

from __future__ import annotations

from optuna.trial import FrozenTrial
from rich.table import Table

from tuner.launch import Configuration
from tuner.report import text
from tuner.study import Ledger


def front_table(ledger: Ledger, title: str) -> Table:
    """The front, ordered by the first objective, and the default, each with what differs between them."""
    labels = [objective.label(ledger.settings.workload.levels) for objective in ledger.settings.objectives]
    front, default = ledger.front, ledger.default
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("trial", justify="right")
    for label in labels:
        table.add_column(label, justify="right")
    table.add_column("configuration", overflow="fold")
    for trial in front if default is None or default.number in {t.number for t in front} else [*front, default]:
        is_default = default is not None and trial.number == default.number
        missed = ledger.missed(trial)
        words = [*(["engine defaults"] if is_default else []), text.configuration(configuration(trial))]
        words += [f"(misses {', '.join(missed)})"] if missed else []
        values = (_cell(label, value, default, i) for i, (label, value) in enumerate(zip(labels, trial.values, strict=True)))
        table.add_row(f"#{trial.number}", *values, "  ".join(filter(None, words)), style="bold" if is_default else "")
    return table


def configuration(trial: FrozenTrial) -> Configuration:
    """What to launch to get the trial again."""
    deployed: Configuration = trial.user_attrs.get("configuration", {})
    return deployed


def _cell(label: str, value: float, default: FrozenTrial | None, objective: int) -> str:
    shown = text.metric(label, value)
    if default is None or not default.values[objective]:
        return shown
    change = value / default.values[objective] - 1
    return f"{shown} ({change:+.0%})" if round(change, 2) else shown
