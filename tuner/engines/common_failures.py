"""The failure texts that servers share, from the libraries below them; see `failure_texts`. Each engine puts them after its own."""

from __future__ import annotations

from tuner.engines.failure_texts import FailureText
from tuner.errors import Infeasible, Systemic, Transient

HUB = "huggingface_hub 1.x utils/_http.py"
TRANSFORMERS = "transformers utils/hub.py"

_DRIVER = "update the host's NVIDIA driver, or choose an engine.image for an older CUDA"
_NO_GPU = "the server sees no GPU: see `python -m tuner doctor`"
_MODEL = "check engine.model, or give access with HF_TOKEN"
_SHM = "/dev/shm is too small: raise backend.shm_size"

SERVER_TEXTS = (
    FailureText("port_in_use", "address already in use", Transient, "another process took the port", "errno EADDRINUSE in any server"),
    FailureText("missing_package", "No module named", Systemic, "the engine's environment is incomplete: install the package", "CPython"),
    FailureText("disk_full", "No space left on device", Systemic, "free disk space", "errno ENOSPC"),
)

MODEL_TEXTS = (
    FailureText("gated_model", "Cannot access gated repo", Systemic, "accept the model's licence on its page and set HF_TOKEN", HUB),
    FailureText("gated_model", "trying to access a gated repo", Systemic, "accept the model's licence and set HF_TOKEN", TRANSFORMERS),
    FailureText("bad_token", "Invalid credentials in Authorization header", Systemic, "HF_TOKEN is wrong or expired: set a new one", HUB),
    FailureText("missing_model", "is not a local folder and is not a valid model identifier", Systemic, _MODEL, TRANSFORMERS),
    FailureText("missing_model", "Repository Not Found", Systemic, _MODEL, HUB),
    FailureText("missing_model", "Invalid repository ID or local directory specified", Systemic, _MODEL, "vLLM 0.33.0 transformers_utils"),
    FailureText(
        "missing_model",
        "outgoing traffic has been disabled",
        Systemic,
        "download the model first, or unset HF_HUB_OFFLINE",
        "huggingface_hub file_download.py",
    ),
    FailureText(
        "custom_code",
        "contains custom code which must be executed",
        Systemic,
        "if you trust it, set engine.args.trust_remote_code=true",
        "transformers dynamic_module_utils.py",
    ),
    FailureText(
        "bad_model",
        "Cannot find any model weights with",
        Systemic,
        "check engine.model and engine.args.load_format",
        "SGLang 0.5.23 model_loader/loader.py, vLLM 0.33.0 model_loader/default_loader.py",
    ),
    FailureText("bad_model", "SafetensorError:", Systemic, "a file of the weights is damaged: fetch the model again", "safetensors"),
    FailureText(
        "unreadable", "PermissionError: [Errno 13]", Systemic, "make it readable for the user that the server runs as", "errno EACCES"
    ),
    FailureText("hub_unreachable", "We couldn't connect to", Transient, "the server cannot reach the hub: check its network", TRANSFORMERS),
    FailureText(
        "unknown_model", "Unrecognized model in", Systemic, "this engine does not know the model: check engine.model", "transformers"
    ),
    FailureText(
        "unknown_model",
        "Model architectures … are not supported for now",
        Systemic,
        "this version of the engine cannot serve the model",
        "SGLang 0.5.23 models/registry.py, vLLM 0.33.0 models/registry.py",
    ),
)

GPU_TEXTS = (
    FailureText("driver_too_old", "The NVIDIA driver on your system is too old", Systemic, _DRIVER, "torch torch/csrc/cuda"),
    FailureText("driver_too_old", "CUDA driver version is insufficient for CUDA runtime version", Systemic, _DRIVER, "CUDA error 35"),
    FailureText(
        "driver_too_old", "forward compatibility was attempted on non supported HW", Systemic, _DRIVER, "vllm #5510, CUDA error 804"
    ),
    FailureText("no_gpu", "Found no NVIDIA driver on your system", Systemic, _NO_GPU, "torch torch/csrc/cuda, OpenLLM #746"),
    FailureText("no_gpu", "No CUDA GPUs are available", Systemic, _NO_GPU, "torch torch/csrc/cuda"),
    FailureText(
        "no_gpu", "invalid device ordinal", Systemic, "the server sees fewer GPUs than it wants: see backend.gpus", "CUDA error 101"
    ),
    FailureText(
        "wrong_gpu",
        "no kernel image is available for execution on the device",
        Systemic,
        "the engine was not built for this GPU: choose another engine.image",
        "sglang #24224, vllm #20193, CUDA error 209",
    ),
    FailureText("shm_full", "Error while creating shared memory segment", Systemic, _SHM, "NVIDIA/nccl #342, llm-d #352"),
    FailureText("shm_full", "posix_fallocate failed", Systemic, _SHM, "NVIDIA/nccl #290, #525"),
    FailureText("shm_full", "insufficient shared memory (shm)", Systemic, _SHM, "torch utils/data/_utils/signal_handling.py"),
    FailureText("shm_full", "Bus error", Systemic, _SHM, "glibc's text for SIGBUS, google/fuzzbench #1450"),
)

NCCL = FailureText("nccl", "NCCL error", Transient, "", "torch csrc/distributed/c10d/NCCLUtils.hpp, vllm #10626")


def torch_memory(remedy: str) -> tuple[FailureText, ...]:
    """The ways torch says that the GPU's memory is used up."""
    return (
        FailureText("oom_dynamic", "torch.OutOfMemoryError:", Infeasible, remedy, "torch 2.5 and later", "by progress", starts=True),
        FailureText("oom_dynamic", "torch.cuda.OutOfMemoryError:", Infeasible, remedy, "torch before 2.5", "by progress", starts=True),
        FailureText(
            "oom_dynamic", "CUDA out of memory. Tried to allocate", Infeasible, remedy, "torch CUDACachingAllocator", "by progress"
        ),
        FailureText("oom_dynamic", "CUDA error: out of memory", Infeasible, remedy, "CUDA error 2", "by progress"),
        FailureText("oom_dynamic", "CUBLAS_STATUS_ALLOC_FAILED", Infeasible, remedy, "cuBLAS", "by progress"),
    )


def refused_arguments(engine: str) -> tuple[FailureText, ...]:
    """What argparse says of a command line. A value that is no choice is one value's fault; an unknown flag is in every launch."""
    remedy = f"this {engine} version has no such flag: fix the search space or engine.args"
    return (
        FailureText("bad_args", "error: unrecognized arguments", Systemic, remedy, "CPython argparse"),
        FailureText("bad_args", "error: ambiguous option", Systemic, remedy, "CPython argparse"),
        FailureText("bad_args", "error: the following arguments are required", Systemic, "", "CPython argparse"),
        FailureText("bad_args", "error: argument ", Infeasible, "", "CPython argparse"),
    )


def refused_configuration(source: str) -> tuple[FailureText, ...]:
    """What a Python server's own checks raise, as the last line of a traceback; after everything more specific."""
    return tuple(
        FailureText("bad_config", name, Infeasible, "", source, starts=True)
        for name in ("AssertionError", "ValueError:", "NotImplementedError")
    )
