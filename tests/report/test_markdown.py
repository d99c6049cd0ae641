from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.confirm.studies import Study, flat, gaining
from tests.doubles import DEFAULTS, BackendDouble, EngineDouble, World
from tuner.confirm.companion import CONFIRM, open_companion
from tuner.confirm.control import open_control
from tuner.confirm.drift import check_drift
from tuner.confirm.verdict import verdict_of
from tuner.report import markdown, summary
from tuner.runner import Patience, run_trials

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def report(study: Study, control: Any = None) -> str:
    confirmation = study.confirmation
    path = markdown.write(confirmation, control, verdict_of(confirmation, control), EngineDouble(World()), BackendDouble(World()))
    assert path == study.ledger.settings.study_folder / "report.md"
    return path.read_text()


def shown(study: Study) -> str:
    console = Console(file=StringIO(), width=200, highlight=False)
    summary.show(study.ledger, EngineDouble(World()), BackendDouble(World()), console, verdict_of(study.confirmation))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_all_of_a_study(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12, control={"random": 4}).search(6)
    companion = open_companion(study.ledger, CONFIRM, DEFAULTS)
    check_drift(study.ledger, companion, study.rig, study.progress, study.pages, Patience(3, measured=True))
    study.search()
    study.confirm()
    control = open_control(study.ledger, DEFAULTS)
    run_trials(control, study.rig, study.progress, study.pages)
    text = report(study, control)
    first, second = (finding.trial for finding in verdict_of(study.confirmation).findings)
    assert text.startswith("# some-study\n\nllamacpp serving `nano` on backend local; traffic `D(64,32)` at 1, 4 users.\n")
    verdict = section(text, "Verdict")
    assert f"latency_p99_s@1: trial #{first} is better than the defaults by +" in verdict
    assert "The search was worth it" in verdict or "Random search did" in verdict
    launch = section(text, "Launch")
    assert f"Trial #{first}:\n\n```\nserve --n_parallel=" in launch
    assert f"Trial #{second}:" in launch
    assert f"| #{second} | " in section(text, "Front")
    assert "| 100 tok/s ± 3% |" in section(text, "Front")
    confirmed = section(text, "Confirmation")
    assert "9 deployments" in confirmed
    assert confirmed.count("| 3 |") == 3
    assert "| no SLO |" in confirmed
    assert len(re.findall(r"^\| \d{4}-\d\d-\d\d \d\d:\d\d \|", section(text, "Drift"), re.MULTILINE)) == 2
    assert "| measured | 12 |" in section(text, "Trials")
    cost = section(text, "Cost")
    parts = [line.split(" | ")[0] for line in cost.splitlines() if line.startswith("|")]
    assert parts == ["| part", "| ---", "| search", "| drift checks", "| confirmation", "| control arm", "| together"]
    assert "| search | 1.20 |" in cost
    assert "| part | GPU-hours |" in cost
    assert "All this pays back after " in cost
    assert '"scenario": "D(64,32)"' in section(text, "Settings")


def test_a_study_that_keeps_the_defaults(tmp_path: Path) -> None:
    study = Study(tmp_path, lambda configuration: (0.4, 100.0) if "n_parallel" not in configuration else (0.8, 50.0), trials=6).search()
    text = report(study)
    assert "The engine's defaults:\n\n```\nserve --n_ctx=8192\n```" in section(text, "Launch")
    assert "## Confirmation" not in text
    assert "## Drift" not in text
    assert "pays back" not in text
    assert "Recommended: the engine's defaults\n  serve --n_ctx=8192\n" in shown(study)


def test_a_study_without_a_measured_trial(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=2)
    asked = study.ledger.ask()
    assert asked is not None
    study.ledger.tell_infeasible(asked.trial, "out of memory")
    text = report(study)
    assert "There are no defaults to compare with: out of memory" in section(text, "Verdict")
    assert "- 1 x out of memory" in section(text, "Trials")
    assert "## Front" not in text
    assert "## Launch" not in text


def test_slos_that_nothing_meets(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=3, constraints=[{"metric": "latency_p99_s", "at": 1, "max": 0.2}]).search()
    text = section(report(study), "Verdict")
    assert "The defaults miss latency_p99_s@1<=0.2." in text
    assert "No trial meets all SLOs. The nearest is trial #0: it misses latency_p99_s@1<=0.2 by 100.0%." in text
    assert "It would meet a bound of latency_p99_s@1 0.4." in text
    assert "Recommended" not in shown(study)


def test_the_summary_ends_with_the_verdict(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12).search()
    study.confirm()
    text = shown(study)
    first, second = (finding.trial for finding in verdict_of(study.confirmation).findings)
    assert f"\nlatency_p99_s@1: trial #{first} is better than the defaults by +" in text
    for trial in (first, second):
        assert re.search(rf"^Recommended for \S+: trial #{trial}\n  serve --n_parallel=", text, re.MULTILINE)
    assert "Best " not in text
