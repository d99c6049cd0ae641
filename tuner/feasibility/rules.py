"""What the parameters of each engine mean for GPU memory. Names are those of SGLang 0.5.23 and vLLM 0.33.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import MemoryStage
from tuner.launch import Configuration, Value


@dataclass(frozen=True, slots=True)
class EngineRules:
    """How one engine's parameters enter the memory model.

    Attributes:
        fraction: The parameter that divides the memory: more for weights and KV cache, less for graphs and activations.
        of_free: Whether it is a fraction of what is free before the load, or else of the whole GPU.
        tp: Tensor parallel size.
        pp: Pipeline parallel size.
        dp: Data parallel size; each replica has GPUs of its own.
        shares_experts: Whether data parallel replicas divide the experts among them.
        request: The parameter with the length of a request that must fit into the KV cache at start; None where one token is enough.
        aliases: Other names of parameters.
        weights: Parameters that change what the weights take, in ways that are known or are seen in the log.
        harmless: Parameters that change neither the weights nor the size of the budget.
        larger_is_worse: At each stage, parameters that take more of the memory that runs out there when they are larger.
        irrelevant: At each stage, parameters that have no say yet.
    """

    fraction: str
    of_free: bool
    tp: str
    pp: str
    dp: str
    shares_experts: bool
    request: str | None
    aliases: Mapping[str, str]
    weights: frozenset[str]
    harmless: frozenset[str]
    larger_is_worse: Mapping[MemoryStage, frozenset[str]]
    irrelevant: Mapping[MemoryStage, frozenset[str]]

    def canonical(self, *layers: Mapping[str, Value]) -> dict[str, Value]:
        """`layers` over each other, the last on top, under one name for each parameter; 0.85 is also 0.8500000000000001."""
        full: dict[str, Value] = {}
        for layer in layers:
            for name, value in layer.items():
                full[self.aliases.get(name, name)] = float(f"{value:.12g}") if isinstance(value, float) else value
        return full

    def gpus(self, full: Configuration) -> int:
        """GPUs of one deployment."""
        # with this older spelling, SGLang's dp_size divides the GPUs of tp_size
        replicas = 1 if full.get("enable_dp_attention") is True else size(full, self.dp)
        return size(full, self.tp) * size(full, self.pp) * replicas


def size(full: Configuration, name: str) -> int:
    """The value of `name` where it is a positive integer, else 1."""
    value = full.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def positive(value: Value | None) -> float | None:
    """`value` where it is a number above 0: -1 and 0 stand for things like off, automatic or unlimited."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


_HARMLESS_IN_BOTH = frozenset(
    {
        "attention_backend",
        "chat_template",
        "kv_cache_dtype",
        "log_level",
        "reasoning_parser",
        "stream_interval",
        "tokenizer_mode",
        "tool_call_parser",
        "trust_remote_code",
    }
)

_SGLANG_SCHEDULING = frozenset(
    {
        "min_free_slots_delay",
        "prefill_decode_interval",
        "prefill_max_requests",
        "schedule_conservativeness",
        "schedule_policy",
        "scheduler_recv_interval",
        "stream_interval",
    }
)
_SGLANG_GRAPHS_AND_CHUNKS = frozenset({"chunked_prefill_size", "cuda_graph_max_bs_decode"})
_SGLANG_REQUESTS = frozenset({"context_length", "max_running_requests"})

SGLANG = EngineRules(
    fraction="mem_fraction_static",
    of_free=True,
    tp="tp_size",
    pp="pp_size",
    dp="dp_size",
    shares_experts=False,
    request=None,
    aliases={
        "tensor_parallel_size": "tp_size",
        "pipeline_parallel_size": "pp_size",
        "data_parallel_size": "dp_size",
        "attention_data_parallel_size": "attn_dp_size",
        "expert_parallel_size": "ep_size",
        "cuda_graph_max_bs": "cuda_graph_max_bs_decode",
    },
    weights=frozenset(
        {"attn_dp_size", "dp_size", "dtype", "enable_dp_attention", "ep_size", "moe_runner_backend", "pp_size", "quantization", "tp_size"}
    ),
    harmless=_HARMLESS_IN_BOTH
    | _SGLANG_SCHEDULING
    | _SGLANG_GRAPHS_AND_CHUNKS
    | _SGLANG_REQUESTS
    | {
        "cuda_graph_backend_decode",
        "cuda_graph_backend_prefill",
        "decode_log_interval",
        "disable_cuda_graph",
        "disable_custom_all_reduce",
        "disable_overlap_schedule",
        "disable_radix_cache",
        "enable_cache_report",
        "enable_metrics",
        "enable_mixed_chunk",
        "enable_torch_compile",
        "grammar_backend",
        "max_prefill_tokens",
        "max_total_tokens",
        "mem_fraction_static",
        "num_continuous_decode_steps",
        "page_size",
        "random_seed",
        "sampling_backend",
        "torch_compile_max_bs",
        "watchdog_timeout",
    },
    larger_is_worse={
        "load": _SGLANG_REQUESTS,
        "capture": _SGLANG_REQUESTS | _SGLANG_GRAPHS_AND_CHUNKS,
        # decoding uses the memory of its graphs: fewer of them are not less at run time
        "run": _SGLANG_REQUESTS | {"chunked_prefill_size"},
    },
    irrelevant={
        "load": _SGLANG_SCHEDULING | _SGLANG_GRAPHS_AND_CHUNKS | {"max_prefill_tokens"},
        "capture": _SGLANG_SCHEDULING,
        "run": frozenset({"scheduler_recv_interval", "stream_interval"}),
    },
)

_VLLM_SCHEDULING = frozenset({"long_prefill_token_threshold", "prefill_schedule_interval", "scheduling_policy", "stream_interval"})
_VLLM_PROFILED = frozenset({"max_cudagraph_capture_size", "max_model_len", "max_num_batched_tokens", "max_num_seqs"})

VLLM = EngineRules(
    fraction="gpu_memory_utilization",
    of_free=False,
    tp="tensor_parallel_size",
    pp="pipeline_parallel_size",
    dp="data_parallel_size",
    shares_experts=True,
    request="max_model_len",
    aliases={},
    weights=frozenset(
        {
            "data_parallel_size",
            "dtype",
            "enable_expert_parallel",
            "moe_backend",
            "pipeline_parallel_size",
            "quantization",
            "tensor_parallel_size",
        }
    ),
    harmless=_HARMLESS_IN_BOTH
    | _VLLM_SCHEDULING
    | _VLLM_PROFILED
    | {
        "async_scheduling",
        "block_size",
        "compilation_config",
        "cudagraph_capture_sizes",
        "disable_log_stats",
        "enable_auto_tool_choice",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "generation_config",
        "gpu_memory_utilization",
        "optimization_level",
        "performance_mode",
        "seed",
    },
    larger_is_worse={
        # activations and graphs are measured, and taken from the KV cache
        "load": _VLLM_PROFILED,
        "capture": frozenset({"max_num_seqs"}),
        "run": frozenset({"max_num_seqs"}),
    },
    irrelevant={"load": _VLLM_SCHEDULING, "capture": _VLLM_SCHEDULING, "run": frozenset({"stream_interval"})},
)

RULES = {"sglang": SGLANG, "vllm": VLLM}
