"""What the logs of SGLang and vLLM say about GPU memory at start. All their "GB" are GiB."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from tuner.server_facts import Startup

# SGLang 0.5.23. The rank is in the prefix, `[2026-01-01 00:00:00 TP0]`: each has its own GPU.
_RANK = r"^\[\d{4}-\d\d-\d\d [\d:.,]+(?P<rank>[^\]]*)\] "
# model_executor/model_runner.py
_WEIGHTS = re.compile(_RANK + r"Load weight end\..* avail mem=(?P<free>[\d.]+) GB, mem usage=(?P<used>-?[\d.]+) GB", re.MULTILINE)
# mem_cache/memory_pool.py; a pool that is sized only after the capture of graphs writes `VA upper bound` for `is allocated`
_KV = re.compile(
    _RANK + r"(?:.* )?KV Cache is allocated\. .*#tokens: (?P<tokens>\d+), "
    r"(?:K size: (?P<k>[\d.]+) GB, V size: (?P<v>[\d.]+)|KV size: (?P<both>[\d.]+)) GB",
    re.MULTILINE,
)
# model_executor/model_runner_components/cuda_graph_setup.py; 0.5.5.post3 model_executor/model_runner.py: "Capture cuda graph end."
_GRAPHS = re.compile(_RANK + r"Capture .*(?:CUDA|cuda) graph end\..* mem usage=(?P<used>-?[\d.]+) GB", re.MULTILINE)
# managers/scheduler.py
_CAPACITY = re.compile(_RANK + r"max_total_num_tokens=(?P<tokens>\d+), .*available_gpu_mem=(?P<free>-?[\d.]+) GB", re.MULTILINE)

# vLLM 0.33.0: v1/worker/gpu_model_runner.py, v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py
_VLLM_FREE = re.compile(r"Free memory on device \(([\d.]+)/[\d.]+ GiB\) on startup\. Desired")
_VLLM_WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB memory")
_VLLM_KV = re.compile(r"Available KV cache memory: ([\d.]+) GiB")
_VLLM_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_VLLM_GRAPHS = re.compile(r"Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB")


def sglang_startup(log: str) -> Startup:
    """Of several GPUs the one with the least room. Weights and caches of a draft model count, graphs of all kinds too."""
    weights, kv, graphs = list(_WEIGHTS.finditer(log)), list(_KV.finditer(log)), list(_GRAPHS.finditer(log))
    capacity = list(_CAPACITY.finditer(log))
    before: dict[str, float] = {}
    for line in weights:
        # A draft model logs a second line, after the first has taken its memory.
        before.setdefault(line["rank"], float(line["free"]) + float(line["used"]))
    tokens = [int(line["tokens"]) for line in capacity or kv]
    return Startup(
        free_before_gib=_least(before.values()),
        weights_gib=_largest_sum((line["rank"], float(line["used"])) for line in weights),
        kv_gib=_largest_sum((line["rank"], float(line["both"] or 0) + float(line["k"] or 0) + float(line["v"] or 0)) for line in kv),
        kv_tokens=min(tokens, default=None),
        graph_gib=_largest_sum((line["rank"], float(line["used"])) for line in graphs),
        free_gib=_least(float(line["free"]) for line in capacity),
    )


def vllm_startup(log: str) -> Startup:
    """Of several GPUs the one with the least room."""
    tokens = [int(text.replace(",", "")) for text in _VLLM_TOKENS.findall(log)]
    return Startup(
        free_before_gib=_least(map(float, _VLLM_FREE.findall(log))),
        weights_gib=_rounded(max(map(float, _VLLM_WEIGHTS.findall(log)), default=None)),
        kv_gib=_least(map(float, _VLLM_KV.findall(log))),
        kv_tokens=min(tokens, default=None),
        graph_gib=_rounded(max(map(float, _VLLM_GRAPHS.findall(log)), default=None)),
    )


def _largest_sum(by_rank: Iterable[tuple[str, float]]) -> float | None:
    sums: dict[str, float] = defaultdict(float)
    for rank, gib in by_rank:
        sums[rank] += gib
    return _rounded(max(sums.values(), default=None))


def _least(gib: Iterable[float]) -> float | None:
    return _rounded(min(gib, default=None))


def _rounded(gib: float | None) -> float | None:
    """To the log's own two digits, which sums of floats lose."""
    return None if gib is None else round(gib, 2)
