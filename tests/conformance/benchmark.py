"""What every benchmark must do. Implementations inherit `BenchmarkSuite` and override `benchmark`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmark.paced_server import PROMPT_TOKENS, TPOT_S, TTFT_S, PacedServer
from tuner.benchmark.base import Benchmark, Load, ServerUnusable

API_KEY = "sk-conformance-5a7b"
OUTPUT_TOKENS = 20
LATENCY_S = TTFT_S + (OUTPUT_TOKENS - 1) * TPOT_S


def load(concurrency: int = 4, requests: int = 16, max_time_s: float = 30.0, stall_s: float = 5.0) -> Load:
    """A level of 50 prompt and `OUTPUT_TOKENS` output tokens."""
    return Load(f"D(50,{OUTPUT_TOKENS})", concurrency, requests, max_time_s, stall_s)


def alive() -> bool:
    """A server that nothing can harm."""
    return True


class BenchmarkSuite:
    """Runs each benchmark against a server whose truth is known."""

    @pytest.fixture
    def benchmark(self, tokenizer: str) -> Benchmark:
        """The implementation, entered, with `API_KEY` as the server's key."""
        raise NotImplementedError

    @pytest.fixture
    def impatient(self) -> None:
        """Lowers whatever an implementation waits beyond the load's own limits before it calls a server hung."""

    def test_measures_a_healthy_server_and_keeps_the_raw_results(self, benchmark: Benchmark, tmp_path: Path) -> None:
        with PacedServer() as server:
            measurement = benchmark.run(server.endpoint, load(), tmp_path, alive)
        assert measurement.concurrency == 4
        assert measurement.completed >= 16
        assert measurement.error_rate == 0.0
        # Late is possible on a busy machine, early is not.
        assert TTFT_S <= measurement.ttft.p50 < 3 * TTFT_S
        assert 0.9 * TPOT_S < measurement.tpot.p50 < 2 * TPOT_S
        assert LATENCY_S <= measurement.latency.p50 < 2 * LATENCY_S
        assert measurement.latency.p50 <= measurement.latency.p90 <= measurement.latency.p99
        assert 0.5 < measurement.requests_per_s / (4 / LATENCY_S) < 1.05
        assert measurement.output_tokens_per_s == pytest.approx(OUTPUT_TOKENS * measurement.requests_per_s)
        assert measurement.input_tokens_per_s == pytest.approx(PROMPT_TOKENS * measurement.requests_per_s)
        assert not measurement.client_bound
        assert {body["model"] for body in server.bodies} == {"fake"}
        assert {body["max_tokens"] for body in server.bodies} == {OUTPUT_TOKENS}
        assert all(body["stream"] and body["ignore_eos"] for body in server.bodies)
        raw = json.loads((tmp_path / "level-4.json").read_text())
        assert len(raw["requests"]) == measurement.completed
        assert raw["load"]["concurrency"] == 4
        assert benchmark.version() in raw["load_generator"]

    def test_counts_partial_errors_and_keeps_secrets(self, benchmark: Benchmark, tmp_path: Path) -> None:
        with PacedServer(lambda number: "echo" if number % 3 == 0 else "ok") as server:
            measurement = benchmark.run(server.endpoint, load(), tmp_path, alive)
        assert set(measurement.errors) == {"429"}
        assert measurement.errors["429"] == pytest.approx(len(server.bodies) / 3, abs=5)
        assert 0.2 < measurement.error_rate < 0.5
        assert set(server.authorizations) == {f"Bearer {API_KEY}"}
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if API_KEY.encode() in path.read_bytes()] == []

    def test_gives_up_a_server_that_refuses_everything(self, benchmark: Benchmark, tmp_path: Path) -> None:
        with PacedServer(lambda _: "too long") as server, pytest.raises(ServerUnusable, match=r"x 400.*context size") as caught:
            benchmark.run(server.endpoint, load(), tmp_path, alive)
        assert caught.value.rejected
        assert "\n" not in caught.value.reason

    def test_gives_up_a_server_that_hangs(self, benchmark: Benchmark, tmp_path: Path, impatient: None) -> None:
        with PacedServer(lambda _: "hang") as server, pytest.raises(ServerUnusable) as caught:
            benchmark.run(server.endpoint, load(max_time_s=5, stall_s=1), tmp_path, alive)
        assert not caught.value.rejected
        assert len(server.bodies) == 4

    def test_gives_up_empty_answers(self, benchmark: Benchmark, tmp_path: Path, impatient: None) -> None:
        with PacedServer(lambda _: "empty") as server, pytest.raises(ServerUnusable):
            benchmark.run(server.endpoint, load(max_time_s=5, stall_s=1), tmp_path, alive)
        assert server.finished >= 4

    def test_gives_up_when_the_server_ends(self, benchmark: Benchmark, tmp_path: Path) -> None:
        with PacedServer() as server:

            def alive_until_third() -> bool:
                if server.finished >= 3:
                    server.stop()
                return server.finished < 3

            with pytest.raises(ServerUnusable, match="the server ended"):
                benchmark.run(server.endpoint, load(requests=10_000), tmp_path, alive_until_third)
