"""What tests do with a study by hand: open it, ask it, tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from tests.doubles import DEFAULTS, measured, settings
from tuner.launch import Configuration
from tuner.study import Asked, Ledger


def open_ledger(folder: Path, storage: optuna.storages.BaseStorage, defaults: Mapping[str, Any] = DEFAULTS, /, **changes: Any) -> Ledger:
    return Ledger(settings(folder, **changes), storage, defaults)


def ask(ledger: Ledger) -> Asked:
    asked = ledger.ask()
    assert asked is not None
    return asked


def tell(ledger: Ledger, asked: Asked) -> list[float]:
    levels = ledger.settings.workload.levels
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    return ledger.tell_measured(asked.trial, {level: measured(asked.configuration, level) for level in levels})


def finish(ledger: Ledger, refuse: Callable[[Configuration], str | None] = lambda configuration: None) -> list[Asked]:
    """Measures all that remains and is not refused."""
    done = []
    while ledger.remaining and (asked := ledger.ask(refuse)):
        tell(ledger, asked)
        done.append(asked)
    return done


def count(ledger: Ledger, outcome: str) -> int:
    return sum(trial.user_attrs.get("outcome") == outcome for trial in ledger.study.trials)
