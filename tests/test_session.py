from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.doubles import SPACE, BackendDouble, BenchmarkDouble, EngineDouble, World, measurement, settings, timing
from tuner import host, session
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.storage import open_storage
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

CONFIRM = {"repeats": 3, "finalists": 1, "drift_every": 0}
ALL: dict[str, Any] = {"confirm": CONFIRM | {"drift_every": 2}, "control": {"random": 2}}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Doubles in place of the engine, the backend and the benchmark; no pages."""
    world = World()
    monkeypatch.setattr(session, "create_engine", lambda settings: EngineDouble(world))
    monkeypatch.setattr(session, "create_backend", lambda settings, gpus, on_progress: BackendDouble(world))
    monkeypatch.setattr(session, "create_benchmark", lambda settings, engine, backend: BenchmarkDouble(world))
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)
    return world


def stop_at(world: World, stage: str, hit: int, error: BaseException) -> None:
    def at(reached: str) -> None:
        if reached == stage and world.calls.count(stage) == hit:
            raise error

    world.at = at


@pytest.mark.slow
class TestRunStudy:
    def test_from_beginning_to_end(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        assert session.run_study(settings(tmp_path), 0) == 0
        out, err = capsys.readouterr()
        headline, first, *_ = out.splitlines()
        assert headline.startswith(
            "Study some-study: llamacpp on backend local, traffic D(64,32) at 1, 4 users, 4 trials of 40 configurations"
        )
        assert first == "trial 1 of 4: #0 engine defaults"
        assert "4 of 4 trials: 4 measured" in out
        assert err == ""
        assert world.calls[:3] == ["check", "prepare", "reap"]
        assert world.calls.count("benchmark enter") == world.calls.count("benchmark exit") == 1
        assert world.calls[-1] == "benchmark exit"
        assert world.open == 0

    def test_records_the_host_and_the_engine(self, tmp_path: Path, world: World) -> None:
        session.run_study(settings(tmp_path), -1)
        attributes = opened(tmp_path).study.user_attrs
        assert attributes["host"] == host.describe() | {"gpus": []}
        assert attributes["backend"] == {}
        assert attributes["engine"] == {}
        assert attributes["settings"]["engine"]["model"] == "nano"

    def test_a_finished_study_runs_nothing_and_is_shown(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        session.run_study(settings(tmp_path), 0)
        before, _ = capsys.readouterr()
        world.calls.clear()
        assert session.run_study(settings(tmp_path), 0) == 0
        out, _ = capsys.readouterr()
        assert "benchmark enter" not in world.calls
        assert "deploy" not in world.calls
        assert out.strip() == before[before.index("\nStudy") :].strip()

    def test_quiet_prints_the_result_only(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        session.run_study(settings(tmp_path), -1)
        out, err = capsys.readouterr()
        assert out.startswith("\nStudy some-study: Pareto front and the engine's defaults\n")
        assert err == ""

    @pytest.mark.parametrize("stage", ["deploy", "ready", "run 4"])
    def test_interruption_tells_how_to_go_on(self, tmp_path: Path, world: World, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
        stop_at(world, stage, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            session.run_study(settings(tmp_path), 0)
        out, _ = capsys.readouterr()
        assert out.endswith(
            "Interrupted after 2 of 4 trials. The same command goes on from here.\n"
            f"Logs and results so far: {tmp_path}/studies/some-study/\n"
        )
        assert world.open == 0
        assert world.calls[-1] == "benchmark exit"
        stop_at(world, "", 0, KeyboardInterrupt())
        session.run_study(settings(tmp_path), 0)
        assert len(opened(tmp_path).finished) == 4

    def test_what_stops_every_trial_stops_the_study(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        stop_at(world, "deploy", 2, Systemic("engine.executable: cannot start 'sglang'"))
        with pytest.raises(Systemic):
            session.run_study(settings(tmp_path), 0)
        out, _ = capsys.readouterr()
        assert "Stopped after 1 of 4 trials. The same command goes on from here.\n" in out
        assert world.calls[-1] == "benchmark exit"

    def test_the_end_of_the_space_is_told(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        session.run_study(settings(tmp_path, confirm={"repeats": 0}, space={"n_parallel": SPACE["n_parallel"]}, trials=9), 0)
        out, _ = capsys.readouterr()
        assert "All 5 configurations of the space are known or refused; the study ends before 9 trials.\n" in out

    def test_refusals_are_told(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        world.refuses = lambda configuration: "too many" if configuration.get("n_parallel", 2) != 2 else None
        session.run_study(settings(tmp_path, confirm={"repeats": 0}, space={"n_parallel": SPACE["n_parallel"]}, trials=9), 0)
        out, _ = capsys.readouterr()
        assert re.search(r"^\d+ impossible configurations? w(as|ere) refused without a deployment\.$", out, re.MULTILINE)

    def test_a_space_without_a_possible_configuration_is_an_error(self, tmp_path: Path, world: World) -> None:
        world.refuses = lambda configuration: "tp_size=2 needs 2 GPUs, backend.gpus has 1"
        with pytest.raises(ConfigError, match=r"^space: none of its 40 configurations can run; the last refusal: tp_size=2 needs"):
            session.run_study(settings(tmp_path), 0)
        assert world.deployed == []

    def test_trials_of_a_killed_run_are_told(
        self, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = opened(tmp_path).ask()
        assert asked is not None
        monkeypatch.setattr("tuner.owner.Owner.alive", lambda owner: False)
        session.run_study(settings(tmp_path), 0)
        out, _ = capsys.readouterr()
        assert out.startswith("1 trial of a killed run will be tried again\n")
        assert len(opened(tmp_path).finished) == 4

    def test_removed_servers_are_told(
        self, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(BackendDouble, "reap", lambda backend: ["removed the server of study x"])
        session.run_study(settings(tmp_path), -1)
        assert capsys.readouterr().out.startswith("removed the server of study x\n")

    @pytest.mark.parametrize(
        ("device", "start"), [(None, "No NVIDIA device on this host: tuning a stand-in"), ("/dev/nvidia0", "Tuning a stand-in")]
    )
    def test_a_stand_in_is_called_one(
        self,
        tmp_path: Path,
        world: World,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        device: str | None,
        start: str,
    ) -> None:
        monkeypatch.setattr(host, "nvidia_device", lambda root=Path("/"): device)
        session.run_study(settings(tmp_path, stand_in_for="llama1b"), -1)
        notice = capsys.readouterr().out.splitlines()[0]
        assert notice.startswith(f"{start} for llama1b, llamacpp with the model nano on the CPU.")
        assert notice.endswith("the numbers say nothing about a GPU.")

    def test_nothing_is_started_where_the_backend_cannot(self, tmp_path: Path, world: World) -> None:
        stop_at(world, "check", 1, NotReadyError("no daemon"))
        with pytest.raises(NotReadyError):
            session.run_study(settings(tmp_path), 0)
        assert world.calls == ["check"]
        assert list(tmp_path.iterdir()) == []

    def test_another_experiment_of_the_same_name_is_refused(self, tmp_path: Path, world: World) -> None:
        session.run_study(settings(tmp_path), -1)
        with pytest.raises(ConfigError, match=r"with engine\.model=nano instead of micro"):
            session.run_study(settings(tmp_path, engine={"name": "llamacpp", "model": "micro"}), -1)

    def test_a_folder_that_cannot_be_is_one_line(self, tmp_path: Path, world: World) -> None:
        (tmp_path / "studies").write_text("a file")
        with pytest.raises(NotReadyError, match=r"^folder: cannot create .*some-study \(.*\); choose a folder that you may write to$"):
            session.run_study(settings(tmp_path), 0)


@pytest.mark.slow
class TestWhatFollowsTheSearch:
    """Drift checks, confirmation and control arm; 4 trials, a check after the second, 3 rounds."""

    def test_everything_in_its_order_around_one_load_generator(
        self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert session.run_study(settings(tmp_path, **ALL), 0) == 0
        out, _ = capsys.readouterr()
        marks = [
            "trial 2 of 4",
            "The defaults are measured again, to see whether the machine has changed",
            "trial 3 of 4",
            "trial 4 of 4",
            "Confirmation, round 1 of at most 3: the defaults again",
            "Confirmation, round 2 of at most 3: trial #",
            "Confirmation, round 3 of at most 3: the defaults again",
            "Control arm: 2 random trials, to see whether the search was worth it",
            "Study some-study: Pareto front and the engine's defaults",
            "4 of 4 trials: ",
            " is better than the defaults by +",
            "at equal deployments, ",
            "Recommended for ",
            "Report: ",
        ]
        places = [out.find(mark) for mark in marks]
        assert -1 not in places, marks[places.index(-1)]
        assert places == sorted(places)
        assert len(world.deployed) == 4 + 1 + 3 * 2 + 2
        assert world.calls.count("benchmark enter") == world.calls.count("benchmark exit") == 1
        assert world.open == 0
        report = (tmp_path / "studies/some-study/report.md").read_text()
        assert all(heading in report for heading in ("## Verdict", "## Confirmation", "## Drift", "| control arm |"))

    def test_a_finished_one_starts_no_load_generator_and_says_the_same(
        self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        session.run_study(settings(tmp_path, **ALL), -1)
        before, _ = capsys.readouterr()
        world.calls.clear()
        assert session.run_study(settings(tmp_path, **ALL), -1) == 0
        assert capsys.readouterr().out == before
        assert world.calls == ["check", "prepare", "reap"]

    def test_broken_off_anywhere_it_goes_on_and_deploys_nothing_twice(
        self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for folder in (whole := tmp_path / "whole", parts := tmp_path / "parts"):
            folder.mkdir()
        assert session.run_study(settings(whole, **ALL), -1) == 0
        expected = [*world.deployed]
        shown = lasting(capsys.readouterr().out)
        world.deployed.clear()
        world.calls.clear()
        for hit in (7, 10, 14):  # twice in the confirmation, and in the control arm; those broken off count once more
            stop_at(world, "ready", hit, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                session.run_study(settings(parts, **ALL), -1)
            assert capsys.readouterr().out.splitlines()[0].startswith("Interrupted after ")
            assert world.open == 0
        world.at = lambda stage: None
        assert session.run_study(settings(parts, **ALL), -1) == 0
        assert lasting(capsys.readouterr().out) == [line.replace(str(whole), str(parts)) for line in shown]
        assert len(world.deployed) == len(expected) + 3
        before_control = Counter(map(str, expected[:-2]))
        assert before_control <= Counter(map(str, world.deployed))

    def test_what_stops_every_trial_stops_the_confirmation(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        stop_at(world, "deploy", 6, Systemic("engine.executable: cannot start 'sglang'"))
        with pytest.raises(Systemic):
            session.run_study(settings(tmp_path, confirm=CONFIRM), 0)
        out, _ = capsys.readouterr()
        assert "Stopped after the trials of the search. The same command goes on from here.\n" in out
        assert world.calls[-1] == "benchmark exit"

    def test_without_them_the_best_are_reported_as_they_were_measured(
        self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        session.run_study(settings(tmp_path, confirm={"repeats": 0}), 0)
        out, _ = capsys.readouterr()
        assert "\nBest latency_p99_s@1" in out
        assert "defaults by" not in out
        assert len(world.deployed) == 4
        assert "measured once and not confirmed" in (tmp_path / "studies/some-study/report.md").read_text()

    @pytest.mark.parametrize(
        ("stop", "why"),
        [
            ({"no_improvement": 3}, "stop.no_improvement=3 is reached: no better front in the last 3 trials"),
            (
                {"target": [{"metric": "latency_p99_s", "at": "min", "max": 0.5}]},
                "stop.target is reached: trial 0 meets latency_p99_s@1<=0.5",
            ),
            ({"wall_time_h": 1e-9}, "stop.wall_time_h=1e-09 is reached: "),
        ],
    )
    def test_a_condition_of_stop_ends_the_search_and_is_told(
        self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], stop: dict[str, Any], why: str
    ) -> None:
        world.measures = lambda configuration, level: measurement(level, latency=timing(0.4))
        config = settings(tmp_path, stop=stop, confirm={"repeats": 0}, trials=30)
        if "wall_time_h" in stop:  # which counts from the start of a run: this one has measured nothing yet
            session.run_study(settings(tmp_path, confirm={"repeats": 0}, trials=1), -1)
        assert session.run_study(config, 0) == 0
        out, _ = capsys.readouterr()
        assert f"The study ends: {why}" in out
        assert "configurations of the space are known or refused" not in out
        assert len(opened(tmp_path).finished) == (4 if "no_improvement" in stop else 1)

    def test_a_condition_of_stop_is_none_of_the_control_arm(self, tmp_path: Path, world: World) -> None:
        world.measures = lambda configuration, level: measurement(level, latency=timing(0.4))
        config = settings(tmp_path, stop={"no_improvement": 1}, confirm={"repeats": 0}, control={"random": 4}, trials=30)
        assert session.run_study(config, -1) == 0
        control = optuna.load_study(study_name="some-study.control", storage=config.storage.url)
        assert len(control.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == 4

    def test_what_a_condition_of_stop_left_is_confirmed(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        stop = {"target": [{"metric": "latency_p99_s", "at": "min", "max": 0.3}]}
        assert session.run_study(settings(tmp_path, stop=stop, confirm=CONFIRM | {"finalists": 2}, trials=30), 0) == 0
        out, _ = capsys.readouterr()
        assert 0 < out.find("The study ends: stop.target is reached") < out.find("Confirmation, round 1 of at most 3")
        assert "latency_p99_s@1: trial #2 is better than the defaults by +75.0% (" in out
        assert len(opened(tmp_path).finished) == 3


def lasting(shown: str) -> list[str]:
    """Without the lines that tell how long it took."""
    return [line for line in shown.splitlines() if " h) against " not in line]


def opened(folder: Path) -> Ledger:
    config = settings(folder)
    return Ledger(config, open_storage(config.storage.url), EngineDouble(World()).defaults)


class TestReapAll:
    def reap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: list[str], docker: list[str] | NotReadyError) -> None:
        def reap(backend: Docker) -> list[str]:
            if isinstance(docker, NotReadyError):
                raise docker
            return docker

        monkeypatch.setattr(Local, "reap", lambda backend: local)
        monkeypatch.setattr(Docker, "reap", reap)
        assert session.reap_all(settings(tmp_path)) == 0

    def test_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.reap(tmp_path, monkeypatch, [], [])
        assert capsys.readouterr().out == "Nothing was left behind.\n"

    def test_each_removal_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.reap(tmp_path, monkeypatch, ["removed a"], ["removed b", "removed c"])
        assert capsys.readouterr().out == "removed a\nremoved b\nremoved c\nRemoved 3.\n"

    def test_a_missing_daemon_is_told_and_no_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.reap(tmp_path, monkeypatch, ["removed a"], NotReadyError("no daemon"))
        assert capsys.readouterr().out == "removed a\nNo look at backend docker: no daemon\nRemoved 1.\n"
