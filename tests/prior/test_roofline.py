"""Directions of the knobs; what the numbers are worth stands in docs/prior.md."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from tests.feasibility.model_folders import config, model_folder
from tests.prior.cases import roofline, spec, work
from tuner.launch import Configuration
from tuner.prior.closed_loop import Traffic
from tuner.prior.model_work import ModelWork
from tuner.prior.roofline import Roofline, RooflineSteps
from tuner.prior.step_times import Layout

DATA = Path(__file__).parent / "data"
LONG = Traffic(input_tokens=8000, output_tokens=200, requests_per_user=3, output_sd=80)


def value(prior: Roofline, metric: str, level: int, **configuration: bool | int | float | str) -> float:
    found = prior.predict(configuration, level)
    assert found is not None
    return found[metric]


def plain(folder: Path, tp: int = 1, model: str = "Llama-3.1-8B", quantization: str | None = None, kv: str = "auto") -> RooflineSteps:
    return RooflineSteps(work(folder, model), spec(), Layout(tp, quantization, kv))


def test_a_decode_step_reads_all_weights(tmp_path: Path) -> None:
    # 15.0e9 bytes at 3.35e12 bytes per second take 4.48 ms, were there nothing else
    assert 4.48e-3 < plain(tmp_path).seconds(0, 0, 0, 1, 100) < 1.6 * 4.48e-3


def test_two_gpus_halve_the_weights_and_add_a_reduction(tmp_path: Path) -> None:
    one, two = (plain(tmp_path, tp, "Llama-3.1-70B").seconds(0, 0, 0, 1, 1024) for tp in (1, 2))
    assert 0.5 * one < two < 0.6 * one


def test_without_nvlink_more_gpus_give_less(tmp_path: Path) -> None:
    products = ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3")
    slow, fast = (RooflineSteps(work(tmp_path), spec(product), Layout(8, None, "auto")) for product in products)
    gap = slow.seconds(1, 4096, 0, 0, 0) - fast.seconds(1, 4096, 0, 0, 0)
    assert gap > fast.seconds(1, 4096, 0, 0, 0)


def test_steps_grow_with_what_they_do(tmp_path: Path) -> None:
    steps = plain(tmp_path)
    assert steps.seconds(0, 0, 0, 64, 4096) > steps.seconds(0, 0, 0, 64, 256) > steps.seconds(0, 0, 0, 1, 256)
    assert steps.seconds(1, 2048, 4096, 0, 0) > steps.seconds(1, 2048, 0, 0, 0) > steps.seconds(2, 1024, 0, 0, 0)
    assert steps.seconds(1, 512, 0, 64, 1024) > max(steps.seconds(1, 512, 0, 0, 0), steps.seconds(0, 0, 0, 64, 1024))


def test_narrow_numbers_are_faster(tmp_path: Path) -> None:
    assert plain(tmp_path, quantization="fp8").seconds(0, 0, 0, 1, 100) < 0.7 * plain(tmp_path).seconds(0, 0, 0, 1, 100)
    assert plain(tmp_path, kv="fp8_e4m3").seconds(0, 0, 0, 128, 8192) < 0.6 * plain(tmp_path).seconds(0, 0, 0, 128, 8192)


def test_few_experts_work_for_few_tokens(tmp_path: Path) -> None:
    steps = plain(tmp_path, model="Qwen3-30B-A3B")
    assert steps.seconds(0, 0, 0, 1, 100) < 0.4 * steps.seconds(0, 0, 0, 64, 100)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Llama-3.2-1B", "Qwen3-30B-A3B"])
def test_more_users_never_lower_the_throughput(engine: str, model: str, tmp_path: Path) -> None:
    prior = roofline(tmp_path, engine, model=model)
    levels = [value(prior, "output_tokens_per_s", level) for level in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    assert all(more > 0.98 * fewer for fewer, more in pairwise(levels))
    assert levels[-1] > 8 * levels[0]


@pytest.mark.parametrize(
    ("engine", "metric", "level", "better", "worse"),
    [
        ("sglang", "tpot_mean_s", 1, {"tp_size": 2}, {"tp_size": 1}),
        ("sglang", "latency_mean_s", 256, {"tp_size": 4}, {"tp_size": 2}),
        ("sglang", "latency_mean_s", 256, {"dp_size": 2}, {"dp_size": 1}),
        ("sglang", "latency_mean_s", 1, {"tp_size": 2}, {"dp_size": 2}),
        ("sglang", "latency_mean_s", 512, {"dp_size": 4}, {"tp_size": 4}),
        ("sglang", "tpot_mean_s", 256, {"max_running_requests": 16}, {"max_running_requests": 256}),
        ("sglang", "ttft_mean_s", 256, {"max_running_requests": 256}, {"max_running_requests": 16}),
        ("sglang", "latency_mean_s", 256, {"max_running_requests": 256}, {"max_running_requests": 16}),
        ("sglang", "latency_mean_s", 256, {"mem_fraction_static": 0.85}, {"mem_fraction_static": 0.3}),
        ("sglang", "latency_mean_s", 256, {"chunked_prefill_size": 8192}, {"chunked_prefill_size": 128}),
        ("sglang", "latency_mean_s", 4, {"cuda_graph_max_bs_decode": 8}, {"cuda_graph_max_bs_decode": 2}),
        ("sglang", "latency_mean_s", 4, {}, {"disable_cuda_graph": True}),
        ("sglang", "latency_mean_s", 256, {"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "auto"}),
        ("vllm", "latency_mean_s", 256, {"gpu_memory_utilization": 0.9}, {"gpu_memory_utilization": 0.35}),
        ("vllm", "latency_mean_s", 256, {"max_num_seqs": 256}, {"max_num_seqs": 16}),
        ("vllm", "latency_mean_s", 4, {"enforce_eager": False}, {"enforce_eager": True}),
        ("vllm", "ttft_mean_s", 64, {"max_num_batched_tokens": 8192}, {"max_num_batched_tokens": 256}),
        ("vllm", "tpot_mean_s", 1, {"tensor_parallel_size": 2}, {"tensor_parallel_size": 1}),
    ],
)
def test_directions_of_the_knobs(engine: str, metric: str, level: int, better: Configuration, worse: Configuration, tmp_path: Path) -> None:
    prior = roofline(tmp_path, engine)
    assert value(prior, metric, level, **better) < 0.99 * value(prior, metric, level, **worse)


def test_mixed_chunks_trade_the_time_between_tokens_for_the_first_one(tmp_path: Path) -> None:
    same = Traffic(1024, 256, requests_per_user=3)
    prior = roofline(tmp_path, traffic=same)
    assert value(prior, "ttft_mean_s", 64, enable_mixed_chunk=True) < value(prior, "ttft_mean_s", 64)
    assert value(prior, "tpot_mean_s", 64, enable_mixed_chunk=True) > value(prior, "tpot_mean_s", 64)


def test_small_budgets_of_tokens_delay_long_prompts(tmp_path: Path) -> None:
    prior = roofline(tmp_path, "vllm", LONG)
    first = [value(prior, "ttft_mean_s", 8, max_num_batched_tokens=tokens) for tokens in (512, 2048, 8192)]
    assert first[0] > first[1] > first[2]


def test_fixed_values_stand_under_the_configuration(tmp_path: Path) -> None:
    fixed = roofline(tmp_path, max_running_requests=8)
    assert fixed.predict({}, 64) == roofline(tmp_path).predict({"max_running_requests": 8}, 64)
    assert fixed.predict({"max_running_requests": 64}, 64) == roofline(tmp_path).predict({"max_running_requests": 64}, 64)


def test_other_names_of_a_parameter_count(tmp_path: Path) -> None:
    prior = roofline(tmp_path)
    assert prior.predict({"tensor_parallel_size": 2}, 8) == prior.predict({"tp_size": 2}, 8)


@pytest.mark.parametrize("configuration", [{"mem_fraction_static": 0.1}, {"max_total_tokens": 1000}])
def test_tells_nothing_where_no_request_fits(configuration: Configuration, tmp_path: Path) -> None:
    assert roofline(tmp_path).predict(configuration, 1) is None
    assert roofline(tmp_path, model="Llama-3.1-70B").predict({}, 1) is None
    assert roofline(tmp_path, model="Llama-3.1-70B").predict({"tp_size": 4}, 1) is not None


def test_step_times_that_were_measured(tmp_path: Path) -> None:
    facts = json.loads((DATA / "step_times.json").read_text())
    llama = config("Llama-3.1-8B")
    folder = model_folder(tmp_path, llama, 2 * 8_030_261_248)
    found = ModelWork.read(folder)
    assert found is not None
    steps = RooflineSteps(found, spec(facts["gpu"]), Layout(1, None, "auto"))
    with (DATA / "step_times.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["shape"] == "llama8b"]
    for kind, bound in (("decode", 0.05), ("prefill", 0.10), ("mixed", 0.15)):
        errors = []
        for row in rows:
            if row["kind"] == kind:
                batch, context, chunk, prefix = (int(row[name]) for name in ("batch", "context", "chunk", "prefix"))
                errors.append(abs(steps.seconds(float(chunk > 0), chunk, prefix, batch, context) / float(row["seconds"]) - 1))
        assert mean(errors) < bound, kind
