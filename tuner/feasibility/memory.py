"""The arithmetic of GPU memory: how SGLang and vLLM divide it. Sizes are of one GPU and in GiB, but where a name says bytes.

Read in the wheels of SGLang 0.5.23 (mem_cache/kv_cache_configurator.py `_profile_available_bytes`, model_executor/pool_configurator.py) and
vLLM 0.33.0 (v1/worker/gpu_worker.py `determine_available_memory`, v1/worker/utils.py `request_memory`, v1/core/kv_cache_planning.py).
"""

from __future__ import annotations

from tuner.feasibility.model_shape import ModelShape

GIB = 2**30

KV_VALUE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "bf16": 2, "bfloat16": 2, "float16": 2, "fp16": 2}
"""Bytes of one value by `kv_cache_dtype`, for those formats that have no scales beside the values."""


def kv_budget(room: float, fraction: float, weights: float) -> float:
    """What is left for the KV cache.

    SGLang: `available - room * (1 - mem_fraction_static)`, where `room` was free before the weights were loaded and `available` is after.
    vLLM: `room * gpu_memory_utilization - weights` less activations, graphs and what else it profiles, where `room` is the whole GPU.

    Args:
        room: What the fraction is a fraction of.
        fraction: `mem_fraction_static` or `gpu_memory_utilization`.
        weights: What the weights take.
    """
    return room * fraction - weights


def least_fraction(room: float, weights: float, kv_cache: float = 0.0) -> float:
    """The fraction at which the budget is `kv_cache`. SGLang prints it, for 0, as `minimum viable = 1 - available/pre`."""
    return (weights + kv_cache) / room


def weights_per_gpu(shape: ModelShape, gpus: int) -> float | None:
    """The least that the fullest GPU holds, when the weights are spread over `gpus`; what is replicated comes on top."""
    return None if shape.weight_bytes is None else shape.weight_bytes / gpus / GIB


def kv_token_bytes(shape: ModelShape, tp: int, pp: int, value_bytes: int) -> int:
    """What one token takes in the KV cache of one GPU, in the pipeline stage with the fewest layers (`cell_size` in SGLang).

    Heads are divided among the GPUs of `tp`, and repeated where there are fewer; the latent of multi-head latent attention is on each.
    """
    values = shape.latent or 2 * max(1, shape.kv_heads // tp) * shape.head_dim
    return shape.layers // pp * values * value_bytes
