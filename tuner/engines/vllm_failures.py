"""vLLM's failure texts, from the wheel of 0.33.0; see `failure_texts`."""

from __future__ import annotations

from tuner.engines.common_failures import GPU_TEXTS, MODEL_TEXTS, NCCL, SERVER_TEXTS, refused_arguments, refused_configuration, torch_memory
from tuner.engines.failure_texts import FailureText, Mark
from tuner.errors import Infeasible, Systemic, Transient

_PLANNING = "v1/core/kv_cache_planning.py"
_UTILS = "v1/engine/utils.py"
_BUSY = "another process holds the GPU's memory: end it, or lower gpu_memory_utilization"

VLLM_FAILURES = (
    FailureText(
        "oom_static",
        "No available memory for the cache blocks",
        Infeasible,
        "raise gpu_memory_utilization or tensor_parallel_size, or lower max_num_batched_tokens",
        _PLANNING,
        "load",
    ),
    FailureText(
        "oom_static",
        "KV cache is needed, which is larger than the available KV cache memory",
        Infeasible,
        "raise gpu_memory_utilization or lower max_model_len",
        _PLANNING,
        "load",
    ),
    FailureText(
        "oom_dynamic",
        "CUDA out of memory occurred when warming up sampler",
        Infeasible,
        "lower max_num_seqs or gpu_memory_utilization",
        "v1/worker/gpu_model_runner.py",
        "capture",
    ),
    FailureText(
        "oom_dynamic",
        "Failed to load model - not enough GPU memory",
        Infeasible,
        "raise tensor_parallel_size, or choose a quantization",
        "v1/worker/gpu_model_runner.py",
        "load",
    ),
    *torch_memory("lower gpu_memory_utilization, max_num_seqs or max_num_batched_tokens"),
    FailureText("gpu_busy", "is less than desired GPU memory utilization", Transient, _BUSY, "v1/worker/utils.py"),
    FailureText("gpu_busy", "is less than the engine's budget", Transient, _BUSY, "v1/worker/utils.py"),
    FailureText("gpu_busy", "AssertionError: Error in memory profiling", Transient, _BUSY, "v1/worker/gpu_worker.py", starts=True),
    FailureText(
        "oom_host",
        "Failed core proc(s): {…: -9",
        Infeasible,
        "the engine was killed, as a host out of memory does: give the server more of it (backend.memory), or choose a smaller model",
        _UTILS,
    ),
    FailureText(
        "shm_full", "Failed core proc(s): {…: -7", Systemic, "a SIGBUS, as when /dev/shm is too small: raise backend.shm_size", _UTILS
    ),
    *refused_arguments("vLLM"),
    *GPU_TEXTS,
    FailureText(
        "no_gpu", "Failed to infer device type", Systemic, "the server sees no GPU: see `python -m tuner doctor`", "config/device.py"
    ),
    *MODEL_TEXTS,
    *SERVER_TEXTS,
    NCCL,
    FailureText("bad_config", "validation error for", Infeasible, "the values contradict each other", "pydantic"),
    *refused_configuration("config/*.py, engine/arg_utils.py"),
)

# v1/worker/gpu_model_runner.py, v1/worker/gpu_worker.py, uvicorn, v1/metrics/loggers.py.
# The last two stand for the first lines of a log that is too long to be looked at whole.
VLLM_MARKS = (
    Mark("Starting to load model", "load"),
    Mark("Model loading took", "load"),
    Mark("Available KV cache memory", "capture"),
    Mark("Application startup complete", "run"),
    Mark("Avg prompt throughput", "run"),
    Mark('"POST /v1/', "run"),
)
