"""vLLM. Flags, routes and error texts as in 0.33.0; see the sources beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tuner.engines.failure_texts import COMMON_TEXTS, FailureText
from tuner.engines.openai_cli import OpenAICli, number
from tuner.engines.openai_server import ask, inside, post, scalars, served_models
from tuner.errors import Infeasible, Systemic, Transient
from tuner.launch import Endpoint, Value

WHEEL = "the wheel of vLLM 0.33.0"
LOWER_MEMORY = "lower gpu_memory_utilization, max_num_seqs or max_num_batched_tokens"


class Vllm(OpenAICli):
    """`vllm serve`."""

    name: ClassVar[str] = "vllm"
    usual_executable = ("vllm", "serve")
    model_flag = ()
    reserved = frozenset({"model", "model_tag", "served_model_name", "host", "port"})
    gpu_factors = (("tensor_parallel_size",), ("pipeline_parallel_size",), ("data_parallel_size",))
    # config/*.py; what depends on the GPU or the model is left out.
    fixed_defaults: ClassVar[Mapping[str, Value]] = {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "gpu_memory_utilization": 0.92,
        "kv_cache_dtype": "auto",
        "enable_expert_parallel": False,
        "enforce_eager": False,
        "performance_mode": "balanced",
        "scheduling_policy": "fcfs",
        "stream_interval": 1,
        "long_prefill_token_threshold": 0,
    }
    failure_texts = (
        FailureText("No available memory for the cache blocks", Infeasible, "raise gpu_memory_utilization", WHEEL),
        FailureText(
            "KV cache is needed, which is larger than the available KV cache memory",
            Infeasible,
            "raise gpu_memory_utilization or lower max_model_len",
            WHEEL,
        ),
        FailureText("less than desired GPU memory utilization", Transient, "another process holds the GPU's memory", WHEEL),
        FailureText("occurred when warming up sampler", Infeasible, "lower max_num_seqs or gpu_memory_utilization", WHEEL),
        FailureText("OutOfMemoryError", Infeasible, LOWER_MEMORY, "torch"),
        FailureText("CUDA out of memory", Infeasible, LOWER_MEMORY, "torch"),
        FailureText("must be greater than or equal to max_num_seqs", Infeasible, "", WHEEL),
        FailureText("is smaller than max_model_len", Infeasible, "", WHEEL),
        FailureText("must be divisible by tensor parallel size", Infeasible, "", WHEEL),
        FailureText("error: unrecognized arguments", Systemic, "this vLLM version has no such flag: fix the search space", "argparse"),
        FailureText("ambiguous option", Systemic, "this vLLM version has no such flag: fix the search space", "argparse"),
        FailureText("error: argument ", Infeasible, "", "argparse"),
        *COMMON_TEXTS,
        FailureText("No CUDA GPUs are available", Systemic, "the server sees no GPU", "torch"),
        FailureText("NCCL error", Transient, "", "torch"),
        FailureText("validation error for", Infeasible, "the values contradict each other", WHEEL),
        FailureText("AssertionError", Infeasible, "", WHEEL),
        FailureText("ValueError: ", Infeasible, "", WHEEL),
    )

    def check(self, full: Mapping[str, Value]) -> None:
        tokens, sequences = number(full, "max_num_batched_tokens"), number(full, "max_num_seqs")
        if tokens is not None and sequences is not None and tokens < sequences:
            raise Infeasible(f"max_num_batched_tokens={tokens:g} must be at least max_num_seqs={sequences:g}")
        longest = number(full, "max_model_len")
        if full.get("enable_chunked_prefill") is False and tokens is not None and longest is not None and tokens < longest:
            raise Infeasible(f"max_num_batched_tokens={tokens:g} must be at least max_model_len={longest:g} without chunked prefill")
        if (share := number(full, "gpu_memory_utilization")) is not None and not 0 < share <= 1:
            raise Infeasible(f"gpu_memory_utilization={share:g} must be above 0 and at most 1")

    def off(self, flag: str) -> list[str]:
        # Its switches are argparse's `BooleanOptionalAction`, and some are on by default.
        return ["--no-" + flag.removeprefix("--")]

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        mine = [model for model in served_models(endpoint) if inside(model, "id") == endpoint.model]
        return scalars(mine[0], ["max_model_len"]) if mine else {}

    def version(self, endpoint: Endpoint) -> str:
        found = inside(ask(endpoint, "/version"), "version")
        return f"vllm {found}" if found else "unknown"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        # Served only with VLLM_SERVER_DEV_MODE=1, which opens more than this; without it the answer is 404.
        return post(endpoint, "/reset_prefix_cache")
