from __future__ import annotations

import json
import re
from dataclasses import replace
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
from tuner.confirm.verdict import Finding, Gain, Verdict, verdict_of
from tuner.objectives import Objective
from tuner.report import markdown, summary
from tuner.runner import Patience, run_trials
from tuner.settings import load

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
    assert "The search was worth it" in verdict or "andom search" in verdict
    launch = section(text, "Launch")
    assert f"Trial #{first}:\n\n```\nserve --n_parallel=" in launch
    assert f"Trial #{second}:" in launch
    assert f"| #{second} | " in section(text, "Front")
    front = section(text, "Front")
    assert [f"± {noise.sd:.0%} |" in front for noise in study.confirmation.noise] == [True, True]
    assert "the standard deviation of a run, from repeated ones." in front
    confirmed = section(text, "Confirmation")
    assert "9 deployments" in confirmed
    assert confirmed.count("| 3 |") == 3
    assert "| no SLO |" in confirmed
    assert len(re.findall(r"^\| \d{4}-\d\d-\d\d \d\d:\d\d \|", section(text, "Drift"), re.MULTILINE)) == 2
    assert "| measured | 12 |" in section(text, "Trials")
    cost = section(text, "Cost")
    parts = [line.split(" | ")[0] for line in cost.splitlines() if line.startswith("|")]
    assert parts == ["| part", "| ---", "| search", "| drift checks", "| confirmation", "| control arm", "| together"]
    assert "| search | 1.20 GPU-hours |" in cost
    # the doubles take no time: the search is all that was spent
    gain = verdict_of(study.confirmation).findings[1].gain
    assert gain is not None
    assert f"pays back after about {120 / gain.percent:.2f} GPU-hours of serving at full load with trial #{second}." in cost
    assert '"scenario": "D(64,32)"' in section(text, "Settings")


@pytest.mark.parametrize(
    ("per", "percent", "gpus", "expected"),
    [
        (None, 50.0, (2, 2), "2.40 GPU-hours"),
        (None, 50.0, (1, 2), None),  # half as much again on twice the GPUs
        (None, 140.0, (1, 2), "6.00 GPU-hours"),
        (None, -25.0, (2, 1), "2.40 GPU-hours"),
        (None, 20.0, (0, 0), "6.00 hours"),
        (None, 480.0, (2, 2), "15 GPU-minutes"),
        ("gpu", 50.0, (1, 2), "2.40 GPU-hours"),
        ("dollar", 50.0, (1, 2), "2.40 GPU-hours"),
    ],
)
def test_payback_is_that_of_a_gpu(tmp_path: Path, per: str | None, percent: float, gpus: tuple[int, int], expected: str | None) -> None:
    ledger = Study(tmp_path, gaining(1.25, 1.25), trials=2).search().ledger
    flow = Objective(metric="output_tokens_per_s", at="max", direction="maximize", per=per)
    object.__setattr__(ledger, "settings", ledger.settings.model_copy(update={"objectives": (flow,)}))
    for trial, held in zip(ledger.finished, gpus, strict=True):
        trial.user_attrs["gpus"] = held
    found = Finding(ledger.settings.objective_labels[0], "improved", 1, Gain(percent, percent - 1, percent + 1), 3)
    told = markdown._payback(ledger, Verdict((found,), 0.95), 1.2, "GPU-" if gpus[0] else "")
    assert told == ([f"All this pays back after about {expected} of serving at full load with trial #1."] if expected else [])
    for other in (replace(found, kind="same"), replace(found, kind="misses"), replace(found, gain=None)):
        assert markdown._payback(ledger, Verdict((other,), 0.95), 1.2, "") == []


def test_what_is_no_throughput_pays_nothing_back(tmp_path: Path) -> None:
    ledger = Study(tmp_path, gaining(1.25, 1.25), trials=2).search().ledger
    found = Finding("latency_p99_s@1", "improved", 1, Gain(20.0, 10.0, 30.0), 3)
    assert markdown._payback(ledger, Verdict((found,), 0.95), 1.2, "") == []


def test_settings_are_all_that_a_study_needs_again(tmp_path: Path) -> None:
    storage = {"url": "postgresql://user:hunter2@db/tuner"}
    study = Study(
        tmp_path, flat, trials=3, seed=7, noise=0.05, storage=storage, confirm={"repeats": 0}, stop={"no_improvement": 9}
    ).search()
    text = report(study)
    assert "hunter2" not in text
    kept = json.loads(section(text, "Settings").strip().removeprefix("```json").removesuffix("```"))
    assert (kept["seed"], kept["trials"], kept["noise"]) == (7, 3, 0.05)
    assert kept["stop"]["no_improvement"] == 9
    assert {"sampler", "pruner", "confirm", "control"} < kept.keys()
    assert load(kept | {"folder": str(tmp_path)}).identity == study.ledger.settings.identity


def test_noise_that_nothing_has_shown_is_assumed(tmp_path: Path) -> None:
    front = section(report(Study(tmp_path, gaining(1.25, 1.25), trials=6).search()), "Front")
    assert "(assumed for latency_p99_s@1, output_tokens_per_s@4, since nothing was repeated)" in front
    assert "± 3% |" in front


def test_without_a_confirmation_the_best_are_told(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, confirm={"repeats": 0}).search()
    text = shown(study)
    assert len([line for line in text.splitlines() if line.startswith(("Best ", "  serve"))]) == 4
    assert "measured once and not confirmed" in text
    assert "eep the defaults" not in text
    assert "engine's defaults:" not in section(report(study), "Launch")


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
