"""Part of the doubles of SGLang and vLLM: the ways to fail that STANDIN_FAIL names, with the engines' texts and exit codes.

`{model}` in a text stands for the model asked for. The texts are those of SGLang 0.5.23, vLLM 0.33.0, torch 2.9, huggingface_hub and
transformers; where a text holds numbers they are made up, and the doubles' own checks write true ones.
"""

from __future__ import annotations

from dataclasses import dataclass

SIGKILL = -9


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to fail.

    Attributes:
        stage: When: `device` (on looking for GPUs), `model` (on reading its configuration), `child` (the engine's process is killed from
            outside), `load`, `capture` (of graphs, after the KV cache), `bind` (of the port), `serve` (on the STANDIN_FAIL_AFTER-th
            request, 4 by default). Others do not end the process: `hang` before the port opens, `unready` (503 for ever), `slow`
            (STANDIN_SLOW_S seconds before the port opens, 3 by default), `refuse` (503 from the STANDIN_FAIL_AFTER-th request on), `hog`
            (fills the host's memory until somebody ends that, 4 GiB at most).
        error: Name of the exception.
        text: Its message.
        code: Exit code, negative for a signal; None where the process lives on.
        before: What is logged ahead of it.
    """

    stage: str
    error: str = ""
    text: str = ""
    code: int | None = None
    before: str = ""


_OOM = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.05 GiB is free. Including "
    "non-PyTorch memory, this process has 78.05 GiB memory in use. Of the allocated memory 76.50 GiB is allocated by PyTorch, and 212.43 "
    "MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  "
    "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
_GATED = (
    "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/{model}.\n"
    "401 Client Error. (Request ID: Root=1-6a0f-stand-in)\n\n"
    "Cannot access gated repo for url https://huggingface.co/{model}/resolve/main/config.json.\n"
    "Access to model {model} is restricted. You must have access to it and be authenticated to access it. Please log in."
)
_NOT_FOUND = (
    "{model} is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'\n"
    "If this is a private repository, make sure to pass a token having permission to this repo either by logging in with `hf auth login` "
    "or by passing `token=<your_token>`"
)
_NOT_FOUND_CAUSE = (
    "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1-6a0f-stand-in)\n\n"
    "Repository Not Found for url: https://huggingface.co/{model}/resolve/main/config.json.\n"
    "Please make sure you specified the correct `repo_id` and `repo_type`.\n"
    "If you are trying to access a private or gated repo, make sure you are authenticated and your token has the required permissions.\n\n"
    "The above exception was the direct cause of the following exception:\n"
)
_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading and installing a "
    "new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch "
    "version that has been compiled with your version of the CUDA driver."
)
_DRIVER_WARNING = (
    f"torch/cuda/__init__.py:182: UserWarning: CUDA initialization: {_DRIVER} (Triggered internally at c10/cuda/CUDAFunctions.cpp:119.)"
)

_COMMON = {
    "gated": Failure("model", "OSError", _GATED, 1),
    "not_found": Failure("model", "OSError", _NOT_FOUND, 1, before=_NOT_FOUND_CAUSE),
    "missing_package": Failure("device", "ModuleNotFoundError", "No module named 'flashinfer'", 1),
    "disk_full": Failure("model", "OSError", "[Errno 28] No space left on device", 1),
    "hang": Failure("hang"),
    "slow_start": Failure("slow"),
    "never_ready": Failure("unready"),
    "overload_503": Failure("refuse"),
    "host_memory": Failure("hog"),
}

SGLANG = _COMMON | {
    "no_gpu": Failure(
        "device",
        "RuntimeError",
        "No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) or platform plugin is available.",
        1,
    ),
    "driver_too_old": Failure(
        "device",
        "RuntimeError",
        "No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) or platform plugin is available.",
        1,
        before=_DRIVER_WARNING,
    ),
    "oom_static": Failure(
        "load",
        "ValueError",
        "Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.2. Raise --mem-fraction-static above 0.412 "
        "(minimum viable = 1 - available/pre = 0.4118). If using speculative decoding, draft weights are now counted.",
        SIGKILL,
    ),
    "no_kv": Failure("load", "RuntimeError", "Not enough memory. Please try to increase --mem-fraction-static.", SIGKILL),
    "oom_load": Failure("load", "torch.OutOfMemoryError", _OOM, SIGKILL),
    "oom_capture": Failure(
        "capture",
        "Exception",
        f"Capture cuda graph failed: {_OOM}\n"
        "Possible solutions:\n"
        "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n"
        "2. set --cuda-graph-max-bs-decode to a smaller value (e.g., 16)\n"
        "3. disable decode CUDA graph by --cuda-graph-backend-decode=disabled. (Not recommended. Huge performance loss)\n"
        "Open an issue on GitHub https://github.com/sgl-project/sglang/issues/new/choose \n",
        SIGKILL,
    ),
    "oom_serving": Failure("serve", "torch.OutOfMemoryError", _OOM, SIGKILL),
    "oom_prefill": Failure(
        "serve",
        "RuntimeError",
        "Prefill out of memory. Try to lower your batch size.\nTry to allocate 8192 tokens.\nAvailable tokens: 12",
        SIGKILL,
    ),
    "oom_decode": Failure(
        "serve",
        "RuntimeError",
        "Decode out of memory. Try to lower your batch size.\nTry to allocate 64 tokens.\nAvailable tokens: 12",
        SIGKILL,
    ),
    "nccl": Failure(
        "load", "torch.distributed.DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error", SIGKILL
    ),
    "crash_serving": Failure("serve", "RuntimeError", "CUDA error: an illegal memory access was encountered", SIGKILL),
    # The parent finds its child dead: an exception of its own, not the signal.
    "oom_host": Failure(
        "child",
        "RuntimeError",
        "Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9 (SIGKILL), a common cause is the OS OOM killer. "
        "Run `dmesg -T | grep -i oom` to check.",
        1,
    ),
    "port_in_use": Failure("bind", "OSError", "Address already in use", 1),
}

VLLM = _COMMON | {
    "no_gpu": Failure(
        "device",
        "RuntimeError",
        "Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help "
        "debug the issue.",
        1,
    ),
    "driver_too_old": Failure("load", "RuntimeError", _DRIVER, 1),
    "gpu_busy": Failure(
        "load",
        "ValueError",
        "Free memory on device cuda:0 (11.2/79.11 GiB) on startup is less than desired GPU memory utilization (0.92, 72.78 GiB). "
        "Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        1,
    ),
    "oom_load": Failure(
        "load",
        "torch.OutOfMemoryError",
        _OOM,
        1,
        before="Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights, increasing "
        "--tensor-parallel-size, or using --quantization. See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more "
        f"tips. (original error: {_OOM})",
    ),
    "oom_static": Failure(
        "load",
        "ValueError",
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine (this flag also "
        "controls CPU memory reservation on the CPU backend, despite its name). See "
        "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details.",
        1,
    ),
    "oom_model_len": Failure(
        "load",
        "ValueError",
        "To serve at least one request with the model's max seq len (131072), (4.0 GiB KV cache is needed, which is larger than the "
        "available KV cache memory (1.25 GiB). Based on the available memory, the estimated maximum model length is 40960. Try "
        "increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing `max_model_len` when "
        "initializing the engine. See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details.",
        1,
    ),
    "oom_capture": Failure("capture", "torch.OutOfMemoryError", _OOM, 1),
    "oom_sampler": Failure(
        "capture",
        "RuntimeError",
        "CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering `max_num_seqs` or "
        "`gpu_memory_utilization` when initializing the engine.",
        1,
    ),
    "nccl": Failure("load", "torch.distributed.DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error", 1),
    # A dead engine ends the server in good order: the HTTP server is told to exit, and the process with it (launcher.py, watchdog_loop).
    "oom_serving": Failure("serve", "torch.OutOfMemoryError", _OOM, 0),
    "crash_serving": Failure("serve", "RuntimeError", "CUDA error: an illegal memory access was encountered", 0),
    "oom_host": Failure("child", "", "", 1),
    "port_in_use": Failure("bind", "OSError", "Address already in use", 1),
}
