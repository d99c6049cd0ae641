from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.doubles import SPACE, BackendDouble, BenchmarkDouble, EngineDouble, World, settings
from tuner import host, session
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.storage import open_storage
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


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
        session.run_study(settings(tmp_path, space={"n_parallel": SPACE["n_parallel"]}, trials=9), 0)
        out, _ = capsys.readouterr()
        assert "All 5 configurations of the space are known or refused; the study ends before 9 trials.\n" in out

    def test_refusals_are_told(self, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        world.refuses = lambda configuration: "too many" if configuration.get("n_parallel", 2) != 2 else None
        session.run_study(settings(tmp_path, space={"n_parallel": SPACE["n_parallel"]}, trials=9), 0)
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
