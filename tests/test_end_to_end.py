"""Whole studies as a user runs them: the command line, the real llama.cpp engine with the nano model, the real genai-bench."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil
import pytest
from optuna.trial import TrialState

from tests.user import DEADLINE_S, Run, wait_until

pytestmark = pytest.mark.slow


def in_trial(run: Run, number: int) -> Callable[[], bool]:
    """Whether a server of the trial runs."""

    def serves(process: psutil.Process) -> bool:
        try:
            return any(f"llamacpp-{number}-" in word for word in process.cmdline())
        except psutil.Error:
            return False  # it has just ended

    return lambda: any(map(serves, run.processes()))


def test_a_study_ends_with_a_front_and_the_same_command_has_nothing_left_to_do(run: Run) -> None:
    code, output = run.finish("trials=4")
    assert code == 0, output
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

    code, output = run.finish("trials=5")
    assert code == 0, output
    assert len(run.finished()) == 5


def test_another_workload_under_the_same_name_is_refused(run: Run) -> None:
    assert run.finish("trials=1")[0] == 0
    code, output = run.finish("trials=2", "workload.levels=[1,3]")
    assert code == 2
    assert output.strip().count("\n") == 0
    assert "workload.levels" in output
    assert "study_name" in output


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_leaves_nothing_and_ends_with_the_number_asked_for(run: Run, stop: signal.Signals) -> None:
    process = run.start("trials=3", "workload.min_requests=64")
    wait_until(in_trial(run, 1), "trial 1 runs")
    process.send_signal(stop)
    output, _ = process.communicate(timeout=DEADLINE_S)
    if stop == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, output
        assert "same command" in output
    wait_until(lambda: not run.processes(), "nothing of the old run is left")

    code, output = run.finish("trials=3", "workload.min_requests=64")
    assert code == 0, output
    assert len(run.finished()) == 3
    assert not run.trials(TrialState.RUNNING)
    assert not run.trials(TrialState.WAITING)
    assert run.processes() == []


def test_a_configuration_that_cannot_serve_the_traffic_is_infeasible_and_the_study_goes_on(run: Run) -> None:
    fixed = {"n_parallel": "1", "kv_unified": "false", "flash_attn": "auto", "cont_batching": "true", "n_batch": "512"}
    space = ["space.n_ctx={type:ordinal,choices:[256,8192]}", *(f"space.{name}={value}" for name, value in fixed.items())]
    code, output = run.finish("trials=2", "workload.scenario=D(300,8)", *space)
    assert code == 0, output
    outcomes = {t.user_attrs["outcome"]: t for t in run.finished()}
    assert set(outcomes) == {"measured", "infeasible"}, output
    infeasible = outcomes["infeasible"]
    assert infeasible.state == TrialState.PRUNED
    assert "context" in infeasible.user_attrs["reason"]
    assert infeasible.user_attrs["reason"] in output


def test_a_users_experiment_in_the_working_directory(run: Run) -> None:
    experiment = run.folder / "conf/experiment/mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nstudy_name: mine\ntrials: 1\n")
    code, output = run.finish("+experiment=mine")
    assert code == 0, output
    assert "Study mine" in output
    assert (run.folder / "studies/mine/trial-0000/trial.json").exists()


def test_a_wrong_model_path_is_one_line_and_creates_no_study(run: Run) -> None:
    code, output = run.finish("engine.model=/no/such/model.gguf")
    assert code == 3
    assert output.strip().count("\n") == 0
    assert "engine.model=/no/such/model.gguf" in output
    assert run.trials() == []
