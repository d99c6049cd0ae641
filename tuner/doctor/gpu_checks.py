"""The GPUs of this host, against what the search space needs."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.backend_settings import GpuBackendSettings
from tuner.feasibility.gate import SOMEONE_ELSE
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.gpus import Gpu, discover, driver_version, select
from tuner.host import Nvidia
from tuner.settings import Settings

_GIB = 2**30


def gpus(settings: Settings, fewest: int, docker_host: str | None) -> Finding:
    """Whether this host has the GPUs, with their driver, and whether somebody else uses them.

    Args:
        settings: The experiment.
        fewest: GPUs of the smallest configuration.
        docker_host: The host of the Docker daemon, where it is another.
    """
    if docker_host is not None:
        return skipped(f"those of {docker_host}, the host of the Docker daemon, cannot be seen from here")
    nvidia = Nvidia.probe()
    if not nvidia.devices:
        return failed("this host has no NVIDIA device", "run tuner on a GPU host, or use engine=llamacpp on the CPU")
    if not nvidia.driver_loaded:
        return failed(f"{nvidia.devices[0]} is there but its driver is not loaded", "install or load it until `nvidia-smi` lists the GPU")
    found = discover()
    chosen = select(settings.backend.gpus if isinstance(settings.backend, GpuBackendSettings) else None, found)
    seen = f"driver {driver_version()}, {len(chosen)} of {len(found)} GPUs: {_listed(chosen)}"
    if len(chosen) < fewest:
        return failed(
            f"{seen}; the smallest configuration needs {fewest}", "lower tp, pp or dp in the space, or name more GPUs in backend.gpus"
        )
    if fewest > 1 and any(gpu.is_slice for gpu in chosen):
        return failed(f"{seen}; a server can use only one slice of a GPU in MIG mode", "search tp=1 alone, or `sudo nvidia-smi -mig 0`")
    if busy := [gpu for gpu in chosen if gpu.free_bytes < SOMEONE_ELSE * gpu.memory_bytes]:
        used = ", ".join(f"{(gpu.memory_bytes - gpu.free_bytes) / _GIB:.0f} GiB of GPU {gpu.index}" for gpu in busy)
        return warning(
            f"{seen}; others hold {used}", "end what `nvidia-smi` lists, or leave these out of backend.gpus: it disturbs the numbers"
        )
    return ok(seen)


def _listed(chosen: Sequence[Gpu]) -> str:
    kinds = dict.fromkeys((gpu.name, round(gpu.memory_bytes / _GIB)) for gpu in chosen)
    return ", ".join(
        f"{', '.join(str(gpu.index) for gpu in chosen if (gpu.name, round(gpu.memory_bytes / _GIB)) == kind)}: {kind[0]} with {kind[1]} GiB"
        for kind in kinds
    )
