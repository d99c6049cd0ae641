"""SGLang. Flags, routes and error texts as in 0.5.23; see the sources beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from packaging.version import Version

from tuner.engines import flag_drift
from tuner.engines.metrics import server_metrics
from tuner.engines.openai_cli import OpenAICli, number, positive
from tuner.engines.openai_server import ask, inside, once_idle, page, post, scalars
from tuner.engines.sglang_failures import SGLANG_FAILURES, SGLANG_MARKS
from tuner.engines.startup_log import sglang_startup
from tuner.errors import Infeasible
from tuner.launch import Endpoint, Value
from tuner.server_facts import ServerMetrics, Startup

# observability/metrics_collector.py. The gauge num_retracted_reqs tells of the last batch only.
METRICS = {
    "running": "sglang:num_running_reqs",
    "queued": "sglang:num_queue_reqs",
    "kv_usage": "sglang:token_usage",
    "preemptions": "sglang:num_retracted_requests",
    "prompt_tokens": "sglang:prompt_tokens",
    "cached_tokens": "sglang:cached_tokens",
    "cache_hit_rate": "sglang:cache_hit_rate",
}

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
    title = "SGLang"
    official_image = "sglang"
    usual_executable = ("python3", "-m", "sglang.launch_server")
    model_flag = ("--model-path",)
    reserved = frozenset({"model", "model_path", "served_model_name", "host", "port"})
    negatable = False
    always: ClassVar[Mapping[str, Value]] = {"enable_metrics": True}
    model_args = frozenset({"tokenizer_path", "speculative_draft_model_path", "lora_paths", "uno_lora_path"})
    file_args = frozenset({"chat_template", "completion_template", "quantization_param_path", "speculative_ngram_external_corpus_path"})
    # Writing each request into the log costs throughput; every SGLang runtime that comes with OME 0.1.5 asks for it.
    costly_args = frozenset({"log_requests"})
    # Attention data parallelism splits the GPUs of tp_size, it needs none of its own.
    gpu_factors = ("tp_size", "pp_size", "dp_size")
    drifts = flag_drift.SGLANG
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
    failure_texts = SGLANG_FAILURES
    memory_marks = SGLANG_MARKS

    def check(self, full: Mapping[str, Value]) -> None:
        chunk, page_size = number(full, "chunked_prefill_size"), number(full, "page_size")
        if chunk and page_size and chunk > 0 and chunk % page_size and full.get("disaggregation_mode") != "decode":
            raise Infeasible(f"chunked_prefill_size={chunk:g} must be divisible by page_size={page_size:g}")
        tp, dp, attn_dp, attn_cp = (positive(full, name) for name in ("tp_size", "dp_size", "attn_dp_size", "attn_cp_size"))
        if dp > 1 and attn_dp > 1:
            raise Infeasible(f"dp_size={dp} cannot be combined with attn_dp_size={attn_dp}")
        if tp % (attn_dp * attn_cp):
            raise Infeasible(f"tp_size={tp} must be divisible by attn_dp_size={attn_dp} times attn_cp_size={attn_cp}")
        # the models assert it for the ranks that share one attention; json_model_override_args may change the number
        heads, ranks = self.attention_heads(), tp // (attn_dp * attn_cp)
        if heads is not None and heads % ranks and "json_model_override_args" not in full:
            raise Infeasible(f"tp_size={tp}: the model's {heads} attention heads cannot be shared by {ranks} GPUs evenly")
        # asserted in 0.5.14, not in 0.5.10
        if (
            self._command_line.version >= Version("0.5.14")
            and full.get("enable_torch_compile") is True
            and full.get("disable_cuda_graph_padding") is True
        ):
            raise Infeasible("enable_torch_compile cannot be combined with disable_cuda_graph_padding")
        policy = full.get("schedule_policy")
        if full.get("enable_priority_scheduling") is True and policy not in ("fcfs", "lof"):
            raise Infeasible(f"enable_priority_scheduling needs schedule_policy fcfs or lof, not {policy}")
        if (conservativeness := number(full, "schedule_conservativeness")) is not None and conservativeness < 0:
            raise Infeasible(f"schedule_conservativeness={conservativeness:g} must not be negative")

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        info = _server_info(endpoint)
        values = scalars(info, REPORTED)
        # The requested number may have been cut to what the KV cache holds; each data parallel rank tells its own.
        states = inside(info, "internal_states")
        caps = [inside(state, "effective_max_running_requests_per_dp") for state in states] if isinstance(states, list) else []
        ranks = [cap for cap in caps if isinstance(cap, int)]
        if ranks:
            values["max_running_requests"] = sum(ranks)
        return values

    def version(self, endpoint: Endpoint) -> str:
        found = inside(_server_info(endpoint), "version")
        return f"sglang {found}" if found else "unknown"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        # 400 while requests run
        return once_idle(lambda: post(endpoint, "/flush_cache") or (False if self.ready(endpoint) else None))

    def metrics(self, endpoint: Endpoint) -> ServerMetrics | None:
        return server_metrics(page(endpoint, "/metrics") or "", METRICS)

    def startup(self, log: str) -> Startup:
        return sglang_startup(log)


def _server_info(endpoint: Endpoint) -> Any:
    """0.5.5.post3 and older know only the second route, which 0.5.23 calls deprecated."""
    return ask(endpoint, "/server_info") or ask(endpoint, "/get_server_info")
