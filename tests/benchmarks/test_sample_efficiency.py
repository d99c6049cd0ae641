"""Comparisons of samplers on tables: cases, truth, statistics, and a whole comparison."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.efficiency import statistics
from benchmarks.efficiency.case import Case, read_arm, read_case
from benchmarks.efficiency.comparison import compare
from benchmarks.efficiency.play import Deployment, Search, checked_engine, search
from benchmarks.efficiency.truth import Truth, truth_of
from benchmarks.sample_efficiency import main
from tests.replay.recording import OBJECTIVES, ROWS, SPACE, write
from tuner.errors import ConfigError

GPU = {"name": "small", "memory_gib": 24.0, "count": 2}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return read_case(case_file(tmp_path))


def case_file(folder: Path, **changes: Any) -> Path:
    write(folder / "table.csv")
    path = folder / "case.yaml"
    engine = {"table": "table.csv", "replays": "sglang", "gpu": GPU, "noise": 0.0}
    content = {"name": "small", "engine": engine, "space": dict(SPACE), "objectives": OBJECTIVES} | changes
    path.write_text(yaml.safe_dump(content))
    return path


def truth(case: Case, reference: list[float] | None = None) -> Truth:
    settings = case.settings(read_arm("random"), 4, 0, Path())
    return truth_of(settings, checked_engine(settings), reference)


class TestCase:
    def test_a_case_file(self, case: Case, tmp_path: Path) -> None:
        settings = case.settings(read_arm("random"), 7, 3, tmp_path)
        assert settings.workload.levels == (4, 64)
        assert (settings.trials, settings.seed, settings.engine.seed) == (7, 3, 3)
        assert settings.study_name == "small"

    def test_a_bare_space_with_all_else_on_the_command_line(self, tmp_path: Path) -> None:
        write(tmp_path / "table.csv")
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(dict(SPACE)))
        wanted = ["ttft_p99_s@min:minimize", "output_tokens_per_s@64:maximize"]
        read = read_case(tmp_path / "space.yaml", str(tmp_path / "table.csv"), wanted, ["ttft_p99_s@64<=0.5"], 0.1, [4, 16, 64])
        settings = read.settings(read_arm("tpe"), 5, 0, tmp_path)
        assert settings.objective_labels == ["ttft_p99_s@4", "output_tokens_per_s@64"]
        assert [slo.label((4, 16, 64)) for slo in settings.constraints] == ["ttft_p99_s@64<=0.5"]
        assert settings.engine.noise.run["ttft_p99_s"] == 0.1

    @pytest.mark.parametrize(
        ("changes", "options", "wrong"),
        [
            ({"engin": {}}, [], r"case\.yaml: engin: unknown key \(did you mean engine\?\)"),
            (
                {"objectives": []},
                [],
                r"--objective: missing; give one or more, as --objective ttft_p99_s@64:minimize; .* has ttft_p99_s, output",
            ),
            ({"engine": {}}, [], r"case\.yaml: names no table; give one with --table FILE"),
            ({}, ["--objective", "ttft_p99_s"], r"--objective ttft_p99_s: not of the form"),
            ({}, ["--objective", "ttft_p99_s@4:lower"], r"objectives\.0\.direction: 'lower' is not allowed; use one of minimize, maximize"),
            ({}, ["--objective", "ttft_p98_s@4:minimize"], r"objectives\.0\.metric: 'ttft_p98_s' is no metric"),
            ({}, ["--constraint", "ttft_p99_s@4<0.1"], r"--constraint ttft_p99_s@4<0\.1: not of the form"),
            ({}, ["--constraint", "ttft_p99_s@4<=0.000001"], r"no configuration in the space was measured and meets all constraints"),
            ({}, ["--samplers", "tpe,annealing"], r"sampler\.name: 'annealing' is not allowed"),
            ({}, ["--samplers", "tpe,tpe"], r"--samplers: an arm stands there twice"),
            ({}, ["--samplers", "tpe:fast"], r"--samplers: 'fast' in 'tpe:fast' sets nothing"),
            ({}, ["--samplers", "tpe:gate=maybe"], r"--samplers: gate=maybe in .* use on or off"),
            ({}, ["--levels", "4,x"], r"--levels 4,x: no numbers"),
            ({}, ["--levels", "4,64,128"], r"workload\.levels: .* 128 is beyond"),
            ({}, ["--reference", "1"], r"--reference: 1 values for 2 objectives"),
            ({}, ["--reference", "0,1e9"], r"--reference: nothing on the true front is better"),
            ({}, ["--table", "no/such.csv"], r"engine\.table: cannot read no/such\.csv"),
        ],
    )
    def test_errors(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], options: list[str], wrong: str
    ) -> None:
        assert main(["--space", str(case_file(tmp_path, **changes)), "--samplers", "random", *options, "--out", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1, message
        assert re.search(wrong, message), message

    def test_a_space_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--space .*missing\.yaml: cannot be read"):
            read_case(tmp_path / "missing.yaml")
        (tmp_path / "list.yaml").write_text("[1, 2]")
        with pytest.raises(ConfigError, match=r"^--space .*list\.yaml: \[1, 2\] does not map"):
            read_case(tmp_path / "list.yaml")

    def test_an_arm_has_settings_of_its_own(self) -> None:
        arm = read_arm("ehvi:prior=none:startup_trials=7:pruner=front:gate=off")
        assert arm.sampler == {"name": "ehvi", "prior": "none", "startup_trials": 7, "warm_start": True}
        assert (arm.pruner, arm.gate) == ({"name": "front"}, False)


class TestTruth:
    def test_the_front_is_that_of_the_feasible_rows(self, case: Case) -> None:
        known = truth(case)
        measured = [row["outcome"] == "measured" for row in ROWS]
        assert known.feasible.tolist() == measured
        values = np.array([[row["ttft_p99_s@4"], -row["output_tokens_per_s@64"]] for row, good in zip(ROWS, measured, strict=True) if good])
        best = [one for one in values if not any((other <= one).all() and (other < one).any() for other in values)]
        assert known.front.tolist() == np.unique(best, axis=0).tolist()

    def test_shares(self, case: Case) -> None:
        known = truth(case)
        assert known.share([]) == 0.0
        assert known.share(range(len(ROWS))) == pytest.approx(1.0)
        infeasible = [i for i, good in enumerate(known.feasible) if not good]
        assert known.share(infeasible) == 0.0
        some = known.share(range(0, len(ROWS), 3))
        assert 0 < some < 1

    def test_a_share_reckoned_by_hand(self, tmp_path: Path) -> None:
        rows = [
            {"tp_size": tp, "ttft_p99_s@4": t, "output_tokens_per_s@4": o}
            for tp, t, o in ((1, 1.0, 100), (2, 2.0, 300), (4, 3.0, 400), (8, 3.5, 90))
        ]
        write(tmp_path / "other.csv", rows)
        (tmp_path / "space.yaml").write_text(yaml.safe_dump({"tp_size": {"type": "power_of_two", "low": 1, "high": 8, "default": 1}}))
        wanted = ["ttft_p99_s@4:minimize", "output_tokens_per_s@4:maximize"]
        known = truth(read_case(tmp_path / "space.yaml", str(tmp_path / "other.csv"), wanted), [4.0, 50.0])
        # rectangles up to (4 s, 50 tokens/s): 1 x 50 + 1 x 250 + 1 x 350 of the front, of the second row alone 2 x 250
        assert known.share([1]) == pytest.approx(500 / (1 * 50 + 1 * 250 + 1 * 350))

    def test_the_reference_lies_beyond_the_front(self, case: Case) -> None:
        known = truth(case)
        assert (known.reference > known.front.max(axis=0)).all()
        (worst, best) = known.front.max(axis=0), known.front.min(axis=0)
        assert known.reference == pytest.approx(worst + 0.1 * np.maximum(worst - best, abs(worst)))

    def test_one_objective_is_a_normalised_regret(self, tmp_path: Path) -> None:
        known = truth(read_case(case_file(tmp_path, objectives=OBJECTIVES[:1])))
        times = [row["ttft_p99_s@4"] for row in ROWS if row["outcome"] == "measured"]
        row = next(i for i, one in enumerate(ROWS) if one["outcome"] == "measured")
        assert known.share([row]) == pytest.approx((max(times) - ROWS[row]["ttft_p99_s@4"]) / (max(times) - min(times)))

    def test_constraints_and_the_space_cut_the_table(self, tmp_path: Path) -> None:
        constraints = [{"metric": "ttft_p99_s", "at": 64, "max": 0.5}]
        known = truth(read_case(case_file(tmp_path, constraints=constraints, space=SPACE | {"tp_size": 2})))
        expected = [row["outcome"] == "measured" and row["ttft_p99_s@64"] <= 0.5 and row["tp_size"] == 2 for row in ROWS]
        assert known.feasible.tolist() == expected


def made_up(arm: str, seed: int, shares: list[float]) -> Search:
    deployments = [Deployment(2, "measured", False, False, share, 0.5 * i, 0.01) for i, share in enumerate(shares, 1)]
    return Search(arm, seed, deployments, 0, 1.0)


class TestStatistics:
    def test_targets(self) -> None:
        one = made_up("tpe", 0, [0.1, 0.5, 0.92, 0.92])
        assert statistics.reached_after(one, 0.9) == 3
        assert statistics.gpu_hours_to(one, 0.9) == 1.5
        assert statistics.reached_after(one, 0.95) == math.inf
        assert [statistics.share_after(one, count) for count in (1, 4, 50)] == [0.1, 0.92, 0.92]

    def test_intervals_cover_the_mean_as_often_as_they_say(self) -> None:
        rng = np.random.default_rng(5)
        covered = 0
        for _ in range(100):
            found = statistics.estimate(rng.normal(0.5, 0.1, 30).tolist())
            covered += found.low <= 0.5 <= found.high
        assert 85 <= covered <= 100

    def test_differences_are_paired(self) -> None:
        rng = np.random.default_rng(5)
        first = rng.uniform(0, 1, 20)
        found = statistics.difference((first + 0.01 + rng.normal(0, 0.001, 20)).tolist(), first.tolist())
        assert found.estimate.mean == pytest.approx(0.01, abs=0.001)
        assert found.estimate.low > 0
        assert found.p < 0.001
        assert statistics.difference(first.tolist(), first.tolist()).p == 1.0

    def test_counts(self) -> None:
        assert statistics.counts_up_to(50) == [5, 10, 20, 30, 50]
        assert statistics.counts_up_to(24) == [5, 10, 20, 24]
        assert statistics.counts_up_to(3) == [3]


def played(case: Case, arm: str, trials: int = 16, seed: int = 0) -> Search:
    return search(case, read_arm(arm), trials, seed, truth(case))


class TestSearch:
    def test_it_is_the_same_every_time(self, tmp_path: Path) -> None:
        case = read_case(case_file(tmp_path), noise=0.05)
        one, again = (played(case, "random") for _ in range(2))
        assert [(d.line, d.outcome, d.share, d.gpu_hours) for d in one.deployments] == [
            (d.line, d.outcome, d.share, d.gpu_hours) for d in again.deployments
        ]
        assert [d.line for d in played(case, "random", seed=1).deployments] != [d.line for d in one.deployments]

    def test_it_has_as_many_deployments_as_asked_and_none_twice(self, case: Case) -> None:
        found = played(case, "tpe")
        assert len(found.deployments) == 16
        assert not any(d.duplicate for d in found.deployments)
        assert found.deployments[0].line == 2 + next(i for i, row in enumerate(ROWS) if row["mem_fraction_static"] == 0.8) + 3

    def test_shares_grow_to_all_there_is(self, case: Case) -> None:
        found = played(case, "random", trials=len(ROWS))
        shares = [d.share for d in found.deployments]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)
        hours = [d.gpu_hours for d in found.deployments]
        assert hours == sorted(hours)

    def test_gpu_hours_are_those_of_the_table(self, tmp_path: Path) -> None:
        space = SPACE | {"mem_fraction_static": SPACE["mem_fraction_static"] | {"high": 0.8}}
        found = played(read_case(case_file(tmp_path, space=space)), "random:gate=off")
        assert {d.outcome for d in found.deployments} == {"measured", "infeasible"}
        rows = [ROWS[d.line - 2] for d in found.deployments]
        expected = sum(row["tp_size"] * {"measured": 100 + 10 + 60, "oom_load": 30}[row["outcome"]] for row in rows)
        assert found.deployments[-1].gpu_hours == pytest.approx(expected / 3600)

    def test_the_gate_may_be_left_out(self, tmp_path: Path) -> None:
        case = read_case(case_file(tmp_path, engine={"table": "table.csv", "replays": "sglang", "gpu": GPU | {"count": 1}, "noise": 0.0}))
        with_gate, without = played(case, "random", len(ROWS)), played(case, "random:gate=off", len(ROWS))
        assert not any(ROWS[d.line - 2]["tp_size"] == 2 for d in with_gate.deployments)
        assert with_gate.refused > 0
        assert [d.certain for d in without.deployments] == [ROWS[d.line - 2]["tp_size"] == 2 for d in without.deployments]


@pytest.mark.slow
def test_a_whole_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--samplers", "tpe,random,random:gate=off", "--trials", "12", "--seeds", "3", "--noise", "0.05", "--jobs", "2"]
    assert main(["--space", str(case_file(tmp_path)), *options, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert len([line for line in shown.err.splitlines() if "% of the front after 12 deployments" in line]) == 9
    for text in ("| tpe |", "| random:gate=off |", "share after 10", "infeasible: certain", "less tpe", "p="):
        assert text in shown.out
    assert (tmp_path / "out/small.md").read_text() in shown.out
    assert (tmp_path / "out/small.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out/small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 12
    assert {row["sampler"] for row in rows} == {"tpe", "random", "random:gate=off"}


def test_arms_meet_at_every_seed(case: Case) -> None:
    told: list[int] = []
    found = compare(case, [read_arm("random"), read_arm("qmc")], 8, 2, on_search=lambda one, done: told.append(done))
    assert told == [1, 2, 3, 4]
    assert {arm: [one.seed for one in searches] for arm, searches in found.searches.items()} == {"random": [0, 1], "qmc": [0, 1]}
    assert found.counts == [5, 8]
    assert set(found.differences(8)) == {"qmc"}
    assert [summary.arm for summary in found.summaries()] == ["random", "qmc"]
