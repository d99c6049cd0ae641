from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmark.paced_server import PacedServer
from tests.conformance.benchmark import API_KEY, BenchmarkSuite, alive, load
from tuner.benchmark import cli_mode
from tuner.benchmark.base import Benchmark
from tuner.benchmark.genai_bench import GenaiBench
from tuner.errors import Systemic

pytestmark = pytest.mark.slow


class TestCliMode(BenchmarkSuite):
    @pytest.fixture
    def benchmark(self, tokenizer: str) -> Iterator[Benchmark]:
        with GenaiBench(tokenizer, "cli", api_key=API_KEY) as benchmark:
            yield benchmark

    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_mode, "OVERHEAD_S", 10.0)


@pytest.mark.alone
def test_driver_and_cli_measure_the_same(tokenizer: str, tmp_path: Path) -> None:
    level = load(requests=24, max_time_s=60)
    with PacedServer() as server, GenaiBench(tokenizer) as driver, GenaiBench(tokenizer, "cli") as cli:
        ours = driver.run(server.endpoint, level, tmp_path, alive)
        theirs = cli.run(server.endpoint, level, tmp_path, alive)
    assert ours.ttft.p50 / theirs.ttft.p50 == pytest.approx(1.0, abs=0.25)
    assert ours.tpot.p50 / theirs.tpot.p50 == pytest.approx(1.0, abs=0.1)
    assert ours.latency.p50 / theirs.latency.p50 == pytest.approx(1.0, abs=0.1)
    # The CLI counts the time of the requests that it drops at the end: see `measure`.
    assert -0.1 < ours.output_tokens_per_s / theirs.output_tokens_per_s - 1.0 < 0.1 + 4 / (2 * 24)
    assert (tmp_path / "cli-4" / "experiment_metadata.json").is_file()


def test_a_bad_tokenizer_is_systemic(tmp_path: Path) -> None:
    empty = tmp_path / "tokenizer"
    empty.mkdir()
    with GenaiBench(str(empty), "cli") as benchmark, PacedServer() as server, pytest.raises(Systemic, match="settings"):
        benchmark.run(server.endpoint, load(), tmp_path, alive)
