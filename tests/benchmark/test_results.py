from __future__ import annotations

import json
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from tuner.benchmark.base import Load, ServerUnusable
from tuner.benchmark.cli_mode import read_level
from tuner.benchmark.measurement import METRICS, Measurement
from tuner.benchmark.results import CHUNKS_PER_S_LIMIT, CPU_SHARE_LIMIT, Level, Request, measure, timing
from tuner.errors import Systemic

LOAD = Load("D(50,20)", 2, 4, 60.0, 5.0)


def request(finished_s: float | None = 1.0, tpot_s: float | None = 0.01, output_tokens: int = 20) -> Request:
    return Request(finished_s, 0.1, tpot_s, 0.3, 55, output_tokens)


def level(requests: list[Request], stop: str = "requests", **fields: object) -> Level:
    return replace(Level(stop, 10.0, requests), **fields)


class TestSamples:
    """Real results of the command line."""

    @pytest.mark.parametrize("concurrency", [1, 4, 16])
    def test_agrees_with_genai_bench(self, samples: Path, concurrency: int) -> None:
        found = read_level(samples / "healthy", concurrency)
        assert found
        measurement = measure(found, Load("D(100,64)", concurrency, 32, 60, 5))
        [path] = (samples / "healthy").glob(f"*_concurrency_{concurrency}_*.json")
        truth = json.loads(path.read_text())["aggregated_metrics"]
        for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("latency", "e2e_latency")):
            for statistic in ("mean", "p50", "p90", "p95", "p99"):
                assert measurement.metric(f"{ours}_{statistic}_s") == pytest.approx(truth["stats"][theirs][statistic], rel=1e-12)
        assert measurement.completed == truth["num_completed_requests"]
        assert measurement.requests_per_s == pytest.approx(truth["requests_per_second"])
        assert measurement.output_tokens_per_s == pytest.approx(truth["mean_output_throughput_tokens_per_s"])
        assert measurement.input_tokens_per_s == pytest.approx(truth["mean_input_throughput_tokens_per_s"])
        assert measurement.window_s == measurement.duration_s == truth["run_duration"]

    def test_counts_the_errors_that_genai_bench_does_not(self, samples: Path) -> None:
        found = read_level(samples / "partial_errors", 2)
        assert found
        measurement = measure(found, LOAD)
        assert measurement.errors == {"429": 7}
        assert measurement.error_rate == pytest.approx(7 / 21)

    def test_a_server_that_is_down(self, samples: Path) -> None:
        found = read_level(samples / "server_down", 2)
        assert found
        with pytest.raises(ServerUnusable, match="all of 643 requests failed: 643 x 503") as caught:
            measure(found, LOAD)
        assert not caught.value.rejected

    def test_no_result_at_all(self, tmp_path: Path) -> None:
        assert read_level(tmp_path, 2) is None

    def test_good_requests_that_genai_bench_could_not_sum_up(self, samples: Path, tmp_path: Path) -> None:
        [path] = (samples / "healthy").glob("*_concurrency_4_*.json")
        (tmp_path / "debug_for_run_D100_64_4.json").write_text(path.read_text())
        with pytest.raises(Systemic, match="mode"):
            read_level(tmp_path, 4)


def test_rates_are_over_departures_and_latencies_over_all() -> None:
    slow = replace(request(5.0), ttft_s=4.0)
    measurement = measure(level([slow, request(5.0), request(6.0), request(6.0)]), LOAD)
    assert measurement.window_s == 1.0
    assert measurement.requests_per_s == 2.0
    assert measurement.output_tokens_per_s == 40.0
    assert measurement.input_tokens_per_s == 110.0
    assert measurement.ttft.mean == pytest.approx((4.0 + 3 * 0.1) / 4)
    assert measurement.duration_s == 10.0


def test_outputs_of_one_token_have_no_tpot() -> None:
    measurement = measure(level([request(tpot_s=None, output_tokens=1)] * 4), LOAD)
    assert measurement.tpot is None
    assert isnan(measurement.metric("tpot_p50_s"))
    assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement


def test_a_measurement_survives_json_and_knows_all_metrics() -> None:
    measurement = measure(level([request(), request(2.0)] * 2, errors={"429": 1}, client_cpu_s=2.0), LOAD)
    assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement
    assert all(isinstance(measurement.metric(name), float) for name in METRICS)
    with pytest.raises(KeyError):
        measurement.metric("ttft_p42_s")


@pytest.mark.parametrize(
    ("client_cpu_s", "output_tokens", "bound"),
    [
        (None, 20, False),
        (10 * CPU_SHARE_LIMIT - 0.1, 20, False),
        (10 * CPU_SHARE_LIMIT + 0.1, 20, True),
        (1.0, int(CHUNKS_PER_S_LIMIT), True),
    ],
)
def test_says_when_the_client_set_the_pace(client_cpu_s: float | None, output_tokens: int, bound: bool) -> None:
    requests = [request(1.0 + number / 2, output_tokens=output_tokens) for number in range(4)]
    measurement = measure(level(requests, client_cpu_s=client_cpu_s), LOAD)
    assert measurement.client_bound is bound


@pytest.mark.parametrize(
    ("found", "reason", "rejected"),
    [
        (level([], errors={"400": 8}, messages=["too long"], stop="errors"), "all of 8 requests failed: 8 x 400 (too long)", True),
        (level([], errors={"400": 8, "500": 1}, stop="errors"), "all of 9 requests failed: 8 x 400, 1 x 500", False),
        (
            level([], errors={"500": 8}, messages=["Context size has been exceeded."], stop="errors"),
            "all of 8 requests failed: 8 x 500 (Context size has been exceeded.)",
            True,
        ),
        (level([], errors={"429": 8}, stop="stall"), "all of 8 requests failed: 8 x 429", False),
        (level([request()], stop="stall"), "the server hangs: no request ended well for 5 s, after 10 s at concurrency 2", False),
        (level([], stop="stall"), "the server hangs: no request ended well for 5 s, after 10 s at concurrency 2", False),
        (level([], stop="time"), "no request finished after 10 s at concurrency 2", False),
        (level([request()], stop="stopped"), "the server ended after 10 s at concurrency 2, with 1 requests completed", False),
    ],
)
def test_says_why_there_is_no_measurement(found: Level, reason: str, rejected: bool) -> None:
    with pytest.raises(ServerUnusable) as caught:
        measure(found, LOAD)
    assert caught.value.reason == reason
    assert caught.value.rejected is rejected


def test_time_over_with_something_measured_is_a_measurement() -> None:
    assert measure(level([request()], stop="time"), LOAD).completed == 1


def test_percentiles_interpolate() -> None:
    values = timing([4.0, 1.0, 3.0, 2.0])
    assert values.mean == 2.5
    assert values.p50 == 2.5
    assert values.p90 == pytest.approx(3.7)
    assert timing([7.0]).p99 == 7.0


def test_saves_everything(tmp_path: Path) -> None:
    path = tmp_path / "level-2.json"
    level([request()], errors={"429": 2}, messages=["full"]).save(path, LOAD, "double 1.0")
    saved = json.loads(path.read_text())
    assert saved["load_generator"] == "double 1.0"
    assert saved["load"]["scenario"] == "D(50,20)"
    assert saved["requests"][0]["finished_s"] == 1.0
    assert saved["errors"] == {"429": 2}
