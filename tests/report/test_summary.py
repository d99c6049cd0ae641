from __future__ import annotations

import shlex
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from tests.doubles import DEFAULTS, OBJECTIVES, BackendDouble, EngineDouble, World, measurement, settings, timing
from tuner.confirm.run import Confirmation
from tuner.confirm.verdict import verdict_of
from tuner.report import summary
from tuner.report.front import front_table
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}


class Study:
    """A study told trial by trial; the first is the default. Nothing is confirmed, unless `changes` say so."""

    def __init__(self, folder: Path, /, **changes: Any) -> None:
        self.ledger = Ledger(settings(folder, **{"confirm": {"repeats": 0}} | changes), optuna.storages.InMemoryStorage(), DEFAULTS)

    def measured(self, latency: float, throughput: float, configuration: Mapping[str, Any] | None = None) -> None:
        asked = self.ledger.ask()
        assert asked is not None
        asked.trial.set_user_attr("configuration", dict(configuration or asked.configuration))
        level = measurement(latency=timing(latency), output_tokens_per_s=throughput)
        self.ledger.tell_measured(asked.trial, {1: level, 4: level})

    def infeasible(self, reason: str) -> None:
        asked = self.ledger.ask()
        assert asked is not None
        self.ledger.tell_infeasible(asked.trial, reason)

    def pruned(self, reason: str) -> None:
        asked = self.ledger.ask()
        assert asked is not None
        self.ledger.tell_pruned(asked.trial, {1: measurement()}, reason)

    def summary(self, width: int = 160) -> str:
        console = Console(file=StringIO(), width=width, highlight=False)
        verdict = verdict_of(Confirmation(self.ledger, DEFAULTS))
        summary.show(self.ledger, EngineDouble(World()), BackendDouble(World()), console, verdict)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()


def rows(shown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if line.startswith("│")]


