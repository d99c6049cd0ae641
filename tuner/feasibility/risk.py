"""How close a configuration comes to the end of GPU memory, before anything was deployed: a number that orders configurations.

The gate refuses what is certain. What is left runs out of memory in graph capture, in warm-up or under load, or turns requests away, by
amounts that no formula tells; but the engines' own reserves tell the direction, and about where the trouble begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path

from tuner.feasibility.memory import GIB, kv_budget, kv_token_bytes, weights_per_gpu
from tuner.feasibility.model_shape import ModelShape
from tuner.feasibility.rules import RULES, EngineRules, positive, size
from tuner.gpus import Gpu
from tuner.launch import Configuration, Value

NOMINAL_GIB = 80.0
"""Memory of a GPU that cannot be seen: a wrong value moves all risks alike."""
NOMINAL_VOCABULARY = 150_000
VLLM_RESERVE_GIB = 0.5
"""Allocated after vLLM's profiling whatever the configuration: fragments, communication. A guess; only its order of size matters."""
CONTEXT_GIB = 1.0
"""Taken by the CUDA context and by communication before SGLang's fraction is reckoned."""
HELD = 2
"""Requests of the mean length that the KV cache should hold: the longest of a workload are about so much longer than its mean."""
LIMIT = 4.0
"""Risks beyond this, either way, say no more."""


class Risk:
    """The risk of configurations of one engine with one model on one kind of GPU.

    Args:
        rules: The engine's.
        fixed: Values of parameters that a configuration does not give.
        memory_gib: All memory of the smallest GPU; None where it cannot be seen.
        shape: The model's; None where it is not known.
        request_tokens: Mean tokens of a request with its answer; None where they are not known.
    """

    def __init__(
        self,
        rules: EngineRules,
        fixed: Mapping[str, Value],
        memory_gib: float | None = None,
        shape: ModelShape | None = None,
        request_tokens: float | None = None,
    ) -> None:
        self._rules = rules
        self._fixed = dict(fixed)
        self._memory = memory_gib or NOMINAL_GIB
        # without the memory there is no saying whether weights fit
        self._shape = shape if memory_gib else None
        self._request_tokens = request_tokens

    def of(self, configuration: Configuration) -> float:
        """Logarithm of the memory needed over the memory there, where it is scarcer: beside the KV cache, or in it.

        At 0 the engine would just dare it; the larger, the riskier. Between -4 and 4.
        """
        full = self._rules.canonical(self._fixed, configuration)
        return max(-LIMIT, min(LIMIT, max(self._beside(full), self._inside(full))))

    def _beside(self, full: Configuration) -> float:
        """Of graphs, activations and scores, which live in what the fraction leaves."""
        needed = self._sglang_reserve(full) if self._rules.of_free else self._vllm_reserve(full)
        given = positive(full.get(self._rules.fraction))
        return _log_ratio(needed, self._memory * (1 - (given or self._default_fraction(needed))))

    def _default_fraction(self, reserve: float) -> float:
        """SGLang leaves its reserve, and no less than 10 GiB of a large GPU [arg_groups/memory_hook.py]; vLLM takes 0.92."""
        if not self._rules.of_free:
            return 0.92
        return 1 - max(reserve, 10.0 if self._memory > 60 else 0.0) / self._memory

    def _sglang_reserve(self, full: Configuration) -> float:
        """GiB that SGLang 0.5.23 keeps free where it is not told a fraction [arg_groups/memory_hook.py]."""
        tp, pp = size(full, self._rules.tp), size(full, self._rules.pp)
        default_chunk, default_graph = sglang_defaults(self._memory, tp)
        chunk = positive(full.get("chunked_prefill_size", default_chunk)) or positive(full.get("max_prefill_tokens")) or 16384
        graph = positive(full.get("cuda_graph_max_bs_decode")) or min(default_graph, positive(full.get("max_running_requests")) or 4096)
        if full.get("disable_cuda_graph") is True or full.get("cuda_graph_backend_decode") == "disabled":
            graph = 0
        return (512 + 1.5 * max(chunk, 2048) + tp * pp / 8 * 1024 + 2 * graph) / 1024

    def _vllm_reserve(self, full: Configuration) -> float:
        """GiB that vLLM 0.33.0 allocates after its profiling, which counts all else: the scores of the sampler's warm-up, in 32 bits."""
        requests = positive(full.get("max_num_seqs")) or (1024 if self._memory >= 70 else 256)
        return VLLM_RESERVE_GIB + requests * NOMINAL_VOCABULARY * 4 / GIB

    def _inside(self, full: Configuration) -> float:
        """Of the tokens of a few requests, which live in the KV cache; no risk where the model or the requests are not known."""
        shape, rules = self._shape, self._rules
        if shape is None or self._request_tokens is None or full.get("quantization", shape.quantization) != shape.quantization:
            return -LIMIT
        tp, pp = size(full, rules.tp), size(full, rules.pp)
        # where data parallel replicas divide the experts among them, the weights take less: the gate reckons with the same
        replicas = size(full, rules.dp) if rules.shares_experts and shape.experts else 1
        weights = weights_per_gpu(shape, tp * pp * replicas)
        fraction = positive(full.get(rules.fraction))
        if weights is None or fraction is None:
            return -LIMIT
        room = self._memory - (CONTEXT_GIB if rules.of_free else 0.0)
        token_bytes = kv_token_bytes(shape, tp, pp, shape.kv_value_bytes or 2)
        return _log_ratio(HELD * self._request_tokens * token_bytes / GIB, kv_budget(room, fraction, weights))


def create(
    engine_name: str, fixed: Mapping[str, Value], model_folder: Path | None, gpus: Sequence[Gpu] | None, request_tokens: float | None
) -> Risk | None:
    """The risk of an engine's configurations; None for one whose memory is not modelled here, and where it runs without GPUs.

    Args:
        engine_name: `Engine.name`.
        fixed: `Engine.defaults`: the engine's own values under those of `engine.args`.
        model_folder: Folder with the model's `config.json`; None where there is none.
        gpus: The GPUs of the study; None where they cannot be seen, empty where the engine runs without.
        request_tokens: Mean tokens of a request with its answer; None where they are not known.
    """
    rules = RULES.get(engine_name)
    if rules is None or (gpus is not None and not gpus):
        return None
    memory = min(gpu.memory_bytes for gpu in gpus) / GIB if gpus else None
    return Risk(rules, fixed, memory, None if model_folder is None else ModelShape.read(model_folder), request_tokens)


def sglang_defaults(memory_gib: float, tp: int) -> tuple[int, int]:
    """`chunked_prefill_size` and `cuda_graph_max_bs_decode` where SGLang is not told, by the memory of a GPU [server_args.py]."""
    chunk, few, many = next(
        defaults
        for below, defaults in (
            (20, (2048, 8, 8)),
            (35, (4096, 48, 160)),
            (60, (4096, 32, 160)),
            (160, (8192, 256, 512)),
            (float("inf"), (16384, 512, 512)),
        )
        if memory_gib < below
    )
    return chunk, few if tp < 4 else many


def _log_ratio(needed: float, there: float) -> float:
    return log(needed / there) if there > 1e-6 else LIMIT
