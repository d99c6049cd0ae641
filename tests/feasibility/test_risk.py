"""In which direction the risk of a configuration points, and that it needs neither GPU nor model to do so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.feasibility.model_folders import downloaded, gpus
from tuner.feasibility.model_shape import ModelShape
from tuner.feasibility.risk import LIMIT, Risk, create, sglang_defaults
from tuner.feasibility.rules import SGLANG, VLLM
from tuner.launch import Value


def of(memory_gib: float | None = 80.0, /, **configuration: Value) -> float:
    return Risk(SGLANG, {}, memory_gib).of(configuration)


@pytest.mark.parametrize("memory_gib", [None, 24.0, 80.0, 141.0])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mem_fraction_static", (0.5, 0.7, 0.9, 0.95)),
        ("chunked_prefill_size", (2048, 4096, 8192, 16384)),
        ("cuda_graph_max_bs_decode", (8, 64, 512)),
        ("tp_size", (1, 2, 4)),
    ],
)
def test_what_needs_more_beside_the_cache_is_riskier(memory_gib: float | None, name: str, values: tuple[float, ...]) -> None:
    base: dict[str, Value] = {"mem_fraction_static": 0.8, "chunked_prefill_size": 4096, "cuda_graph_max_bs_decode": 32}
    risks = [Risk(SGLANG, {}, memory_gib).of({**base, name: value}) for value in values]
    assert all(a < b for a, b in itertools.pairwise(risks))


def test_the_reserve_of_the_engine_is_at_nought() -> None:
    # 512 + 1.5 * 8192 + 1024 / 8 + 2 * 256 MB = 13.125 GiB
    assert of(80.0, mem_fraction_static=1 - 13.125 / 80, chunked_prefill_size=8192, cuda_graph_max_bs_decode=256) == pytest.approx(0.0)


def test_without_a_fraction_the_engine_leaves_its_reserve() -> None:
    assert of(80.0) == pytest.approx(0.0)
    # no less than 10 GiB of a large GPU, of which a small chunk needs less
    assert of(80.0, chunked_prefill_size=2048) < -0.5


def test_graphs_that_are_switched_off_need_nothing() -> None:
    given: dict[str, Value] = {"mem_fraction_static": 0.9, "cuda_graph_max_bs_decode": 512}
    assert of(80.0, **given, disable_cuda_graph=True) < of(80.0, **given)
    assert of(80.0, **given, cuda_graph_backend_decode="disabled") < of(80.0, **given)


def test_fixed_values_and_other_names_count() -> None:
    fixed = Risk(SGLANG, {"chunked_prefill_size": 16384, "tensor_parallel_size": 2}, 80.0)
    assert fixed.of({"mem_fraction_static": 0.9}) == of(80.0, mem_fraction_static=0.9, chunked_prefill_size=16384, tp_size=2)


def test_a_chunk_that_is_off_is_as_large_as_a_prefill() -> None:
    assert of(80.0, mem_fraction_static=0.9, chunked_prefill_size=-1) == of(80.0, mem_fraction_static=0.9, chunked_prefill_size=16384)


def test_unseen_memory_moves_all_risks_alike() -> None:
    given: list[dict[str, Value]] = [
        {"mem_fraction_static": f, "chunked_prefill_size": c, "cuda_graph_max_bs_decode": 64} for f in (0.6, 0.9) for c in (2048, 8192)
    ]
    moved = {round(Risk(SGLANG, {}, 40.0).of(one) - Risk(SGLANG, {}).of(one), 9) for one in given}
    assert len(moved) == 1


@pytest.mark.parametrize("fraction", [1.0, 0.999999])
def test_the_risk_is_limited(fraction: float) -> None:
    assert of(80.0, mem_fraction_static=fraction) == LIMIT


def test_vllm_fears_for_its_sampler_not_for_what_it_profiles() -> None:
    risk = Risk(VLLM, {}, 80.0)
    assert risk.of({"max_num_seqs": 1024}) > risk.of({"max_num_seqs": 128})
    assert risk.of({"gpu_memory_utilization": 0.97}) > risk.of({"gpu_memory_utilization": 0.9})
    assert risk.of({"max_num_batched_tokens": 16384}) == risk.of({"max_num_batched_tokens": 2048})
    assert risk.of({"gpu_memory_utilization": 0.92}) == risk.of({})


def test_a_cache_that_hardly_holds_a_request_is_a_risk(tmp_path: Path) -> None:
    shape = ModelShape.read(downloaded(tmp_path, "Llama-3.1-70B"))
    risk = Risk(SGLANG, {"chunked_prefill_size": 2048}, 80.0, shape, request_tokens=16000)
    # weights of 65.7 GiB on each of two GPUs
    tight, ample = (risk.of({"mem_fraction_static": fraction, "tp_size": 2}) for fraction in (0.84, 0.9))
    assert tight > 0.5 > ample
    assert risk.of({"mem_fraction_static": 0.84, "tp_size": 4}) < 0
    assert Risk(SGLANG, {"chunked_prefill_size": 2048}, 80.0, shape).of({"mem_fraction_static": 0.84, "tp_size": 2}) < 0
    # other weights than those that are stored: nothing is known of them
    assert risk.of({"mem_fraction_static": 0.84, "tp_size": 2, "quantization": "fp8"}) < 0


def test_defaults_grow_with_the_memory() -> None:
    assert [sglang_defaults(memory, 1) for memory in (16, 24, 48, 80, 141, 192)] == [
        (2048, 8),
        (4096, 48),
        (4096, 32),
        (8192, 256),
        (8192, 256),
        (16384, 512),
    ]
    assert sglang_defaults(80, 4) == (8192, 512)


def test_created_for_engines_whose_memory_is_modelled(tmp_path: Path) -> None:
    given: dict[str, Value] = {"mem_fraction_static": 0.84, "tp_size": 2}
    seen = create("sglang", {"chunked_prefill_size": 2048}, downloaded(tmp_path, "Llama-3.1-70B"), gpus(2), 16000)
    assert seen is not None
    assert seen.of(given) > 0.5
    unseen = create("sglang", {"chunked_prefill_size": 2048}, None, None, None)
    assert unseen is not None
    assert unseen.of(given) == Risk(SGLANG, {"chunked_prefill_size": 2048}).of(given)
    assert create("llamacpp", {}, None, gpus(1), None) is None
    assert create("sglang", {}, None, [], None) is None
