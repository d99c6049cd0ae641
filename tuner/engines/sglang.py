"""SGLang. Flags, routes and error texts as in 0.5.23; see the sources beside each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar

from tuner.engines.failure_texts import COMMON_TEXTS, FailureText
from tuner.engines.openai_cli import OpenAICli, number, positive
from tuner.engines.openai_server import ask, inside, post, scalars
from tuner.errors import Infeasible, Systemic, Transient
from tuner.launch import Endpoint, Value

WHEEL = "the wheel of SGLang 0.5.23"
DRAIN_S = 5.0
DRAIN_POLL_S = 0.1
LOWER_MEMORY = "lower mem_fraction_static, chunked_prefill_size or cuda_graph_max_bs_decode"

# What `/server_info` may tell about a running server. A list of what is wanted, because the reply also holds API keys.
REPORTED = (
    "tp_size",
    "dp_size",
    "pp_size",
    "attn_dp_size",
    "mem_fraction_static",
    "max_running_requests",
    "max_total_tokens",
    "max_total_num_tokens",
    "max_req_input_len",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "prefill_max_requests",
    "schedule_policy",
    "schedule_conservativeness",
    "enable_mixed_chunk",
    "cuda_graph_max_bs_decode",
    "cuda_graph_backend_decode",
    "cuda_graph_backend_prefill",
    "attention_backend",
    "page_size",
    "kv_cache_dtype",
    "quantization",
    "context_length",
    "disable_radix_cache",
    "disable_overlap_schedule",
    "stream_interval",
    "scheduler_recv_interval",
    "enable_torch_compile",
    "torch_compile_max_bs",
    "prefill_decode_interval",
    "min_free_slots_delay",
)


class Sglang(OpenAICli):
    """SGLang's `launch_server`."""

    name: ClassVar[str] = "sglang"
    usual_executable = ("python3", "-m", "sglang.launch_server")
    model_flag = ("--model-path",)
    reserved = frozenset({"model", "model_path", "served_model_name", "host", "port"})
    # Attention data parallelism splits the GPUs of tp_size, it needs none of its own.
    gpu_factors = (
        ("tp_size", "tensor_parallel_size"),
        ("pp_size", "pipeline_parallel_size"),
        ("dp_size", "data_parallel_size"),
    )
    # server_args.py; what depends on the GPU or the model is left out.
    fixed_defaults: ClassVar[Mapping[str, Value]] = {
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": 1,
        "max_prefill_tokens": 16384,
        "schedule_policy": "fcfs",
        "schedule_conservativeness": 1.0,
        "enable_mixed_chunk": False,
        "disable_radix_cache": False,
        "kv_cache_dtype": "auto",
        "stream_interval": 1,
        "scheduler_recv_interval": 1,
        "enable_torch_compile": False,
    }
    failure_texts = (
        FailureText("minimum viable = 1 - available/pre", Infeasible, "", WHEEL),
        FailureText("Loaded weights leave no GPU memory for the KV cache", Infeasible, "raise mem_fraction_static", WHEEL),
        FailureText("Please try to increase --mem-fraction-static", Infeasible, "raise mem_fraction_static, or tp_size", WHEEL),
        FailureText("Capture cuda graph failed", Infeasible, LOWER_MEMORY, WHEEL),
        FailureText("Prefill out of memory", Infeasible, "lower max_running_requests or chunked_prefill_size", WHEEL),
        FailureText("Decode out of memory", Infeasible, "lower max_running_requests or chunked_prefill_size", WHEEL),
        FailureText("OutOfMemoryError", Infeasible, LOWER_MEMORY, "torch"),
        FailureText("CUDA out of memory", Infeasible, LOWER_MEMORY, "torch"),
        FailureText(
            "scheduler died during initialization (exit code: -9)",
            Infeasible,
            "the host ran out of memory: more memory or shm for the server",
            WHEEL,
        ),
        FailureText("chunked_prefill_size must be divisible by page_size", Infeasible, "", WHEEL),
        FailureText("error: unrecognized arguments", Systemic, "this SGLang version has no such flag: fix the search space", "argparse"),
        FailureText("ambiguous option", Systemic, "this SGLang version has no such flag: fix the search space", "argparse"),
        FailureText("error: argument ", Infeasible, "", "argparse"),
        *COMMON_TEXTS,
        FailureText("No CUDA GPUs are available", Systemic, "the server sees no GPU", "torch"),
        FailureText("NCCL error", Transient, "", "torch"),
        FailureText("AssertionError", Infeasible, "", WHEEL),
        FailureText("ValueError: ", Infeasible, "", WHEEL),
    )

    def check(self, full: Mapping[str, Value]) -> None:
        chunk, page = number(full, "chunked_prefill_size"), number(full, "page_size")
        if chunk and page and chunk > 0 and chunk % page:
            raise Infeasible(f"chunked_prefill_size={chunk:g} must be divisible by page_size={page:g}")
        tp, dp, attn_dp = (positive(full, [name]) for name in ("tp_size", "dp_size", "attn_dp_size"))
        if dp > 1 and attn_dp > 1:
            raise Infeasible(f"dp_size={dp} cannot be combined with attn_dp_size={attn_dp}")
        if "tensor_parallel_size" not in full and tp % attn_dp:
            raise Infeasible(f"tp_size={tp} must be divisible by attn_dp_size={attn_dp}")
        if (conservativeness := number(full, "schedule_conservativeness")) is not None and conservativeness < 0:
            raise Infeasible(f"schedule_conservativeness={conservativeness:g} must not be negative")

    def off(self, flag: str) -> list[str]:
        # Its switches are `store_true`: there is no word for off.
        return []

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        info = ask(endpoint, "/server_info")
        values = scalars(info, REPORTED)
        # The requested number may have been cut to what the KV cache holds; each data parallel rank tells its own.
        states = inside(info, "internal_states")
        caps = [inside(state, "effective_max_running_requests_per_dp") for state in states] if isinstance(states, list) else []
        ranks = [cap for cap in caps if isinstance(cap, int)]
        if ranks:
            values["max_running_requests"] = sum(ranks)
        return values

    def version(self, endpoint: Endpoint) -> str:
        found = inside(ask(endpoint, "/server_info"), "version")
        return f"sglang {found}" if found else "unknown"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        # 400 while requests run: those that a level dropped at its end live on until the server notices
        deadline = time.monotonic() + DRAIN_S
        while not (done := post(endpoint, "/flush_cache")) and self.ready(endpoint) and time.monotonic() < deadline:
            time.sleep(DRAIN_POLL_S)
        return done
