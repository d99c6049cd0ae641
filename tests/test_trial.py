from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.doubles import BackendDouble, BenchmarkDouble, EngineDouble, GateDouble, ProgressDouble, World, measured, measurement, settings
from tuner import trial
from tuner.backends.base import Deployment, NotReadyInTime, Place, ServerExited
from tuner.benchmark.base import ServerUnusable
from tuner.course import EveryLevel
from tuner.errors import Infeasible, Systemic, Transient
from tuner.launch import Endpoint, ExitStatus
from tuner.server_facts import ServerMetrics, Startup
from tuner.trial import Record, Rig


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(trial, "DYING_S", 0.0)
    return world


def measure(world: World, folder: Path, record: Record | None = None, **workload: object) -> ProgressDouble:
    traffic = {"scenario": "D(64,32)", "levels": [4, 1], "min_requests": 1, "requests_per_user": 3, "warmup_requests": 6} | workload
    progress = ProgressDouble(world)
    gate, workload_ = GateDouble(world), settings(folder, workload=traffic).workload
    rig = Rig(gate, EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), workload_)
    rig.measure({"n_parallel": 8}, Place("some-study", 3, folder), progress, record or Record(), EveryLevel(workload_.levels))
    return progress


def fail_at(stage: str, error: BaseException) -> World:
    def at(reached: str) -> None:
        if reached == stage:
            raise error

    return World(at)


def test_order_of_a_trial(world: World, tmp_path: Path) -> None:
    progress = measure(world, tmp_path)
    assert [call for call in world.calls if not call.startswith("progress")] == [
        "launch",
        "deploy",
        "ready",
        "effective",
        "version",
        "warm-up 6 by 4",
        "flush",
        "run 1",
        "flush",
        "run 4",
        "close",
    ]
    assert progress.lines == [
        "stage deploy",
        "stage warm-up",
        "level 1 3",
        "requests 3",
        "measured 1",
        "level 4 12",
        "requests 12",
        "measured 4",
    ]
    assert world.deployed == [{"n_parallel": 8}]


def test_record_holds_what_was_seen(world: World, tmp_path: Path) -> None:
    record = Record()
    measure(world, tmp_path, record)
    assert record.effective == {"n_parallel": 4, "n_ctx_slot": 2048}
    assert record.engine_version == "double 1.0"
    assert list(record.measurements) == [1, 4]
    assert record.measurements[4] == measured({"n_parallel": 8}, 4)
    assert list(record.durations_s) == ["deploy", "warm-up", "load"]
    assert record.server == {1: {"running_max": 2, "preemptions": 1}, 4: {"running_max": 2, "preemptions": 0}}


def test_answers_of_the_prompt_cache_are_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From level to level: a server that finds all of what it is sent the second time."""
    found = {"run 1": 0.0, "run 4": 40.0}

    def metrics(engine: EngineDouble, endpoint: Endpoint) -> ServerMetrics:
        runs = [call for call in world.calls if call.startswith("run")]
        return ServerMetrics(prompt_tokens=50.0 * len(runs), cached_tokens=sum(found[run] for run in runs))

    monkeypatch.setattr(EngineDouble, "metrics", metrics)
    record = Record()
    world.flushes = False
    measure(world, tmp_path, record)
    assert record.measurements[1].cache_reuse is None
    assert record.measurements[4].cache_reuse == pytest.approx(0.8 - 20 / 60, abs=1e-4)  # the double's prompts are shorter than 64
    assert record.unflushed == [1, 4]


def test_what_a_dead_server_logged_about_memory_is_kept(tmp_path: Path) -> None:
    record = Record()
    (tmp_path / "server.log").write_text("12345")
    with pytest.raises(Infeasible):
        measure(fail_at("ready", ServerExited(ExitStatus(1))), tmp_path, record)
    assert record.startup == Startup(weights_gib=5)


class TestRefuse:
    @staticmethod
    def rig(world: World, gate: GateDouble, folder: Path) -> Rig:
        return Rig(gate, EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), settings(folder).workload)

    def test_nothing_is_refused_without_a_reason(self, world: World, tmp_path: Path) -> None:
        assert self.rig(world, GateDouble(world), tmp_path).refuse({"n_parallel": 1}) is None

    def test_by_the_engine(self, world: World, tmp_path: Path) -> None:
        world.refuses = lambda configuration: f"n_parallel={configuration['n_parallel']}: too many"
        assert self.rig(world, GateDouble(world), tmp_path).refuse({"n_parallel": 1}) == "n_parallel=1: too many"
        assert world.calls == []

    def test_by_the_gate(self, world: World, tmp_path: Path) -> None:
        assert self.rig(world, GateDouble(world, lambda configuration: "no memory"), tmp_path).refuse({}) == "no memory"


def test_no_warm_up_where_none_is_wanted(world: World, tmp_path: Path) -> None:
    measure(world, tmp_path, warmup_requests=0)
    assert not [call for call in world.calls if call.startswith("warm-up")]


STAGES = ("ready", "effective", "version", "flush", "run 1", "run 4", "progress stage", "progress level", "progress measured")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Transient("x"), Infeasible("x"), Systemic("x"), RuntimeError("x"), SystemExit()])
@pytest.mark.parametrize("stage", STAGES)
def test_errors_pass_and_close_the_server_once(stage: str, error: BaseException, tmp_path: Path) -> None:
    world = fail_at(stage, error)
    with pytest.raises(type(error)):
        measure(world, tmp_path, warmup_requests=0)
    assert world.open == 0
    assert world.calls.count("close") == world.calls.count("deploy")


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_it_is_deployed_closes_the_server(tmp_path: Path) -> None:
    world = World(lambda reached: signal.raise_signal(signal.SIGINT) if reached == "deploy" else None)
    with pytest.raises(KeyboardInterrupt):
        measure(world, tmp_path)
    assert world.calls[-2:] == ["deploy", "close"]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_between_its_start_and_its_use_closes_the_server(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first line of `__enter__` may meet it: the server runs, and a plain `with` would not leave it by `__exit__`."""

    def enter(server: Deployment) -> Deployment:
        signal.raise_signal(signal.SIGINT)
        return server

    monkeypatch.setattr(Deployment, "__enter__", enter)
    with pytest.raises(KeyboardInterrupt):
        measure(world, tmp_path)
    assert world.calls[-2:] == ["deploy", "close"]