def test_front_default_changes_and_commands(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.measured(0.4, 100)
    study.measured(0.5, 150, {"n_parallel": 16, "cont_batching": True})
    study.measured(0.6, 90)
    study.measured(0.2, 100, {"n_parallel": 2, "name": "a b"})
    shown = study.summary()
    assert rows(shown) == [
        ["#3", "200 ms (-50%)", "100 tok/s", "n_parallel=2 name=a b"],
        ["#1", "500 ms (+25%)", "150 tok/s (+50%)", "n_parallel=16 cont_batching=true"],
        ["#0", "400 ms", "100 tok/s", "engine defaults  n_ctx=8192"],
    ]
    assert "4 of 4 trials: 4 measured\n" in shown
    assert "Best latency_p99_s@1: trial #3\n  serve --n_parallel=2 '--name=a b'\n" in shown
    assert "Best output_tokens_per_s@4: trial #1\n  serve --n_parallel=16 --cont_batching=True\n" in shown
    assert f"Logs and raw results: {tmp_path}/studies/some-study/    Storage: sqlite:///{tmp_path}/tuner.db" in shown
    assert f"Browse: python -m tuner dashboard folder={tmp_path}/studies storage.url=sqlite:///{tmp_path}/tuner.db" in shown


def test_the_usual_places_need_no_words(tmp_path: Path) -> None:
    study = Study(tmp_path, folder="studies", storage={"url": "sqlite:///studies/tuner.db"})
    study.measured(0.4, 100)
    assert "Browse: python -m tuner dashboard\n" in study.summary()


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    study = Study(tmp_path, storage={"url": "postgresql://user:hunter2@db/tuner"})
    study.measured(0.4, 100)
    assert "postgresql://user:***@db/tuner" in study.summary()
    assert "hunter2" not in study.summary()


def test_default_is_bold_and_stands_once_where_it_is_on_the_front(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.measured(0.1, 200)
    study.measured(0.5, 150)
    table = front_table(study.ledger, "title")
    assert [row.style for row in table.rows] == ["bold"]
    shown = study.summary()
    assert len(rows(shown)) == 1
    assert "Best latency_p99_s@1 and output_tokens_per_s@4: trial #0 (engine defaults)\n  serve --n_ctx=8192\n" in shown


def test_nothing_measured(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert "No trial was measured to its end." in study.summary()
    study.infeasible("out of memory")
    assert study.summary().strip() == f"No trial was measured to its end. The reasons stand in {tmp_path}/studies/some-study/trial-*/"


def test_what_was_stopped_was_not_infeasible(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.measured(0.4, 100)
    study.infeasible("out of memory")
    study.pruned("dominated by trial #0")
    study.pruned("dominated by trial #0")
    assert "4 of 4 trials: 1 measured, 2 pruned, 1 infeasible\n" in study.summary()


def test_a_verdict_stands_for_the_best_and_names_its_report(tmp_path: Path) -> None:
    study = Study(tmp_path, confirm={"repeats": 3})
    study.measured(0.4, 100)
    study.measured(0.2, 200)
    shown = study.summary()
    assert "trial #1 is being compared with the defaults (0 rounds done); the same command goes on.\n" in shown
    assert "Best latency_p99_s@1" not in shown
    folder = f"{tmp_path}/studies/some-study"
    assert f"\nReport: {folder}/report.md    Logs and raw results: {folder}/    Storage: sqlite" in shown


def test_default_infeasible(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.infeasible("out of memory")
    study.measured(0.1, 200)
    shown = study.summary()
    assert "2 of 4 trials: 1 measured, 1 infeasible\n" in shown
    assert "There are no defaults to compare with: out of memory\n" in shown
    assert rows(shown)[0][1:3] == ["100 ms", "200 tok/s"]


def test_default_given_up(tmp_path: Path) -> None:
    study = Study(tmp_path)
    while (asked := study.ledger.ask()) is not None and asked.default:
        study.ledger.tell_failed(asked.trial, "no port")
    assert asked is not None
    level = measurement()
    asked.trial.set_user_attr("configuration", {})
    study.ledger.tell_measured(asked.trial, {1: level, 4: level})
    assert "There are no defaults to compare with: no port\n" in study.summary()


def test_default_that_misses_an_slo(tmp_path: Path) -> None:
    study = Study(tmp_path, constraints=[SLO])
    study.measured(0.7, 100)
    study.measured(0.35, 80)
    last = rows(study.summary())[-1]
    assert last == ["#0", "700 ms", "100 tok/s", "engine defaults  n_ctx=8192  (misses latency_p99_s@1<=0.5)"]


@pytest.mark.parametrize("default", [True, False])
def test_all_miss_an_slo(tmp_path: Path, default: bool) -> None:
    study = Study(tmp_path, constraints=[SLO])
    if default:
        study.measured(0.7, 100)
    else:
        study.infeasible("out of memory")
    study.measured(0.9, 80)
    shown = study.summary()
    assert "\nNo trial meets all SLOs" in shown
    assert "latency_p99_s@1" in shown
    assert "No trial was measured" not in shown
    assert "Best" not in shown
    assert len(rows(shown)) == default


def test_one_objective(tmp_path: Path) -> None:
    study = Study(tmp_path, objectives=OBJECTIVES[1:])
    study.measured(0.4, 100)
    study.measured(0.4, 200, {"n_parallel": 2})
    shown = study.summary()
    assert rows(shown)[0] == ["#1", "200 tok/s (+100%)", "n_parallel=2"]
    assert "Best output_tokens_per_s@4: trial #1" in shown


def test_default_of_zero_has_no_percentage(tmp_path: Path) -> None:
    study = Study(tmp_path, objectives=[{"metric": "error_rate", "direction": "minimize"}])
    study.measured(0.4, 100)
    assert rows(study.summary())[0][1] == "0"


@pytest.mark.parametrize("width", [30, 60, 80])
def test_commands_stay_on_one_line(tmp_path: Path, width: int) -> None:
    study = Study(tmp_path)
    study.measured(0.4, 100, {f"parameter_{i}": i for i in range(20)})
    lines = [line for line in study.summary(width).splitlines() if line.startswith("  serve")]
    assert len(shlex.split(lines[0])) == 21
