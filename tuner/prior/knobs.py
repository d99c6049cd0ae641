"""What the parameters of SGLang 0.5.23 and vLLM 0.33.0 mean for the schedule. Defaults that depend on the GPU are those of the engines."""

from __future__ import annotations

from collections.abc import Iterable

from tuner.feasibility.memory import GIB, kv_budget, kv_token_bytes
from tuner.feasibility.risk import sglang_defaults
from tuner.feasibility.rules import RULES, EngineRules, positive, size
from tuner.launch import Configuration
from tuner.prior.closed_loop import Schedule, Traffic
from tuner.prior.model_work import ModelWork
from tuner.prior.step_times import Layout

CONTEXT_GIB = 1.0
"""Taken by the driver and the CUDA context before a model is loaded, and by what a framework allocates first."""
GRAPHS_GIB = 1.0
"""What vLLM's CUDA graphs take, which it takes from the KV cache."""


def engine_of(parameters: Iterable[str]) -> str | None:
    """The only engine that knows all these parameters, by `Engine.name`; None where none or more than one does."""
    names = set(parameters)
    engines = [engine for engine, rules in RULES.items() if names <= _known(rules)]
    return engines[0] if len(engines) == 1 else None


def _known(rules: EngineRules) -> frozenset[str]:
    """The parameters that have a meaning here, under all their names."""
    return rules.weights | rules.harmless | rules.aliases.keys() | {rules.fraction, rules.tp, rules.pp, rules.dp}


def layout(rules: EngineRules, full: Configuration) -> Layout:
    """What of a configuration decides about the time of a step."""
    quantization = full.get("quantization")
    return Layout(size(full, rules.tp), None if quantization is None else str(quantization), str(full.get("kv_cache_dtype", "auto")))


def schedule(rules: EngineRules, full: Configuration, work: ModelWork, memory_gib: float, traffic: Traffic) -> Schedule | None:
    """How the engine forms its steps; None where the KV cache does not hold one request.

    Args:
        rules: The engine's.
        full: The configuration over what is fixed, with canonical names.
        work: The model's.
        memory_gib: All memory of the smallest GPU.
        traffic: What is asked for.
    """
    read = _sglang if rules.of_free else _vllm
    return read(rules, full, work, memory_gib, traffic)


def _sglang(rules: EngineRules, full: Configuration, work: ModelWork, memory_gib: float, traffic: Traffic) -> Schedule | None:
    tp, pp = size(full, rules.tp), size(full, rules.pp)
    default_chunk, default_graph = sglang_defaults(memory_gib, tp)
    given_chunk = full.get("chunked_prefill_size", default_chunk)
    prefill = positive(full.get("max_prefill_tokens")) or 16384
    chunk = min(positive(given_chunk) or prefill, max(prefill, traffic.input_tokens))
    limit = positive(full.get("max_running_requests"))
    graph = positive(full.get("cuda_graph_max_bs_decode")) or min(default_graph, limit or 4096)
    if full.get("disable_cuda_graph") is True or full.get("cuda_graph_backend_decode") == "disabled":
        graph = 0
    # arg_groups/memory_hook.py, in MB: what SGLang keeps free where it is not told
    reserve = 512 + 1.5 * max(chunk, 2048) + tp * pp / 8 * 1024 + 2 * graph
    default = 1 - max(reserve / 1024, 10.0 if memory_gib > 60 else 0.0) / memory_gib
    fraction = positive(full.get(rules.fraction)) or default
    budget = kv_budget(memory_gib - CONTEXT_GIB, fraction, _weights(rules, full, work))
    # its admission reckons with the whole answer of a request (managers/schedule_policy.py `add_one_req_ignore_eos`)
    held = traffic.input_tokens + traffic.output_tokens
    running = _running(rules, full, work, traffic, budget, held, limit or 2048)
    if running is None:
        return None
    mixes = full.get("enable_mixed_chunk") is True
    # with this older spelling dp_size divides the GPUs of tp_size
    replicas = 1 if full.get("enable_dp_attention") is True else size(full, rules.dp)
    return Schedule(replicas, pp, running, chunk, mixes, graph, work.layers)


def _vllm(rules: EngineRules, full: Configuration, work: ModelWork, memory_gib: float, traffic: Traffic) -> Schedule | None:
    # engine/arg_utils.py: by memory (an A100 counts as small there, which its speed does not show)
    large = memory_gib >= 70
    limit = positive(full.get("max_num_seqs")) or (1024 if large else 256)
    chunk = positive(full.get("max_num_batched_tokens")) or (16384 if memory_gib >= 160 else 8192 if large else 2048)
    graph = positive(full.get("max_cudagraph_capture_size")) or min(2 * limit, 512)
    if full.get("enforce_eager") is True:
        graph = 0
    # profiled with a step as large as can be: the widest layer's input and output for each token, and scores of the sampler in float32
    width = 2 * (work.plain_weights - work.head_weights) / work.layers / work.hidden / size(full, rules.tp)
    activations = (2 * chunk * width + 8 * limit * work.vocabulary) / GIB
    fraction = positive(full.get(rules.fraction)) or 0.92
    budget = kv_budget(memory_gib, fraction, _weights(rules, full, work)) - activations - (GRAPHS_GIB if graph else 0.0)
    # blocks are taken as answers grow, so that requests hold half of them on the mean
    held = traffic.input_tokens + traffic.output_tokens / 2
    running = _running(rules, full, work, traffic, budget, held, limit)
    if running is None:
        return None
    mixes = full.get("enable_chunked_prefill") is not False
    return Schedule(size(full, rules.dp), size(full, rules.pp), running, chunk, mixes, graph, work.layers)


def _weights(rules: EngineRules, full: Configuration, work: ModelWork) -> float:
    """What the weights take on one GPU, GiB."""
    quantization = full.get("quantization")
    narrower = work.bytes_per_weight(None if quantization is None else str(quantization)) / work.weight_bytes
    return (work.shape.weight_bytes or 0) * narrower / GIB / size(full, rules.tp) / size(full, rules.pp)


def _running(
    rules: EngineRules, full: Configuration, work: ModelWork, traffic: Traffic, budget_gib: float, held: float, limit: float
) -> float | None:
    """The most requests at a time, of which each holds `held` tokens."""
    value_bytes = work.kv_value_bytes(str(full.get("kv_cache_dtype", "auto")))
    tokens = budget_gib * GIB / kv_token_bytes(work.shape, size(full, rules.tp), size(full, rules.pp), value_bytes)
    tokens = min(tokens, positive(full.get("max_total_tokens")) or tokens)
    if tokens < traffic.input_tokens + traffic.output_tokens:
        return None
    return max(1.0, min(limit, tokens / held))
