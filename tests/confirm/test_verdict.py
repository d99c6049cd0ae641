from __future__ import annotations

from pathlib import Path

import pytest

from tests.confirm.studies import Study, gaining
from tuner.confirm.verdict import best_of_front, verdict_of
from tuner.launch import Configuration

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def test_without_a_confirmation_the_best_of_the_front_is_recommended(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, confirm={"repeats": 0, "finalists": 1}).search()
    best = best_of_front(study.ledger)
    found = verdict_of(study.confirm())
    assert [finding.trial for finding in found.findings] == [trial.number for trial in best]
    assert found.recommended == list(dict.fromkeys(trial.number for trial in best))
    keeps = Study(tmp_path / "b", lambda configuration: (0.4, 100.0) if "n_parallel" not in configuration else (0.8, 200.0), trials=8)
    keeps.changes["confirm"] = {"repeats": 0}
    keeps.ledger = keeps._open()
    assert [finding.kind for finding in verdict_of(keeps.search().confirm()).findings] == ["default_best", "unconfirmed"]


def test_a_finalist_that_is_as_good_and_better_elsewhere_is_named(tmp_path: Path) -> None:
    """The search saw two ends of a front; when measured again one of them turns out to have both."""
    study = Study(tmp_path, gaining(1.25, 1.25), 0.01, trials=12).search()
    study.shown = lambda configuration: (
        (0.4, 100.0) if "n_parallel" not in configuration else (0.3, 125.0) if float(configuration["n_parallel"]) >= 8 else (0.3, 90.0)
    )
    confirmation = study.confirm()
    latency, throughput = verdict_of(confirmation).findings
    assert (latency.kind, throughput.kind) == ("improved", "improved")
    assert latency.trial != throughput.trial
    assert latency.rival is not None
    assert latency.rival.trial == throughput.trial
    assert latency.rival.here.percent == pytest.approx(0, abs=4)
    assert latency.rival.elsewhere["output_tokens_per_s@4"].percent == pytest.approx(39, abs=6)
    assert throughput.rival is None
    many = next(arm for arm, trial in enumerate(confirmation.arms) if trial.number == throughput.trial)
    confirmation.chance = lambda margin, arm: (0.1 if arm == many else 1.0, "an SLO")  # type: ignore[method-assign]
    assert verdict_of(confirmation).findings[0].rival is None


def test_a_finalist_that_is_better_still_is_recommended_once(tmp_path: Path) -> None:
    """Measured again, the finalist for throughput is the faster one too, with no difference in throughput."""
    study = Study(tmp_path, gaining(1.25, 1.25), 0.005, trials=12).search()
    study.shown = lambda configuration: (
        (0.4, 100.0) if "n_parallel" not in configuration else (0.2 if float(configuration["n_parallel"]) >= 8 else 0.3, 125.0)
    )
    confirmation = study.confirm()
    latency, throughput = verdict_of(confirmation).findings
    assert confirmation.finalists.claims[0].arm != confirmation.finalists.claims[1].arm
    assert confirmation.rounds().standing.decided[0].arm == confirmation.finalists.claims[0].arm
    assert latency.trial == throughput.trial == confirmation.arms[confirmation.finalists.claims[1].arm].number
    assert latency.gain is not None
    assert latency.gain.percent == pytest.approx(50, abs=3)
    assert verdict_of(confirmation).recommended == [latency.trial]


def test_no_finding_is_told_twice(tmp_path: Path) -> None:
    """Two ends and a knee that claims both objectives; measured again, one end is better than the others in everything."""

    def front(configuration: Configuration) -> tuple[float, float]:
        slots = float(configuration.get("n_parallel", 0))
        return (0.4, 100.0) if not slots else (0.2, 105.0) if slots < 5 else (0.25, 160.0) if slots < 11 else (0.38, 180.0)

    study = Study(tmp_path, front, 0.005, trials=16, confirm={"finalists": 3}).search()
    study.shown = lambda configuration: (0.1, 300.0) if float(configuration.get("n_parallel", 0)) >= 11 else front(configuration)
    confirmation = study.confirm()
    assert len(confirmation.rounds().standing.decided) == 4
    found = verdict_of(confirmation).findings
    assert [finding.objective for finding in found] == study.ledger.settings.objective_labels
    assert {finding.trial for finding in found} == {confirmation.arms[2].number}
