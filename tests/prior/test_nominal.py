from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.prior.cases import CHAT, roofline, work
from tuner.feasibility.rules import RULES
from tuner.launch import Configuration
from tuner.prior.nominal import MODEL, NominalRoofline
from tuner.prior.roofline import Roofline


def nominal(engine: str) -> NominalRoofline:
    return NominalRoofline(RULES[engine], {}, None, None, CHAT)


def test_the_nominal_model_is_what_its_files_say(tmp_path: Path) -> None:
    read = work(tmp_path)
    assert replace(read, shape=replace(read.shape, weight_bytes=None)) == MODEL


def test_it_is_trusted_less() -> None:
    assert 0 < NominalRoofline.trust < Roofline.trust == 1
    assert NominalRoofline.name == "nominal roofline"


@pytest.mark.parametrize(
    ("engine", "configuration"),
    [
        ("sglang", {"mem_fraction_static": 0.1, "tp_size": 8}),
        ("sglang", {"mem_fraction_static": 0.1, "chunked_prefill_size": 65536}),
        ("vllm", {"gpu_memory_utilization": 0.15}),
        ("vllm", {"gpu_memory_utilization": 0.9, "max_num_batched_tokens": 131072, "max_num_seqs": 2048}),
    ],
)
def test_little_memory_is_enough(engine: str, configuration: Configuration, tmp_path: Path) -> None:
    assert nominal(engine).predict(configuration, 64) is not None
    assert roofline(tmp_path, engine, model="Llama-3.1-70B").predict(configuration, 64) is None


@pytest.mark.parametrize(
    ("engine", "worse", "better", "metric"),
    [
        ("sglang", {"tp_size": 2}, {"tp_size": 4}, "tpot_mean_s"),
        ("sglang", {"mem_fraction_static": 0.3}, {"mem_fraction_static": 0.8}, "ttft_p99_s"),
        ("sglang", {"max_running_requests": 64}, {"max_running_requests": 256}, "ttft_p99_s"),
        ("sglang", {"dp_size": 1}, {"dp_size": 2}, "tpot_mean_s"),
        ("vllm", {"max_num_seqs": 64}, {"max_num_seqs": 256}, "ttft_p99_s"),
        ("vllm", {"gpu_memory_utilization": 0.2}, {"gpu_memory_utilization": 0.8}, "ttft_p99_s"),
    ],
)
def test_it_tells_directions(engine: str, worse: Configuration, better: Configuration, metric: str) -> None:
    slow, fast = (nominal(engine).predict(configuration, 512) for configuration in (worse, better))
    assert slow is not None
    assert fast is not None
    assert fast[metric] < 0.95 * slow[metric]