@pytest.mark.parametrize("stage", ["launch", "deploy"])
def test_nothing_is_closed_that_was_not_deployed(stage: str, tmp_path: Path) -> None:
    world = fail_at(stage, Transient("no port"))
    with pytest.raises(Transient, match="no port"):
        measure(world, tmp_path)
    assert "close" not in world.calls


def test_exited_server_is_diagnosed(tmp_path: Path) -> None:
    world = fail_at("ready", ServerExited(ExitStatus(137, oom_killed=True, log_tail="no room")))
    with pytest.raises(Infeasible, match="diagnosed: exit code 137") as caught:
        measure(world, tmp_path)
    assert caught.value.detail == "no room"


def test_late_server_is_nobodys_fault_and_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(Transient, match=r"did not answer within 7 s; raise engine\.ready_timeout_s") as caught:
        measure(fail_at("ready", NotReadyInTime(7.0, "loading")), tmp_path)
    assert caught.value.detail == "loading"


@pytest.mark.parametrize("rejected", [True, False])
@pytest.mark.parametrize("stage", ["warm-up 6 by 4", "run 4"])
def test_living_server_that_serves_nothing_is_infeasible(world: World, stage: str, rejected: bool, tmp_path: Path) -> None:
    world.at = fail_at(stage, ServerUnusable("all of 8 requests failed: 8 x 400", rejected)).at
    with pytest.raises(Infeasible, match="all of 8 requests failed") as caught:
        measure(world, tmp_path)
    assert caught.value.detail == "the end of the log"


def test_dead_server_that_serves_nothing_is_diagnosed(tmp_path: Path) -> None:
    world = World()

    def die(stage: str) -> None:
        if stage == "run 4":
            world.status = ExitStatus(1, log_tail="CUDA error")
            raise ServerUnusable("all of 8 requests failed: 8 x 503")

    world.at = die
    record = Record()
    with pytest.raises(Infeasible, match="diagnosed: exit code 1"):
        measure(world, tmp_path, record, warmup_requests=0)
    assert list(record.measurements) == [1]


def test_server_that_is_about_to_die_is_diagnosed_too(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "DYING_S", 60.0)
    monkeypatch.setattr(trial.time, "sleep", lambda seconds: setattr(world, "status", ExitStatus(134)))
    world.at = fail_at("run 1", ServerUnusable("all of 8 requests failed: 8 x 503")).at
    with pytest.raises(Infeasible, match="diagnosed: exit code 134"):
        measure(world, tmp_path)


def test_too_many_errors_are_infeasible_and_what_came_before_is_kept(world: World, tmp_path: Path) -> None:
    world.measures = lambda configuration, level: measurement(level, completed=15, errors={"500": 1} if level == 4 else {})
    record = Record()
    with pytest.raises(Infeasible, match=r"6% of the requests failed at level 4 \(1 x 500\); workload\.max_error_rate"):
        measure(world, tmp_path, record, max_error_rate=0.05)
    assert list(record.measurements) == [1]


def test_errors_within_the_bound_count_as_measured(world: World, tmp_path: Path) -> None:
    world.measures = lambda configuration, level: measurement(level, completed=15, errors={"500": 1})
    record = Record()
    measure(world, tmp_path, record, max_error_rate=0.0625)
    assert list(record.measurements) == [1, 4]
