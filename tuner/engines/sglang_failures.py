"""SGLang's failure texts, from the wheel of 0.5.23; see `failure_texts`. Out of memory has two opposite remedies there."""

from __future__ import annotations

from tuner.engines.common_failures import GPU_TEXTS, MODEL_TEXTS, NCCL, SERVER_TEXTS, refused_arguments, refused_configuration, torch_memory
from tuner.engines.failure_texts import FailureText, Mark
from tuner.errors import Infeasible, Systemic, Transient

_ROOM = "lower mem_fraction_static, chunked_prefill_size or cuda_graph_max_bs_decode"
_POOL = "the KV cache is used up: lower max_running_requests or chunked_prefill_size, or raise mem_fraction_static"
_ALLOCATION = "mem_cache/allocation.py"
_ENGINE = "entrypoints/engine.py"
_GRAPHS = "model_executor/runner/decode_cuda_graph_runner.py"
_HOST = "the host ran out of memory: give the server more of it (backend.memory), or choose a smaller model"

SGLANG_FAILURES = (
    FailureText(
        "oom_static",
        "Raise --mem-fraction-static above … (minimum viable",
        Infeasible,
        "mem_fraction_static above {0} needed, or a larger tp_size, or quantization",
        "mem_cache/kv_cache_configurator.py",
        "load",
    ),
    FailureText(
        "oom_static",
        "Please try to increase --mem-fraction-static",
        Infeasible,
        "raise mem_fraction_static or tp_size",
        "model_executor/pool_configurator.py",
        "load",
    ),
    FailureText("oom_dynamic", "Capture cuda graph failed: CUDA out of memory", Infeasible, _ROOM, _GRAPHS, "capture"),
    FailureText("oom_dynamic", "Capture cuda graph failed: CUDA error: out of memory", Infeasible, _ROOM, _GRAPHS, "capture"),
    FailureText(
        "oom_dynamic",
        "Capture prefill CUDA graph failed: CUDA out of memory",
        Infeasible,
        _ROOM,
        "model_executor/runner/prefill_cuda_graph_runner.py",
        "capture",
    ),
    # Of the token pool, not of the GPU's memory: a larger fraction would help.
    FailureText("pool_full", "Prefill out of memory. Try to lower your batch size", Infeasible, _POOL, _ALLOCATION),
    FailureText("pool_full", "Decode out of memory. Try to lower your batch size", Infeasible, _POOL, _ALLOCATION),
    FailureText("pool_full", "alloc_req_slots runs out of memory", Infeasible, "lower max_running_requests", _ALLOCATION),
    FailureText("pool_full", "Out of memory. Try to lower your batch size", Infeasible, _POOL, _ALLOCATION),
    *torch_memory(_ROOM),
    FailureText(
        "gpu_busy",
        "RuntimeError: The memory capacity is unbalanced",
        Transient,
        "another process holds memory of one of the GPUs",
        "distributed/bootstrap.py",
        starts=True,
    ),
    FailureText("oom_host", "scheduler died during initialization (exit code: -9)", Infeasible, _HOST, _ENGINE),
    FailureText(
        "shm_full",
        "scheduler died during initialization (exit code: -7)",
        Systemic,
        "a SIGBUS, as when /dev/shm is too small: raise backend.shm_size",
        _ENGINE,
    ),
    *refused_arguments("SGLang"),
    *GPU_TEXTS,
    FailureText("no_gpu", "No accelerator (CUDA", Systemic, "the server sees no GPU: see `python -m tuner doctor`", "utils/common.py"),
    *MODEL_TEXTS,
    *SERVER_TEXTS,
    NCCL,
    FailureText("bad_config", "Capture cuda graph failed", Infeasible, "", _GRAPHS),
    *refused_configuration("server_args.py, arg_groups/*.py"),
)

# model_executor/model_runner.py, entrypoints/http_server.py, scheduler_components/metrics_reporter.py.
# The last two stand for the first lines of a log that is too long to be looked at whole.
SGLANG_MARKS = (
    Mark("Load weight begin", "load"),
    # What does not fit from here on is left no room by a large fraction, as in the capture of graphs.
    Mark("Load weight end", "capture"),
    Mark("fired up and ready to roll", "run"),
    Mark("Decode batch", "run"),
    Mark('"POST /v1/', "run"),
)
