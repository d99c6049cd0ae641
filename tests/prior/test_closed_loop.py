"""The closed form, on step times that are simple enough to reckon by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from tuner.benchmark.measurement import METRICS
from tuner.prior.closed_loop import REQUEST_HOST_S, STEP_HOST_S, Schedule, Traffic, closed_loop

STALLING = Schedule(replicas=1, stages=1, running=1000, chunk=8192, mixes=False, graph_batch=10_000, layers=32)
MIXING = replace(STALLING, mixes=True)
FIXED = Traffic(input_tokens=1000, output_tokens=101, requests_per_user=4)
VARIED = replace(FIXED, input_sd=400.0, output_sd=40.0)


@dataclass(frozen=True)
class Linear:
    """10 us for each prompt token, 10 ms for a step that decodes and 0.1 ms for each request of it."""

    def seconds(self, prefills: float, new: float, prefix: float, decoding: float, context: float) -> float:
        return max(1e-5 * prefills * new + 1e-4 * decoding, 0.01)


def host(requests: float) -> float:
    return STEP_HOST_S + REQUEST_HOST_S * requests


def test_one_user_sees_the_prompt_and_then_the_steps() -> None:
    for schedule in (STALLING, MIXING):
        metrics = closed_loop(Linear(), schedule, FIXED, 1)
        assert metrics["ttft_mean_s"] == pytest.approx(0.01 + host(1))
        assert metrics["tpot_mean_s"] == pytest.approx(0.01 + host(1), rel=0.001)
        assert metrics["latency_mean_s"] == pytest.approx(101 * (0.01 + host(1)), rel=0.001)
        assert metrics["ttft_p99_s"] == pytest.approx(metrics["ttft_mean_s"])


def test_the_last_of_a_burst_waits_for_all_prompts() -> None:
    metrics = closed_loop(Linear(), STALLING, FIXED, 64)
    step = 0.08192 + host(8.192)
    assert metrics["ttft_p99_s"] == pytest.approx(64 / 8.192 * step, rel=0.02)
    assert metrics["ttft_mean_s"] == pytest.approx((64 / 8.192 + 1) / 2 * step)


@pytest.mark.parametrize("schedule", [STALLING, MIXING, replace(STALLING, running=16), replace(MIXING, running=16)])
@pytest.mark.parametrize("traffic", [FIXED, VARIED, replace(FIXED, output_tokens=1), replace(FIXED, input_tokens=20_000)])
@pytest.mark.parametrize("level", [1, 2, 7, 64, 1000])
def test_littles_law_and_the_parts_of_a_latency(schedule: Schedule, traffic: Traffic, level: int) -> None:
    metrics = closed_loop(Linear(), schedule, traffic, level)
    assert set(metrics) <= set(METRICS)
    assert min(metrics.values()) > 0
    assert metrics["requests_per_s"] * metrics["latency_mean_s"] == pytest.approx(level)
    parts = metrics["ttft_mean_s"] + (traffic.output_tokens - 1) * metrics.get("tpot_mean_s", 0.0)
    assert parts == pytest.approx(metrics["latency_mean_s"], rel=0.01)
    for timing in ("ttft", "tpot", "latency"):
        order = [metrics[f"{timing}_{name}_s"] for name in ("p50", "p90", "p95", "p99") if f"{timing}_{name}_s" in metrics]
        assert order == sorted(order)


@pytest.mark.parametrize("schedule", [STALLING, MIXING])
@pytest.mark.parametrize("traffic", [FIXED, VARIED])
def test_more_users_are_served_faster_together_and_slower_each(schedule: Schedule, traffic: Traffic) -> None:
    metrics = [closed_loop(Linear(), schedule, traffic, level) for level in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    for fewer, more in pairwise(metrics):
        assert more["output_tokens_per_s"] > fewer["output_tokens_per_s"] * 0.999
        assert more["latency_mean_s"] > fewer["latency_mean_s"]
        assert more["ttft_mean_s"] > fewer["ttft_mean_s"] * 0.999


@pytest.mark.parametrize("schedule", [STALLING, MIXING])
def test_users_over_the_limit_wait_before_their_first_token(schedule: Schedule) -> None:
    few, many = (closed_loop(Linear(), replace(schedule, running=16), FIXED, level) for level in (16, 64))
    assert many["output_tokens_per_s"] == pytest.approx(few["output_tokens_per_s"])
    assert many["tpot_mean_s"] == pytest.approx(few["tpot_mean_s"])
    assert many["ttft_mean_s"] == pytest.approx(few["ttft_mean_s"] + 3 * few["latency_mean_s"])


def test_replicas_share_the_users() -> None:
    one, two = closed_loop(Linear(), STALLING, FIXED, 32), closed_loop(Linear(), replace(STALLING, replicas=2), FIXED, 64)
    assert two["ttft_mean_s"] == pytest.approx(one["ttft_mean_s"])
    assert two["output_tokens_per_s"] == pytest.approx(2 * one["output_tokens_per_s"])
    alone = closed_loop(Linear(), replace(STALLING, replicas=8), FIXED, 2)
    assert alone["latency_mean_s"] == pytest.approx(closed_loop(Linear(), STALLING, FIXED, 1)["latency_mean_s"])


def test_mixing_gives_the_first_token_earlier_and_the_others_later() -> None:
    stalling, mixing = (closed_loop(Linear(), schedule, FIXED, 64) for schedule in (STALLING, MIXING))
    assert mixing["ttft_mean_s"] < stalling["ttft_mean_s"]
    assert mixing["tpot_mean_s"] > stalling["tpot_mean_s"]


def test_small_chunks_in_mixed_steps_delay_the_first_token() -> None:
    small, large = (closed_loop(Linear(), replace(MIXING, chunk=chunk), replace(VARIED, input_tokens=4000), 16) for chunk in (512, 8192))
    assert small["ttft_mean_s"] > large["ttft_mean_s"]


def test_without_a_graph_small_batches_decode_slower() -> None:
    graph, eager = (closed_loop(Linear(), replace(STALLING, graph_batch=batch, layers=100), FIXED, 8) for batch in (8, 7))
    assert eager["tpot_mean_s"] > graph["tpot_mean_s"]
    assert eager["ttft_mean_s"] == graph["ttft_mean_s"]


def test_a_pipeline_gives_throughput_but_no_speed_to_one_user() -> None:
    deep = replace(STALLING, stages=2)
    one, many = (closed_loop(Linear(), deep, FIXED, level) for level in (1, 512))
    assert one["latency_mean_s"] == pytest.approx(closed_loop(Linear(), STALLING, FIXED, 1)["latency_mean_s"])
    assert many["output_tokens_per_s"] > closed_loop(Linear(), STALLING, FIXED, 512)["output_tokens_per_s"]


@pytest.mark.parametrize("schedule", [STALLING, MIXING])
def test_the_first_wave_counts_only_where_it_is_measured(schedule: Schedule) -> None:
    """Prompts that come at once wait for each other; those that come later do not."""
    without, with_it = (closed_loop(Linear(), schedule, replace(VARIED, first_wave=counts), 64) for counts in (False, True))
    assert with_it["ttft_p99_s"] > 2 * without["ttft_p99_s"]
    assert with_it["output_tokens_per_s"] == without["output_tokens_per_s"]


@pytest.mark.parametrize("schedule", [STALLING, MIXING, replace(STALLING, running=16)])
def test_lengths_that_vary_spread_the_times(schedule: Schedule) -> None:
    same, varied = (closed_loop(Linear(), schedule, replace(VARIED, output_sd=sd), 64) for sd in (1.0, 40.0))
    assert varied["latency_mean_s"] == pytest.approx(same["latency_mean_s"])
    assert varied["latency_p99_s"] / varied["latency_mean_s"] > same["latency_p99_s"] / same["latency_mean_s"] + 0.2


def test_prompts_of_varied_lengths_need_a_part_of_a_step_more() -> None:
    """A prompt of 1000 tokens fits a chunk of 1000, one of 1000 on the mean in every second case."""
    alone = [closed_loop(Linear(), replace(STALLING, chunk=1000), replace(FIXED, input_sd=sd), 1)["ttft_mean_s"] for sd in (0.0, 100.0)]
    assert alone[1] - alone[0] == pytest.approx(0.5 * (0.01 + host(1)), rel=0.01)


def test_a_limit_on_running_requests_that_nothing_reaches_changes_nothing() -> None:
    """Between the steps with prompts no more requests decode than there are, so that none of these steps is without a graph."""
    long = replace(VARIED, input_tokens=6000, output_tokens=300)
    tight, wide = (replace(MIXING, running=limit, graph_batch=limit, chunk=1024, layers=100) for limit in (16, 64))
    assert closed_loop(Linear(), tight, long, 16) == closed_loop(Linear(), wide, long, 16)


def test_a_server_that_only_just_keeps_up_with_prompts_decodes_beside_them() -> None:
    """Its prompts wait long for each other, but not in the time in which their answers are decoded, a token for each step."""
    metrics = closed_loop(Linear(), replace(MIXING, chunk=512), replace(VARIED, input_tokens=1800), 32)
    assert metrics["tpot_mean_s"] > 0.0099
