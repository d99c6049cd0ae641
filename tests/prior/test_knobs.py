from __future__ import annotations

from pathlib import Path

import pytest

from tests.prior.cases import CHAT, work
from tuner.feasibility.rules import RULES
from tuner.launch import Configuration
from tuner.prior import knobs
from tuner.prior.closed_loop import Schedule


def schedule(folder: Path, engine: str, configuration: Configuration, memory_gib: float = 79.1) -> Schedule:
    rules = RULES[engine]
    found = knobs.schedule(rules, rules.canonical(configuration), work(folder), memory_gib, CHAT)
    assert found is not None
    return found


def test_kv_cache_of_sglang(tmp_path: Path) -> None:
    # 443,731 tokens by SGLang's own rule, of which a request holds prompt and answer
    found = schedule(tmp_path, "sglang", {"mem_fraction_static": 0.88})
    assert found.running == pytest.approx(443_731 / 1280, rel=0.02)


def test_half_an_answer_is_held_in_vllm(tmp_path: Path) -> None:
    narrow, wide = (schedule(tmp_path, "vllm", {"gpu_memory_utilization": 0.5, "kv_cache_dtype": kind}) for kind in ("auto", "fp8"))
    assert wide.running == pytest.approx(2 * narrow.running)
    assert narrow.running == pytest.approx((0.5 * 79.1 - 14.96 - 3) * 2**30 / 131072 / 1152, rel=0.05)


def test_limits_given_to_the_engine(tmp_path: Path) -> None:
    assert schedule(tmp_path, "sglang", {"max_running_requests": 32}).running == 32
    assert schedule(tmp_path, "sglang", {"max_total_tokens": 12_800}).running == 10
    assert schedule(tmp_path, "vllm", {"max_num_seqs": 32}).running == 32


def test_defaults_follow_the_memory_of_the_gpu(tmp_path: Path) -> None:
    chunks = [schedule(tmp_path, "sglang", {}, memory).chunk for memory in (24, 40, 80, 180)]
    assert chunks == [4096, 4096, 8192, 16384]
    assert [schedule(tmp_path, "vllm", {}, memory).chunk for memory in (24, 80, 180)] == [2048, 8192, 16384]
    assert schedule(tmp_path, "sglang", {"tp_size": 4}).graph_batch == 512
    assert schedule(tmp_path, "sglang", {"max_running_requests": 64}).graph_batch == 64


def test_chunks_that_are_off_are_bounded_by_the_prefill(tmp_path: Path) -> None:
    assert schedule(tmp_path, "sglang", {"chunked_prefill_size": -1}).chunk == 16384
    assert schedule(tmp_path, "sglang", {"chunked_prefill_size": 32768}).chunk == 16384
    assert schedule(tmp_path, "sglang", {"chunked_prefill_size": 512}).chunk == 512


def test_who_mixes(tmp_path: Path) -> None:
    assert not schedule(tmp_path, "sglang", {}).mixes
    assert schedule(tmp_path, "sglang", {"enable_mixed_chunk": True}).mixes
    assert schedule(tmp_path, "vllm", {}).mixes
    assert not schedule(tmp_path, "vllm", {"enable_chunked_prefill": False}).mixes


@pytest.mark.parametrize(
    ("engine", "configuration"),
    [
        ("sglang", {"disable_cuda_graph": True}),
        ("sglang", {"cuda_graph_backend_decode": "disabled"}),
        ("vllm", {"enforce_eager": True}),
    ],
)
def test_graphs_that_are_off(engine: str, configuration: Configuration, tmp_path: Path) -> None:
    assert schedule(tmp_path, engine, configuration).graph_batch == 0


def test_replicas(tmp_path: Path) -> None:
    assert schedule(tmp_path, "sglang", {"dp_size": 4}).replicas == 4
    assert schedule(tmp_path, "sglang", {"dp_size": 4, "tp_size": 4, "enable_dp_attention": True}).replicas == 1
    assert schedule(tmp_path, "vllm", {"data_parallel_size": 2}).replicas == 2


@pytest.mark.parametrize(
    ("parameters", "engine"),
    [
        (["tp_size", "kv_cache_dtype"], "sglang"),
        (["tensor_parallel_size", "cuda_graph_max_bs"], "sglang"),
        (["tensor_parallel_size", "max_num_seqs"], "vllm"),
        (["max_num_batched_tokens", "max_running_requests"], None),
        (["tensor_parallel_size", "kv_cache_dtype"], None),
        (["n_parallel"], None),
        ([], None),
    ],
)
def test_the_engine_that_knows_all_parameters(parameters: list[str], engine: str | None) -> None:
    assert knobs.engine_of(parameters) == engine
