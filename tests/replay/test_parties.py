"""The engine, the backend and the load generator of a replay, one by one. What their conformance suites ask of processes and of HTTP has no
meaning here; the rest is taken from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conformance.backend import BackendSuite
from tests.conformance.engine import EngineConformance
from tests.replay.recording import OBJECTIVES, ROWS, SPACE, settings, write
from tuner.backends.base import Place, ServerExited
from tuner.benchmark.base import Load, ServerUnusable
from tuner.errors import Infeasible, Transient
from tuner.launch import Endpoint, LaunchSpec
from tuner.parties import create_engine
from tuner.replay.backend import Recorded, ReplayBackend
from tuner.replay.bench import ReplayBench
from tuner.replay.engine import Replay

MEASURED = {"tp_size": 2, "mem_fraction_static": 0.8, "max_running_requests": 64}
OOM_LOAD = {"tp_size": 1, "mem_fraction_static": 0.7, "max_running_requests": 64}
OOM_RUN = {"tp_size": 2, "mem_fraction_static": 0.9, "max_running_requests": 128}


def engine_of(folder: Path, **changes: Any) -> Replay:
    engine = create_engine(settings(folder, **changes))
    assert isinstance(engine, Replay)
    return engine


def backend_of(folder: Path, **changes: Any) -> ReplayBackend:
    return ReplayBackend(settings(folder, engine=changes).engine)


def deploy(folder: Path, backend: ReplayBackend, configuration: dict[str, Any], trial: int = 0) -> Recorded:
    return backend.deploy(engine_of(folder).launch(configuration, "t"), Place("some-study", trial, folder))


def load(level: int) -> Load:
    return Load("D(64,32)", level, 3 * level, 60, 30)


class TestEngine:
    refused: ClassVar[dict[str, Any]] = {"tp_size": 64, "mem_fraction_static": 0.8, "max_running_requests": 64}

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Replay:
        return engine_of(tmp_path)

    test_launch_is_deterministic = EngineConformance.test_launch_is_deterministic
    test_defaults_are_parameters_and_accepted = EngineConformance.test_defaults_are_parameters_and_accepted
    test_a_configuration_that_contradicts_itself_is_infeasible = (
        EngineConformance.test_a_configuration_that_contradicts_itself_is_infeasible
    )
    test_secrets_stay_out_of_the_command_line = EngineConformance.test_secrets_stay_out_of_the_command_line
    test_describe_is_short = EngineConformance.test_describe_is_short

    def test_the_default_is_the_nearest_row_inside_the_space(self, engine: Replay) -> None:
        assert engine.row({}).configuration == {"tp_size": 1, "mem_fraction_static": 0.8, "max_running_requests": 128}

    def test_the_default_is_its_own_row_where_there_is_one(self, tmp_path: Path) -> None:
        own = ROWS[0] | {"mem_fraction_static": 0.8, "max_running_requests": 4096, "outcome": "oom_capture"}
        write(tmp_path / "table.csv", [*ROWS, own])
        assert engine_of(tmp_path).row({}).outcome == "oom_capture"

    def test_what_is_not_in_the_table_is_said_so(self, engine: Replay) -> None:
        with pytest.raises(Infeasible, match=r"^not in the table: table\.csv has no row with tp_size=64 mem"):
            engine.launch(self.refused, "t")

    @pytest.mark.parametrize(("replays", "column", "held"), [("sglang", False, 2), (None, False, 1), ("sglang", True, 16)])
    def test_gpus(self, tmp_path: Path, replays: str | None, column: bool, held: int) -> None:
        write(tmp_path / "table.csv", [one | ({"gpus": 8 * one["tp_size"]} if column else {}) for one in ROWS])
        assert engine_of(tmp_path, engine={"replays": replays}).launch(MEASURED, "t").gpus == held

    def test_args_choose_a_part_of_the_table(self, tmp_path: Path) -> None:
        space = {name: parameter for name, parameter in SPACE.items() if name != "tp_size"}
        engine = engine_of(tmp_path, space=space, engine={"args": {"tp_size": 2}})
        assert engine.row({"mem_fraction_static": 0.8, "max_running_requests": 64}).configuration == MEASURED
        assert engine.row({}).configuration["tp_size"] == 2


class TestBackend:
    @pytest.fixture
    def backend(self, tmp_path: Path) -> ReplayBackend:
        self.current = backend_of(tmp_path)
        return self.current

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place("some-study", 7, tmp_path)

    def spec(self, tmp_path: Path, mode: str, **env: str) -> LaunchSpec:
        return engine_of(tmp_path).launch(MEASURED, "t")

    def leftovers(self, tmp_path: Path) -> list[str]:
        return list(self.current.serving)

    test_is_ready_here = BackendSuite.test_is_ready_here
    test_close_again_is_harmless = BackendSuite.test_close_again_is_harmless
    test_errors_remove_the_server_and_pass = BackendSuite.test_errors_remove_the_server_and_pass

    def test_a_start_is_charged(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, MEASURED) as server:
            server.wait_ready(lambda endpoint: True, 1.0)
        assert backend.clock() == 100

    def test_a_failed_start_is_charged_until_it_failed(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, OOM_LOAD) as server:
            with pytest.raises(ServerExited) as caught:
                server.wait_ready(lambda endpoint: True, 1.0)
            assert server.exit_status() == caught.value.status
        assert backend.clock() == 30
        failure = engine_of(tmp_path).diagnose(caught.value.status)
        assert isinstance(failure, Infeasible)
        assert (failure.memory, failure.reason) == ("load", "recorded: GPU memory ran out at load: weights do not fit")

    @pytest.mark.parametrize(
        ("outcome", "memory"), [("oom_load", "load"), ("oom_capture", "capture"), ("invalid", None), ("crash", None), ("Too New", None)]
    )
    def test_outcomes(self, tmp_path: Path, outcome: str, memory: str | None) -> None:
        write(tmp_path / "table.csv", [*ROWS[:-1], {name: ROWS[-1][name] for name in SPACE} | {"outcome": outcome}])
        configuration = {name: ROWS[-1][name] for name in SPACE}
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, configuration) as server, pytest.raises(ServerExited) as caught:
            server.wait_ready(lambda endpoint: True, 1.0)
        failure = engine_of(tmp_path).diagnose(caught.value.status)
        assert isinstance(failure, Infeasible)
        assert failure.memory == memory
        assert memory or outcome.lower() in failure.reason
        assert backend.clock() == 120, "the default where the table says nothing"

    def test_a_failure_that_the_noise_asks_for(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path, noise={"run": 0.0, "failures": 0.999})
        with deploy(tmp_path, backend, MEASURED) as server, pytest.raises(Transient, match=r"engine\.noise\.failures"):
            server.wait_ready(lambda endpoint: True, 1.0)
        assert 0 < backend.clock() < 100


class TestBench:
    def test_a_level_is_charged_and_shown(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, MEASURED) as server:
            bench, seen = ReplayBench(backend), []
            bench.warm_up(server.endpoint, "D(64,32)", 4, 4)
            assert backend.clock() == 10
            shown = bench.run(server.endpoint, load(64), tmp_path, lambda: server.exit_status() is None, seen.append)
        assert backend.clock() == 50
        assert seen == [192]
        recorded = next(one for one in ROWS if MEASURED.items() <= one.items())
        assert shown.metric("ttft_p99_s") == recorded["ttft_p99_s@64"]
        assert shown.metric("output_tokens_per_s") == recorded["output_tokens_per_s@64"]
        assert (shown.concurrency, shown.completed, shown.duration_s, shown.error_rate) == (64, 192, 40, 0)
        assert math.isnan(shown.metric("latency_p99_s")), "the table does not have it"

    def test_defaults_of_durations(self, tmp_path: Path) -> None:
        write(
            tmp_path / "table.csv", [{k: v for k, v in one.items() if not k.startswith(("load_s", "warmup_s", "deploy_s"))} for one in ROWS]
        )
        backend = backend_of(tmp_path, deploy_s=7, warmup_s=5, load_s=3)
        with deploy(tmp_path, backend, MEASURED) as server:
            server.wait_ready(lambda endpoint: True, 1.0)
            ReplayBench(backend).warm_up(server.endpoint, "D(64,32)", 4, 4)
            ReplayBench(backend).run(server.endpoint, load(4), tmp_path, lambda: True)
        assert backend.clock() == 15

    def test_out_of_memory_under_load(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path)
        bench = ReplayBench(backend)
        with deploy(tmp_path, backend, OOM_RUN) as server:
            server.wait_ready(lambda endpoint: True, 1.0)
            shown = bench.run(server.endpoint, load(4), tmp_path, lambda: server.exit_status() is None)
            assert shown.metric("output_tokens_per_s") == 300
            assert server.exit_status() is None
            with pytest.raises(ServerUnusable):
                bench.run(server.endpoint, load(64), tmp_path, lambda: server.exit_status() is None)
            status = server.exit_status()
        assert status is not None
        failure = engine_of(tmp_path).diagnose(status)
        assert isinstance(failure, Infeasible)
        assert failure.memory == "run"
        assert backend.clock() == 100 + 20 + 5

    def test_recorded_errors(self, tmp_path: Path) -> None:
        write(tmp_path / "table.csv", [one | {"error_rate@4": 0.015, "error_rate@64": 1} for one in ROWS])
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, MEASURED) as server:
            assert ReplayBench(backend).run(server.endpoint, load(4), tmp_path, lambda: True).error_rate == pytest.approx(0.015)
            with pytest.raises(ServerUnusable, match="all requests failed") as caught:
                ReplayBench(backend).run(server.endpoint, load(64), tmp_path, lambda: True)
        assert caught.value.rejected

    def test_two_deployments_at_once(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path)
        with deploy(tmp_path, backend, MEASURED) as one, deploy(tmp_path, backend, {**MEASURED, "tp_size": 1}) as other:
            shown = [ReplayBench(backend).run(server.endpoint, load(4), tmp_path, lambda: True) for server in (one, other)]
        assert shown[0].ttft.p99 == pytest.approx(shown[1].ttft.p99 / 2)

    def test_noise_reaches_every_metric(self, tmp_path: Path) -> None:
        backend = backend_of(tmp_path, noise=0.05)
        seen = set()
        for trial in (1, 2):
            with deploy(tmp_path, backend, MEASURED, trial) as server:
                shown = ReplayBench(backend).run(server.endpoint, load(4), tmp_path, lambda: True)
            seen |= {shown.metric(objective["metric"]) for objective in OBJECTIVES}
        assert len(seen) == 4


def test_endpoints_are_no_addresses(tmp_path: Path) -> None:
    backend = backend_of(tmp_path)
    with deploy(tmp_path, backend, MEASURED) as server:
        assert isinstance(server.endpoint, Endpoint)
        assert server.endpoint.url == "replay://0"
