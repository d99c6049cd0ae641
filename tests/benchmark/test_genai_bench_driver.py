from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.benchmark.paced_server import OWN_TOKENS, TTFT_S, PacedServer
from tests.conformance.benchmark import API_KEY, LATENCY_S, BenchmarkSuite, alive, load
from tuner.benchmark.base import Benchmark, Load, ServerUnusable
from tuner.benchmark.genai_bench import GenaiBench
from tuner.errors import Systemic

pytestmark = pytest.mark.slow

OWNER = """
import sys, time
from tuner.benchmark.genai_bench import GenaiBench
with GenaiBench(sys.argv[1]) as benchmark:
    print(benchmark._driver.pid, flush=True)
    if sys.argv[2] == "ready":
        benchmark._driver._wait_ready(lambda: True)
        print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def warm(tokenizer: str) -> Iterator[GenaiBench]:
    with GenaiBench(tokenizer, api_key=API_KEY) as benchmark:
        yield benchmark


class TestDriverMode(BenchmarkSuite):
    """One driver for all tests: what one level leaves behind would show in the next."""

    @pytest.fixture
    def benchmark(self, warm: GenaiBench) -> Benchmark:
        return warm

    def test_tells_progress_and_its_own_share_of_the_cpu(self, warm: GenaiBench, tmp_path: Path) -> None:
        progress: list[int] = []
        with PacedServer() as server:
            measurement = warm.run(server.endpoint, load(), tmp_path, alive, progress.append)
        assert progress == sorted(set(progress))
        assert progress[-1] <= measurement.completed == 16
        assert measurement.client_cpu_share is not None
        assert 0.0 < measurement.client_cpu_share < 1.0

    def test_queueing_and_waves_show_the_same_true_rate(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer(slots=1) as server:
            queue = warm.run(server.endpoint, load(concurrency=4, requests=8), tmp_path, alive)
        assert 0.5 < queue.requests_per_s * LATENCY_S < 1.05
        assert queue.ttft.p50 > 3 * LATENCY_S

    def test_single_tokens_have_no_tpot(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer() as server:
            measurement = warm.run(server.endpoint, Load("D(50,1)", 2, 4, 10, 5), tmp_path, alive)
        assert measurement.tpot is None
        assert measurement.completed == 4
        assert measurement.latency.p50 >= TTFT_S

    def test_ends_after_its_time_with_what_it_has(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer() as server:
            measurement = warm.run(server.endpoint, load(requests=10_000, max_time_s=1.2), tmp_path, alive)
        assert 4 <= measurement.completed < 20
        assert measurement.duration_s == pytest.approx(1.2, abs=0.5)

    def test_a_stall_after_good_answers_is_a_hang(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer(lambda number: "ok" if number < 8 else "hang") as server, pytest.raises(ServerUnusable, match="hangs"):
            warm.run(server.endpoint, load(stall_s=1.0), tmp_path, alive)

    def test_early_errors_of_some_do_not_end_the_level(self, warm: GenaiBench, tmp_path: Path) -> None:
        # Two users get their answers, the others are turned away for as long, many times over.
        with PacedServer(lambda number: "ok" if number < 2 else "429") as server:
            measurement = warm.run(server.endpoint, load(requests=2), tmp_path, alive)
        assert measurement.completed == 2
        assert measurement.errors["429"] > 8

    def test_cut_streams_and_server_errors_are_counted(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer(lambda number: ("ok", "cut", "500", "empty")[number % 4]) as server:
            measurement = warm.run(server.endpoint, load(requests=4), tmp_path, alive)
        assert set(measurement.errors) == {"500", "invalid"}

    def test_server_down(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer() as server:
            endpoint = server.endpoint
        with pytest.raises(ServerUnusable, match="x 503"):
            warm.run(endpoint, load(), tmp_path, alive)

    def test_a_bad_scenario_is_systemic_and_harms_nothing(self, warm: GenaiBench, tmp_path: Path) -> None:
        with PacedServer() as server:
            with pytest.raises(Systemic, match="Z"):
                warm.run(server.endpoint, Load("Z(1,1)", 1, 1, 5, 5), tmp_path, alive)
            assert warm.run(server.endpoint, load(requests=4), tmp_path, alive).completed == 4

    def test_a_killed_driver_is_replaced(self, warm: GenaiBench, tmp_path: Path) -> None:
        assert warm._driver
        os.killpg(warm._driver.pid, signal.SIGKILL)
        psutil.Process(warm._driver.pid).wait(10)
        with PacedServer() as server:
            assert warm.run(server.endpoint, load(requests=4), tmp_path, alive).completed == 4


def test_prompts_of_a_dataset_and_own_request_fields(tokenizer: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("first prompt\nsecond prompt\n")
    with GenaiBench(tokenizer, dataset=str(prompts), request_params={"temperature": 0.5, "top_k": 3}) as benchmark, PacedServer() as server:
        measurement = benchmark.run(server.endpoint, Load("dataset", 2, 4, 10, 5), tmp_path, alive)
    assert measurement.output_tokens_per_s == pytest.approx(OWN_TOKENS * measurement.requests_per_s)
    assert {body["messages"][0]["content"] for body in server.bodies} <= {"first prompt", "second prompt"}
    assert {(body["temperature"], body["top_k"]) for body in server.bodies} == {(0.5, 3)}
    assert not any(body["ignore_eos"] for body in server.bodies)


def test_a_bad_tokenizer_is_systemic(tmp_path: Path) -> None:
    with GenaiBench(str(tmp_path)) as benchmark, PacedServer() as server, pytest.raises(Systemic, match="refuses") as caught:
        benchmark.run(server.endpoint, load(), tmp_path, alive)
    assert "\n" not in caught.value.reason


def test_exit_leaves_no_process(tokenizer: str) -> None:
    with GenaiBench(tokenizer) as benchmark:
        assert benchmark._driver
        pid = benchmark._driver.pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("state", ["starting", "ready"])
def test_the_driver_ends_with_a_killed_owner(tokenizer: str, state: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, tokenizer, state], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        driver = psutil.Process(int(owner.stdout.readline()))
        if state == "ready":
            assert owner.stdout.readline() == "ready\n"
        owner.kill()
    deadline = time.monotonic() + 30
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
