from __future__ import annotations

import pytest

from tuner.engines.sglang import Sglang
from tuner.engines.startup_log import sglang_startup, vllm_startup
from tuner.engines.vllm import Vllm
from tuner.server_facts import Startup

AT = "[2026-01-01 00:00:00"
ONE_GPU = f"""\
{AT}] Load weight begin. avail mem=94.71 GB
{AT}] Load weight end. elapsed=1.10 s, type=LlamaForCausalLM, quant=fp8, avail mem=92.36 GB, mem usage=2.35 GB.
{AT}] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 2096000, K size: 31.98 GB, V size: 31.98 GB
{AT}] Memory pool end. avail mem=28.10 GB
{AT}] Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1, avail mem=28.10 GB
{AT}] Capture target decode CUDA graph end. bs=[1, 2], elapsed=3.00 s, mem usage=0.90 GB, avail mem=27.20 GB.
{AT}] Capture target prefill CUDA graph end. elapsed=3.00 s, mem usage=0.30 GB, avail mem=26.90 GB.
{AT}] max_total_num_tokens=2096000, chunked_prefill_size=8192, max_prefill_tokens=16384, max_running_requests=4096, context_len=131072, \
available_gpu_mem=26.90 GB
"""
TWO_RANKS_WITH_DRAFT = f"""\
{AT} TP0] Load weight end. elapsed=1 s, type=A, avail mem=60.00 GB, mem usage=18.00 GB.
{AT} TP1] Load weight end. elapsed=1 s, type=A, avail mem=59.00 GB, mem usage=18.50 GB.
{AT} TP0] Load weight end. elapsed=1 s, type=Draft, avail mem=59.00 GB, mem usage=1.00 GB.
{AT} TP1] Load weight end. elapsed=1 s, type=Draft, avail mem=58.00 GB, mem usage=1.00 GB.
{AT} TP0] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 500, KV size: 40.00 GB
{AT} TP1] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 480, KV size: 40.00 GB
{AT} TP0] Draft KV Cache is allocated. dtype: torch.bfloat16, #tokens: 500, K size: 1.00 GB, V size: 1.00 GB
{AT} TP0] Load weight end. Committed real weights after CUDA graph capture in 2.00 s (capture overlap window 1 s, startup overlap total 3 s)
"""
CORE = "(EngineCore pid=7) INFO 01-01 00:00:00 [gpu_worker.py:773]"
VLLM = f"""\
{CORE} Model loading took 2.3 GiB memory and 1.100000 seconds
{CORE} Available KV cache memory: 64.51 GiB
{CORE} GPU KV cache size: 2,113,920 tokens, Maximum concurrency for 131,072 tokens per request: 16.13x
{CORE} Graph capturing finished in 12 secs, took 0.85 GiB
{CORE} Free memory on device (78.6/79.11 GiB) on startup. Desired GPU memory utilization is (0.92, 72.78 GiB). Actual usage is 3.1 GiB
"""


def test_sglang_on_one_gpu() -> None:
    expected = Startup(free_before_gib=94.71, weights_gib=2.35, kv_gib=63.96, kv_tokens=2096000, graph_gib=1.2, free_gib=26.9)
    assert Sglang("a/b").startup(ONE_GPU) == expected


def test_an_older_sglang_names_its_graphs_otherwise() -> None:
    line = "[2026-01-01 00:00:00] Capture cuda graph end. Time elapsed: 9.32 s. mem usage=0.61 GB. avail mem=13.89 GB."
    assert sglang_startup(line) == Startup(graph_gib=0.61)


def test_the_rank_with_the_least_room_counts_and_drafts_are_part_of_the_load() -> None:
    expected = Startup(free_before_gib=77.5, weights_gib=19.5, kv_gib=42.0, kv_tokens=480)
    assert sglang_startup(TWO_RANKS_WITH_DRAFT) == expected


def test_vllm() -> None:
    expected = Startup(free_before_gib=78.6, weights_gib=2.3, kv_gib=64.51, kv_tokens=2113920, graph_gib=0.85)
    assert Vllm("a/b").startup(VLLM) == expected


def test_vllms_refusal_of_a_busy_gpu_is_no_fact_about_the_start() -> None:
    assert vllm_startup("ValueError: Free memory on device cuda:0 (11.2/79.11 GiB) on startup is less than desired") == Startup()


@pytest.mark.parametrize("read", [sglang_startup, vllm_startup])
@pytest.mark.parametrize("log", [ONE_GPU, TWO_RANKS_WITH_DRAFT, VLLM, "\x00\ufffd", ""])
def test_a_log_may_break_off_anywhere(read: type[Startup], log: str) -> None:
    whole = read(log)
    for end in range(0, len(log), 7):
        part = read(log[:end])  # type: ignore[call-arg]
        assert isinstance(part, Startup)
        assert len(part.to_dict()) <= len(whole.to_dict())  # type: ignore[attr-defined]
