from __future__ import annotations

import json
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from tuner.benchmark.base import Load, ServerUnusable
from tuner.benchmark.cli_mode import read_level
from tuner.benchmark.measurement import METRICS, STATISTICS, TIMINGS, Measurement
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


def waves(*latencies_s: float, users: int = 4) -> list[Request]:
    """Whole waves of so many users, one after the other."""
    end, sent = 0.0, []
    for number, latency_s in enumerate(latencies_s):
        end += latency_s
        sent += [replace(request(end), latency_s=latency_s + 1e-6 * user, ttft_s=0.1 + 0.001 * (number % 2)) for user in range(users)]
    return sent


def test_a_slow_first_wave_counts_in_no_time() -> None:
    load = replace(LOAD, concurrency=4)
    measurement = measure(level(waves(9.0, 1.0, 1.01, 0.99)), load)
    assert measurement.warmup_excluded == 4
    assert measurement.completed == 16
    assert measurement.latency.p99 == pytest.approx(1.01, abs=0.001)
    assert measurement.requests_per_s == pytest.approx(4.0)


def test_a_first_wave_like_the_others_counts() -> None:
    measurement = measure(level(waves(1.02, 1.0, 1.01, 0.99)), replace(LOAD, concurrency=4))
    assert measurement.warmup_excluded == 0
    assert measurement.latency.p99 == pytest.approx(1.02, abs=0.001)


def test_without_completion_times_no_wave_is_known() -> None:
    requests = [replace(sent, finished_s=None) for sent in waves(9.0, 1.0, 1.01, 0.99)]
    measurement = measure(level(requests), replace(LOAD, concurrency=4))
    assert measurement.warmup_excluded == 0
    assert measurement.latency.p99 == pytest.approx(9.0, abs=0.001)
    assert set(measurement.spread) == {f"{name}_{each}_s" for name in TIMINGS for each in STATISTICS}


class TestSpread:
    def test_of_all_that_was_measured(self) -> None:
        measurement = measure(level(waves(1.0, 1.1, 0.9, 1.0)), replace(LOAD, concurrency=4))
        assert set(measurement.spread) == set(METRICS) - {"error_rate"}
        assert 0.03 < measurement.spread["requests_per_s"] < 0.1
        low, high = measurement.interval("requests_per_s") or (0.0, 0.0)
        assert low < measurement.requests_per_s < high
        assert high - low == pytest.approx(2 * 1.96 * measurement.spread["requests_per_s"] * measurement.requests_per_s, rel=0.01)
        narrow = measurement.interval("requests_per_s", 0.5) or (0.0, 0.0)
        assert narrow[1] - narrow[0] < high - low

    def test_one_wave_says_nothing_of_rates(self) -> None:
        measurement = measure(level(waves(1.0)), replace(LOAD, concurrency=4))
        assert "requests_per_s" not in measurement.spread
        assert measurement.interval("requests_per_s") is None

    def test_a_record_from_before_it_loads(self) -> None:
        data = measure(level(waves(1.0, 1.1, 0.9)), replace(LOAD, concurrency=4)).to_dict()
        for name in ("spread", "warmup_excluded", "cache_reuse"):
            del data[name]
        assert Measurement.from_dict(data).spread == {}


@pytest.mark.parametrize(
    ("completed", "excluded", "metric", "unresolved"),
    [
        (99, 0, "ttft_p99_s", True),
        (100, 0, "ttft_p99_s", False),
        (103, 4, "latency_p99_s", True),
        (19, 0, "tpot_p95_s", True),
        (20, 0, "tpot_p95_s", False),
        (1, 0, "ttft_p50_s", True),
        (2, 0, "ttft_p50_s", False),
        (1, 0, "ttft_mean_s", False),
        (1, 0, "output_tokens_per_s", False),
    ],
)
def test_percentiles_need_requests(completed: int, excluded: int, metric: str, unresolved: bool) -> None:
    measurement = replace(measure(level([request()] * 4), LOAD), completed=completed, warmup_excluded=excluded)
    assert measurement.unresolved(metric) is unresolved


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
