from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.doubles import SPACE, BackendDouble, BenchmarkDouble, EngineDouble, World, settings
from tuner import host, session
from tuner.backends.local import Local
from tuner.composition import compose
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.hydra_app import plain
from tuner.settings import Settings, load
from tuner.storage import open_storage
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Doubles in place of the engine, the backend and the benchmark; no pages."""
    world = World()
    monkeypatch.setattr(session, "create_engine", lambda settings: EngineDouble(world))
    monkeypatch.setattr(session, "create_backend", lambda settings: BackendDouble(world))
    monkeypatch.setattr(session, "GenaiBench", lambda tokenizer, mode, **dataset: BenchmarkDouble(world))
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)
    return world


def composed(*overrides: str) -> Settings:
    return load(plain(compose(list(overrides))))


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
        assert attributes["host"] == host.describe()
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
        assert "All 5 configurations of the space are known; the study ends before 9 trials.\n" in out

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


class TestCreation:
    def test_a_parameter_that_the_engine_does_not_have(self) -> None:
        config = composed("engine=llamacpp", "engine.model=nano", "+space.n_paralel=4")
        with pytest.raises(
            ConfigError, match=r"^space\.n_paralel: llamacpp has no such parameter \(did you mean n_parallel\?\); known: .*n_batch"
        ):
            session.check_parameters(config, session.create_engine(config))
        config = composed("engine=sglang", "space=sglang", "engine.model=org/m", "+space.any_flag=1")
        session.check_parameters(config, session.create_engine(config))  # its own command line is the judge

    @pytest.mark.parametrize(
        ("overrides", "kind", "word"),
        [
            (["engine=llamacpp", "space=llamacpp", "engine.model=nano"], LlamaCpp, ""),
            (["engine=sglang", "space=sglang", "engine.model=org/m", "+engine.args.context_length=8192"], Sglang, "--context-length"),
            (["engine=vllm", "space=vllm", "engine.model=org/m", "+engine.args.max_model_len=8192"], Vllm, "--max-model-len"),
        ],
    )
    def test_engines(self, overrides: list[str], kind: type[Any], word: str) -> None:
        config = composed("backend=local", *overrides)
        engine = session.create_engine(config)
        assert type(engine) is kind
        if word:
            spec = engine.launch({}, "token")
            assert spec.argv[: len(config.engine.executable)] == config.engine.executable
            assert word in spec.argv
            assert (spec.image, spec.ready_timeout_s) == (config.engine.image, 1200)

    @pytest.mark.parametrize("name", ["llamacpp", "sglang", "vllm"])
    def test_shipped_spaces_know_the_default_of_every_parameter(self, tmp_path: Path, name: str) -> None:
        model = [] if name == "llamacpp" else ["engine.model=org/m"]
        config = composed("backend=local", f"engine={name}", f"space={name}", f"storage.url=sqlite:///{tmp_path}/x.db", *model)
        asked = Ledger(config, open_storage(config.storage.url), session.create_engine(config).defaults).ask()
        assert asked is not None
        assert asked.default
        assert len(asked.trial.params) == len(config.space.searched)

    def test_local_backend(self) -> None:
        assert isinstance(session.create_backend(composed("backend=local")), Local)

    def test_docker_backend_comes_later(self) -> None:
        with pytest.raises(NotReadyError, match="arrives with the next release"):
            session.create_backend(composed("backend=docker"))

    def test_auto_is_local_for_the_cpu_engine(self) -> None:
        decided = session.with_backend(composed("backend=auto"))
        assert decided.backend.name == "local"
        assert decided.identity["backend"] == {"name": "local"}
        assert decided.fingerprint == composed("backend=local").fingerprint

    def test_auto_asks_the_host_for_a_gpu_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session.auto, "resolve", lambda engine: {"sglang": "docker"}[engine])
        config = composed("backend=auto", "engine=sglang", "space=sglang", "engine.model=org/m")
        assert session.with_backend(config).backend.name == "docker"

    def test_a_named_backend_stays(self) -> None:
        config = composed("backend=docker")
        assert session.with_backend(config) is config


class TestReapAll:
    def test_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert session.reap_all(settings(tmp_path)) == 0
        assert capsys.readouterr().out == "Nothing was left behind.\n"

    def test_each_removal_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(Local, "reap", lambda backend: ["removed a", "removed b"])
        assert session.reap_all(settings(tmp_path)) == 0
        assert capsys.readouterr().out == "removed a\nremoved b\nRemoved 2.\n"
