"""What the benchmark of pruners compares with and reckons, and what the page on it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.pruners.play import Trial, share_at
from benchmarks.pruners.references import REDUCTION, STARTUP, Median, Moasha
from benchmarks.pruners.report import line, markdown
from benchmarks.pruning import main
from tests.doubles import measurement, settings, timing
from tuner.composition import CONF
from tuner.search_settings import PrunerSettings

PAGE = Path(__file__).parents[2] / "docs" / "pruning.md"


def trial(row: int, outcome: str = "measured", load_s: float = 10.0, gpu_hours: float = 1.0, share: float = 0.0) -> Trial:
    return Trial(row, outcome, load_s, 10.0, gpu_hours, 1.0, share)


def test_the_median_rule_stops_what_is_worse_than_the_median_in_every_metric(tmp_path: Path) -> None:
    rule = Median(settings(tmp_path))
    before = np.array([[float(i), float(i)] for i in range(STARTUP)])
    assert rule.stops(np.array([2.5, 2.5]), before)
    assert not rule.stops(np.array([2.5, 1.5]), before)
    assert not rule.stops(np.array([9.0, 9.0]), before[1:])


def test_successive_halving_keeps_the_first_third_by_fronts_and_within_one_by_distance(tmp_path: Path) -> None:
    rule = Moasha(settings(tmp_path))
    line = np.array([[0.0, 1.0], [0.1, 0.9], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]])  # one front
    assert not rule.stops(np.array([1.0, 0.0]), line), "the end that is farthest from the first"
    assert rule.stops(np.array([0.05, 0.95]), line), "close to others"
    assert rule.stops(np.array([2.0, 2.0]), line), "dominated"
    assert not rule.stops(np.array([2.0, 2.0]), line[: REDUCTION - 2])


def test_a_reference_never_stops_after_the_last_level(tmp_path: Path) -> None:
    rule = Median(settings(tmp_path))
    for _ in range(STARTUP + 1):
        shown = {1: measurement(1)}
        assert rule.next_level(shown) == 4
        assert rule.hopeless(shown) is None
    assert rule.hopeless({1: measurement(1, latency=timing(9.0), output_tokens_per_s=1.0)}) is not None
    assert rule.hopeless({1: measurement(1), 4: measurement(4, latency=timing(9.0), output_tokens_per_s=1.0)}) is None


def test_a_trial_counts_when_it_is_paid_for() -> None:
    search = [trial(1, share=0.2), trial(2, share=0.6)]
    assert [share_at(search, hours) for hours in (0.5, 1.0, 1.9, 2.0, 9.0)] == [0.0, 0.2, 0.2, 0.6, 0.6]


def test_a_line_counts_what_is_saved_and_lost() -> None:
    plain = [trial(1, share=0.2), trial(2, share=0.6)]
    pruned = [trial(1, "pruned", 5.0, 0.5), trial(2, share=0.5), trial(3, share=0.5, gpu_hours=0.5), trial(4, "infeasible")]
    one = line({"none": [plain] * 2, "some": [pruned] * 2}, "some", frozenset({1, 2, 4}))
    assert (one.trials, one.stopped, one.deployed, one.lost) == (4, 0.25, 4, 2)
    assert one.load_saved == pytest.approx(5 / 40)
    assert one.gpu_saved == pytest.approx(1 / 4)
    assert one.shares == (0.0, 0.5)
    assert one.differences[1].estimate.mean == pytest.approx(-0.1)
    assert "| a | 4 | 25% | 12.5% | 25.0% | 4 | 2 | 0.0% | -20.0 [-20.0, -20.0] | 50.0% | -10.0 [-10.0, -10.0] |" in markdown({"a": one})


def test_a_pruner_that_is_not_there_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pruners", "none,hyperband"]) == 2
    assert capsys.readouterr().err == "pruning: --pruners none,hyperband: hyperband is none of none, slo, front, median, moasha\n"


@pytest.mark.parametrize("name", ["front", "slo", "none"])
def test_what_ships_is_the_default(name: str) -> None:
    shipped = PrunerSettings(**yaml.safe_load((CONF / "pruner" / f"{name}.yaml").read_text()))
    assert shipped == PrunerSettings(name=name)  # type: ignore[arg-type]
