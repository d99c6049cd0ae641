"""Whole studies as a user runs them: the command line, the real llama.cpp engine with the nano model, the real genai-bench.

Most runs start as forks (`WarmRun`): a process of its own each, without the seconds of its imports.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial

import psutil
import pytest
from optuna.trial import TrialState

from tests.user import DEADLINE_S, wait_until
from tests.warm_tuner import WarmRun

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def in_trial(run: WarmRun, number: int) -> Callable[[], bool]:
    """Whether a server of the trial runs."""

    def serves(process: psutil.Process) -> bool:
        try:
            return any(f"llamacpp-{number}-" in word for word in process.cmdline())
        except psutil.Error:
            return False  # it has just ended

    return lambda: any(map(serves, run.processes()))


def test_a_study_ends_with_a_front_has_then_nothing_left_to_do_goes_on_for_more_and_for_nothing_else(run: WarmRun) -> None:
    process = run.start("trials=4")
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    finished = run.finished()
    assert len(finished) == 4
    assert [t.number for t in finished if t.user_attrs.get("default")] == [0]
    assert "Pareto front" in output
    assert "engine defaults" in output
    assert "tuner.engines.llamacpp_server" in output, "no launch command"
    assert run.processes() == []
    for trial in finished:
        attributes = trial.user_attrs
        assert attributes["outcome"] == "measured"
        assert set(attributes["measurements"]) == {"1", "2"}
        assert set(attributes["durations_s"]) == {"deploy", "warm-up", "load"}
        assert attributes["versions"]["genai_bench"] == "0.0.5"
        assert attributes["effective"]["n_ctx"] >= 8192
        asked = {name: value for name, value in attributes["configuration"].items() if name in ("n_parallel", "cont_batching")}
        assert asked.items() <= attributes["effective"].items()
        folder = run.folder / attributes["folder"]
        assert {"server.log", "trial.json", "level-1.json", "level-2.json"} <= {path.name for path in folder.iterdir()}

    code, output = run.finish("trials=4")
    assert code == 0, output
    assert len(run.trials()) == len(finished), "a finished study ran again"
    assert "Pareto front" in output

    code, output = run.finish("trials=5", "workload.levels=[1,3]")
    assert code == 2
    assert output.strip().count("\n") == 0
    assert "workload.levels" in output
    assert "study_name" in output

    code, output = run.finish("trials=5")
    assert code == 0, output
    assert len(run.finished()) == 5


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_leaves_nothing_and_ends_with_the_number_asked_for(run: WarmRun, stop: signal.Signals) -> None:
    process = run.fork("trials=2", "workload.min_requests=64")
    wait_until(in_trial(run, 1), "trial 1 runs")
    process.send_signal(stop)
    output, _ = process.communicate(timeout=DEADLINE_S)
    if stop == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, output
        assert "same command" in output
    wait_until(lambda: not run.processes(), "nothing of the old run is left")

    code, output = run.finish("trials=2", "workload.min_requests=64")
    assert code == 0, output
    assert len(run.finished()) == 2
    assert not run.trials(TrialState.RUNNING)
    assert not run.trials(TrialState.WAITING)
    assert run.processes() == []


def test_hopeless_trials_are_stopped_and_the_best_is_confirmed_across_an_interruption(run: WarmRun) -> None:
    """The more slots share the processor, the slower is each: with 32 the tokens of 32 users come too slowly, with one faster than with the
    default's four."""
    fixed = {"kv_unified": "false", "flash_attn": "auto", "cont_batching": "true", "n_batch": "512"}
    study = (
        *("trials=3", "pruner.name=front", "pruner.order=down", "confirm.repeats=3", "study_name=mine"),
        *("workload.scenario=D(20,64)", "workload.levels=[1,32]", "workload.requests_per_user=1"),
        *("objectives.0.metric=tpot_p50_s", "objectives.0.at=max", "objectives.1.at=min"),
        "constraints=[{metric: tpot_p50_s, at: max, max: 0.004}]",
        *("~space.n_parallel", "+space.n_parallel={type:ordinal,choices:[1,4,32]}"),
        *(f"space.{name}={value}" for name, value in fixed.items()),
    )
    process = run.start(*study)
    confirmed = partial(run.trials, TrialState.COMPLETE, study="mine.confirm")
    wait_until(lambda: process.poll() is not None or len(confirmed()) >= 2, "the first round of the confirmation is over")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, output
    assert "Confirmation, round 1 of at most 3: the defaults again" in output
    assert "same command" in output
    searched = {trial.user_attrs["configuration"].get("n_parallel", "default"): trial.user_attrs for trial in run.trials(study="mine")}
    assert {slots: shown["outcome"] for slots, shown in searched.items()} == {"default": "measured", 1: "measured", 32: "pruned"}
    assert searched[32]["reason"] in output
    assert set(searched[32]["measurements"]) == {"32"}
    before = [trial.number for trial in confirmed()]

    code, output = run.finish(*study)
    assert code == 0, output
    assert "Confirmation, round 1" not in output
    [fastest] = (trial.number for trial in run.trials(study="mine") if trial.user_attrs["configuration"].get("n_parallel") == 1)
    better = f"tpot_p50_s@32: trial #{fastest} is better than the defaults by +"
    assert better in output
    assert [trial.number for trial in confirmed()][: len(before)] == before
    deployed = [(trial.user_attrs["round"], trial.user_attrs["arm"]) for trial in confirmed()]
    assert sorted(deployed) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert len(run.trials(study="mine")) == 3
    report = (run.folder / "studies/mine/report.md").read_text()
    assert better in report
    assert "| pruned | 1 |" in report
    assert run.processes() == []

    code, output = run.finish(*study)
    assert code == 0, output
    assert better in output
    assert len(confirmed()) == len(deployed), "a finished confirmation ran again"


def test_a_users_experiment_in_which_a_configuration_cannot_serve_the_traffic_goes_on(run: WarmRun) -> None:
    experiment = run.folder / "conf/experiment/mine.yaml"
    experiment.parent.mkdir(parents=True)
    space = {"n_parallel": 1, "kv_unified": False, "flash_attn": "auto", "cont_batching": True, "n_batch": 512}
    mine = {"study_name": "mine", "trials": 2, "space": {**space, "n_ctx": {"type": "ordinal", "choices": [256, 8192]}}}
    experiment.write_text(f"# @package _global_\n{json.dumps(mine)}\n")
    code, output = run.finish("+experiment=mine", "workload.scenario=D(300,8)")
    assert code == 0, output
    assert "Study mine" in output
    assert (run.folder / "studies/mine/trial-0000/trial.json").exists()
    outcomes = {t.user_attrs["outcome"]: t for t in run.finished()}
    assert set(outcomes) == {"measured", "infeasible"}, output
    infeasible = outcomes["infeasible"]
    assert infeasible.state == TrialState.PRUNED
    assert "context" in infeasible.user_attrs["reason"]
    assert infeasible.user_attrs["reason"] in output


def test_a_wrong_model_path_is_one_line_and_creates_no_study(run: WarmRun) -> None:
    code, output = run.finish("engine.model=/no/such/model.gguf")
    assert code == 3
    assert output.strip().count("\n") == 0
    assert "engine.model=/no/such/model.gguf" in output
    assert run.trials() == []
