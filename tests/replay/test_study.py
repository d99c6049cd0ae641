"""Whole studies on a table: the real runner, study, gate and report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.replay.recording import ROWS, SPACE, settings, write
from tuner.benchmark.measurement import Measurement
from tuner.parties import decide
from tuner.replay.bench import ReplayBench
from tuner.session import run_study
from tuner.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

FINISHED = ("measured", "infeasible", "pruned")
GPU = {"name": "small", "memory_gib": 24.0, "count": 1}


def run(experiment: Settings) -> list[optuna.trial.FrozenTrial]:
    assert run_study(decide(experiment), -1) == 0
    return trials(experiment)


def trials(experiment: Settings) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=experiment.study_name, storage=experiment.storage.url)
    return [trial for trial in study.trials if trial.user_attrs.get("outcome") in FINISHED]


def shown(found: list[optuna.trial.FrozenTrial]) -> list[Any]:
    return [(trial.user_attrs["outcome"], trial.user_attrs["durations_s"], str(trial.user_attrs["measurements"])) for trial in found]


def test_a_study_has_as_many_trials_as_asked_and_all_outcomes(tmp_path: Path) -> None:
    found = run(settings(tmp_path, trials=20))
    assert len(found) == 20
    memory = {trial.user_attrs["memory"] for trial in found if trial.user_attrs["outcome"] == "infeasible"}
    assert memory == {"load", "run"}
    kept = [trial.user_attrs["measurements"] for trial in found if trial.user_attrs.get("memory") == "run"]
    assert all(set(levels) == {"4"} for levels in kept), "what was measured before it failed"


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_values_are_those_of_the_table_but_for_the_noise(tmp_path: Path, noise: float) -> None:
    for trial in run(settings(tmp_path, engine={"noise": noise})):
        if trial.user_attrs["outcome"] == "measured" and not trial.user_attrs.get("default"):
            row = next(row for row in ROWS if trial.user_attrs["configuration"].items() <= row.items())
            exact = [row["ttft_p99_s@4"], row["output_tokens_per_s@64"]]
            assert trial.values == pytest.approx(exact, rel=6 * noise or 1e-9)
            assert (trial.values == exact) is (noise == 0)
            assert trial.user_attrs["durations_s"] == {"deploy": 100, "warm-up": 10, "load": 60}
            assert trial.user_attrs["gpus"] == row["tp_size"]


def test_an_interrupted_study_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
        write(folder / "table.csv")
    noise = {"run": 0.05, "deployment": 0.05, "drift": 0.01}
    expected = by_configuration(run(settings(whole, trials=16, engine={"noise": noise})))
    measure, levels = ReplayBench.run, iter(range(100))

    def break_off(*arguments: Any, **named: Any) -> Measurement:
        if next(levels) == 11:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(ReplayBench, "run", break_off)
    experiment = settings(halves, trials=16, engine={"noise": noise})
    with pytest.raises(KeyboardInterrupt):
        run(experiment)
    before = trials(experiment)
    assert 0 < len(before) < 16
    monkeypatch.setattr(ReplayBench, "run", measure)
    after = run(experiment)
    assert len(after) == 16
    assert shown(after[: len(before)]) == shown(before)
    early = by_configuration(before)
    assert {name: early[name] for name in early} == {name: expected[name] for name in early}


def by_configuration(found: list[optuna.trial.FrozenTrial]) -> dict[str, str]:
    return {str(trial.params): str(trial.user_attrs["measurements"]) for trial in found}


def test_virtual_time_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Drift is a matter of the hour: the same trial measures the same, whether it runs at once or in a second run."""
    drift = {"run": 0.0, "drift": 0.5}
    at_once = settings(tmp_path, study_name="at-once", trials=2, engine={"noise": drift, "seed": 1}, space=SPACE)
    first, second = (
        settings(tmp_path, study_name="twice", trials=count, engine={"noise": drift, "seed": 1}, space=SPACE) for count in (1, 2)
    )
    whole = run(at_once)
    run(first)
    halves = run(second)
    hours = [sum(trial.user_attrs["durations_s"].values()) / 3600 for trial in whole]
    for found in (whole, halves):
        row = next(row for row in ROWS if found[1].user_attrs["configuration"].items() <= row.items())
        if row["outcome"] == "measured":
            slower = found[1].user_attrs["measurements"]["4"]["ttft"]["p99"] / row["ttft_p99_s@4"]
            assert slower == pytest.approx(1.5 ** (hours[0] + (row["deploy_s"] + row["warmup_s"] + 20) / 3600))


def test_what_the_table_lacks_is_refused_and_not_counted(tmp_path: Path) -> None:
    kept = ROWS[4:12]
    write(tmp_path / "table.csv", kept)
    found = run(settings(tmp_path, trials=40, space=SPACE | {"tp_size": 1}, engine={"replays": None}))
    assert len(found) == len(kept), "the study ends when all there is is known"
    study = optuna.load_study(study_name="recorded", storage=f"sqlite:///{tmp_path / 'tuner.db'}")
    refused = [trial.user_attrs["reason"] for trial in study.trials if trial.user_attrs.get("outcome") == "refused"]
    assert refused
    assert all(reason.startswith("not in the table: table.csv has no row with") for reason in refused)


def test_the_gate_knows_the_recorded_gpus(tmp_path: Path) -> None:
    experiment = settings(tmp_path, trials=40, engine={"gpu": GPU})
    run(experiment)
    study = optuna.load_study(study_name="recorded", storage=f"sqlite:///{tmp_path / 'tuner.db'}")
    refused = {trial.user_attrs["reason"] for trial in study.trials if trial.user_attrs.get("outcome") == "refused"}
    assert "tp_size=2 needs 2 GPUs, backend.gpus has 1" in refused
    assert not [t for t in trials(experiment) if t.user_attrs["configuration"].get("tp_size") == 2]


def test_without_an_engine_there_is_no_gate(tmp_path: Path) -> None:
    space = SPACE | {"tp_size": SPACE["tp_size"] | {"default": 1}}
    found = run(settings(tmp_path, trials=40, space=space, engine={"gpu": GPU, "replays": None}))
    assert len(found) == len(ROWS), "not even what lessons of memory would refuse"
    assert {trial.user_attrs["gpus"] for trial in found} == {1}


def test_failures_of_the_noise_are_tried_again(tmp_path: Path) -> None:
    experiment = settings(tmp_path, trials=12, max_consecutive_failures=100, engine={"noise": {"run": 0.0, "failures": 0.5}})
    assert len(run(experiment)) == 12
    study = optuna.load_study(study_name="recorded", storage=experiment.storage.url)
    failed = [trial for trial in study.trials if trial.user_attrs.get("outcome") == "failed"]
    assert failed
    assert all("engine.noise.failures" in trial.user_attrs["reason"] for trial in failed)
    assert {trial.user_attrs["retry_of"] for trial in study.trials if "retry_of" in trial.user_attrs} <= {trial.number for trial in failed}


def test_what_is_no_number_comes_back_from_the_storage(tmp_path: Path) -> None:
    found = next(trial for trial in run(settings(tmp_path)) if trial.user_attrs["outcome"] == "measured")
    kept = Measurement.from_dict(found.user_attrs["measurements"]["4"])
    assert math.isfinite(kept.ttft.p99)
    assert math.isnan(kept.latency.p99)
    assert Measurement.from_dict(kept.to_dict()).metric("ttft_p99_s") == kept.metric("ttft_p99_s")
