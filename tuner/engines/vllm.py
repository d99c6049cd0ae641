"""vLLM. Flags, routes and error texts as in 0.33.0; see the sources beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tuner.engines import flag_drift
from tuner.engines.metrics import info, server_metrics
from tuner.engines.openai_cli import OpenAICli, number, positive
from tuner.engines.openai_server import ask, inside, once_idle, page, scalars, served_models
from tuner.engines.startup_log import vllm_startup
from tuner.engines.vllm_failures import VLLM_FAILURES, VLLM_MARKS
from tuner.errors import Infeasible
from tuner.launch import Endpoint, Value
from tuner.server_facts import ServerMetrics, Startup

FLUSH_TIMEOUT_S = 10.0

# v1/metrics/loggers.py
METRICS = {
    "running": "vllm:num_requests_running",
    "queued": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "preemptions": "vllm:num_preemptions",
    "prompt_tokens": "vllm:prefix_cache_queries",
    "cached_tokens": "vllm:prefix_cache_hits",
}

# Labels of `vllm:cache_config_info`, which are the fields of config/cache.py, and the parameters they stand for; the last two are results.
CACHE_CONFIG = {
    "block_size": "block_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "cache_dtype": "kv_cache_dtype",
    "enable_prefix_caching": "enable_prefix_caching",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "num_gpu_blocks": "num_gpu_blocks",
    "kv_cache_size_tokens": "kv_cache_size_tokens",
}


class Vllm(OpenAICli):
    """`vllm serve`."""

    name: ClassVar[str] = "vllm"
    title = "vLLM"
    official_image = "vllm-openai"
    usual_executable = ("vllm", "serve")
    model_flag = ()
    reserved = frozenset({"model", "model_tag", "served_model_name", "host", "port"})
    negatable = True
    always: ClassVar[Mapping[str, Value]] = {}
    model_args = frozenset({"tokenizer", "speculative_config", "spec_model", "lora_modules"})
    file_args = frozenset({"chat_template", "hf_config_path", "log_config_file", "mm_encoder_fp8_scale_path"})
    # As for SGLang: each request in the log costs throughput.
    costly_args = frozenset({"enable_log_requests"})
    gpu_factors = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size")
    drifts = flag_drift.VLLM
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
    failure_texts = VLLM_FAILURES
    memory_marks = VLLM_MARKS

    def check(self, full: Mapping[str, Value]) -> None:
        tokens, sequences = number(full, "max_num_batched_tokens"), number(full, "max_num_seqs")
        if tokens is not None and sequences is not None and tokens < sequences:
            raise Infeasible(f"max_num_batched_tokens={tokens:g} must be at least max_num_seqs={sequences:g}")
        longest = number(full, "max_model_len")
        if full.get("enable_chunked_prefill") is False and tokens is not None and longest is not None and tokens < longest:
            raise Infeasible(f"max_num_batched_tokens={tokens:g} must be at least max_model_len={longest:g} without chunked prefill")
        if (threshold := number(full, "long_prefill_token_threshold")) is not None and longest is not None and threshold > longest > 0:
            raise Infeasible(f"long_prefill_token_threshold={threshold:g} must not exceed max_model_len={longest:g}")
        if (share := number(full, "gpu_memory_utilization")) is not None and not 0 < share <= 1:
            raise Infeasible(f"gpu_memory_utilization={share:g} must be above 0 and at most 1")
        heads, tp = self.attention_heads(), positive(full, "tensor_parallel_size")
        if heads is not None and heads % tp and "hf_overrides" not in full:
            raise Infeasible(f"tensor_parallel_size={tp}: the model's {heads} attention heads cannot be shared by {tp} GPUs evenly")

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        mine = [model for model in served_models(endpoint) if inside(model, "id") == endpoint.model]
        cache = info(page(endpoint, "/metrics") or "", "vllm:cache_config_info", CACHE_CONFIG)
        return {**scalars(mine[0], ["max_model_len"]), **cache} if mine else {}

    def version(self, endpoint: Endpoint) -> str:
        found = inside(ask(endpoint, "/version"), "version")
        return f"vllm {found}" if found else "unknown"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        # The route exists only with VLLM_SERVER_DEV_MODE=1, which tuner does not set: it also lets every user of the host call any method
        # of the workers (/collective_rpc). Who accepts that sets it in the server's environment; without it the answer is an honest no.
        return once_idle(lambda: self._reset_prefix_cache(endpoint))

    def _reset_prefix_cache(self, endpoint: Endpoint) -> bool | None:
        """True when it is empty, False while requests hold parts of it, None where the server cannot."""
        done = inside(ask(endpoint, "/reset_prefix_cache", FLUSH_TIMEOUT_S, "POST"), "success")
        return done if isinstance(done, bool) else None

    def metrics(self, endpoint: Endpoint) -> ServerMetrics | None:
        return server_metrics(page(endpoint, "/metrics") or "", METRICS)

    def startup(self, log: str) -> Startup:
        return vllm_startup(log)
