"""The GPUs of this host: found by NVML, chosen by the user, and given out to deployments."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import psutil

from tuner.errors import Infeasible, NotReadyError, Transient

_LOG = logging.getLogger(__name__)
_MIG = "MIG-"
_VISIBLE, _ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"

# By pynvml's names of NVML's errors: the cause and the remedy.
_CAUSES = {
    "NVMLError_LibraryNotFound": "this host has no NVIDIA driver (no libnvidia-ml.so.1): install it until `nvidia-smi` lists the GPUs",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded: `sudo modprobe nvidia`, or install it anew until `nvidia-smi` works",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was updated while the old one is loaded: reboot this host",
    "NVMLError_NoPermission": "this user may not ask the NVIDIA driver: check the permissions of /dev/nvidia*",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one slice of a GPU in MIG mode, as NVML describes it.

    Attributes:
        index: Number of the GPU in NVML's order, that of the PCI bus; `nvidia-smi` shows the same. The slices of a GPU share it.
        uuid: `GPU-...`, or `MIG-...` for a slice; the name by which Docker and CUDA find it whatever the order.
        name: Product name.
        memory_bytes: All of its memory, what the driver reserves included.
        free_bytes: What nobody held when it was asked.
        compute_capability: CUDA's major and minor version of the architecture, `(9, 0)` for Hopper.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice of a GPU in MIG mode. A process can use one at a time (NVIDIA MIG user guide, CUDA device enumeration)."""
        return self.uuid.startswith(_MIG)

    @property
    def cuda_name(self) -> str:
        """Its name in CUDA_VISIBLE_DEVICES where CUDA_DEVICE_ORDER is PCI_BUS_ID: the index, because vLLM ends on a UUID there (vLLM
        #13815, #46132). A slice has nothing but its UUID."""
        return self.uuid if self.is_slice else str(self.index)


def discover() -> tuple[Gpu, ...]:
    """All GPUs of this host, one in MIG mode by its slices. One that does not answer (fallen off the bus) is left out with a warning.

    Raises:
        NotReadyError: NVML (part of the driver) is missing or fails, or no GPU answers; names the fix.
    """
    with _nvml() as nvml:
        found: list[Gpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found += _gpu(nvml, index)
            except nvml.NVMLError as error:
                _LOG.warning("GPU %d is left out, the driver says of it: %s", index, error)
    if not found:
        raise NotReadyError("the NVIDIA driver shows no usable GPU: see `nvidia-smi`, and `nvidia-smi mig -lgi` where MIG is on")
    return tuple(found)


def driver_version() -> str:
    """The version of the NVIDIA driver.

    Raises:
        NotReadyError: see `discover`.
    """
    with _nvml() as nvml:
        return _text(nvml.nvmlSystemGetDriverVersion())


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, initialised; its errors leave as `NotReadyError`."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        cause = _CAUSES.get(type(error).__name__, f"the NVIDIA driver fails ({error}): see `nvidia-smi` and `dmesg`")
        raise NotReadyError(cause) from error


def _gpu(nvml: Any, index: int) -> list[Gpu]:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(device))
    described = []
    for handle in _slices(nvml, device) or [device]:
        memory, free = _memory(nvml, handle)
        uuid, name = (_text(ask(handle)) for ask in (nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetName))
        described.append(Gpu(index, uuid, name, memory, free, capability))
    return described


def _slices(nvml: Any, device: Any) -> list[Any]:
    """The MIG slices of a GPU; none where MIG is off.

    Raises:
        NVMLError_NotFound: MIG is on and no slice was made: CUDA cannot use this GPU.
    """
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(device)
    except nvml.NVMLError_NotSupported:
        return []
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return []
    slices = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # numbers have gaps
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, number))
    if not slices:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    return slices


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free)
    except nvml.NVMLError_NotSupported:
        # a GPU without memory of its own, as in DGX Spark: https://docs.nvidia.com/dgx/dgx-spark/known-issues.html
        shared = psutil.virtual_memory()
        return shared.total, shared.available


def _text(answer: str | bytes) -> str:
    # an old package `pynvml` beside nvidia-ml-py takes over the module's name, and answers in bytes
    return answer.decode() if isinstance(answer, bytes) else answer


def select(wanted: Sequence[int | str] | None, found: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Those of `found` that may be used.

    Args:
        wanted: `backend.gpus`: indices or UUIDs, of which a unique beginning suffices; the index of a GPU in MIG mode means all its slices.
            None takes those of CUDA_VISIBLE_DEVICES, by which cluster schedulers assign GPUs, and all where that is not set.
        found: What `discover` found.

    Raises:
        NotReadyError: one of them is not there; lists those that are.
    """
    key, names = "backend.gpus", wanted
    if names is None:
        key, names = _VISIBLE, _visible_here(found)
    if names is None:
        return tuple(found)
    chosen = [gpu for name in names for gpu in _named(str(name), found, key)]
    return tuple(dict.fromkeys(chosen))


def _visible_here(found: Sequence[Gpu]) -> list[str] | None:
    value = os.environ.get(_VISIBLE)
    if value is None:
        return None
    if value.strip() in ("", "-1"):
        raise NotReadyError(f"{_VISIBLE}={value} hides all GPUs: unset it, or name GPUs in backend.gpus")
    names = [name.strip() for name in value.split(",")]
    if any(name.isdecimal() for name in names) and len({gpu.name for gpu in found}) > 1 and os.environ.get(_ORDER) != "PCI_BUS_ID":
        # https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables: by default the fastest comes first
        raise NotReadyError(f"{_VISIBLE}={value} counts the GPUs in CUDA's own order: export {_ORDER}=PCI_BUS_ID, or set backend.gpus")
    return names


def _named(name: str, found: Sequence[Gpu], key: str) -> list[Gpu]:
    if name.isdecimal():
        fits = [gpu for gpu in found if gpu.index == int(name)]
    else:
        fits = [gpu for gpu in found if name and gpu.uuid.startswith(name)]
        if len(fits) > 1:
            raise NotReadyError(f"{key}: {name} may be {' or '.join(gpu.uuid for gpu in fits)}: write more of it")
    if not fits:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in found)
        raise NotReadyError(f"{key}: there is no GPU {name!r}: use some of {there}")
    return fits


class GpuSlots:
    """The GPUs of a study, each in one deployment at a time. Threads may share it.

    Args:
        ids: Their indices or UUIDs; None where the number of GPUs is not known, for a daemon on another host: then none is chosen.
    """

    def __init__(self, ids: Sequence[str] | None) -> None:
        self._ids = None if ids is None else tuple(ids)
        self._taken: set[str] = set()
        self._lock = Lock()

    @property
    def none(self) -> bool:
        """Whether the study was given no GPU at all."""
        return self._ids == ()

    def take(self, count: int) -> tuple[str, ...] | None:
        """Gives out `count` GPUs, until `give_back`; the first that are free, so that equal launches get equal GPUs.

        Returns:
            Their ids; an empty tuple where the study was given no GPU at all; None where they are not known.

        Raises:
            Infeasible: the study has fewer than `count`.
            Transient: too many are in use now.
        """
        if not self._ids:
            return self._ids
        if count > len(self._ids):
            raise Infeasible(f"needs {count} GPUs, backend.gpus has {len(self._ids)}")
        with self._lock:
            free = [gpu for gpu in self._ids if gpu not in self._taken]
            if count > len(free):
                raise Transient(f"needs {count} GPUs, of which {len(free)} are free now")
            self._taken.update(free[:count])
        return tuple(free[:count])

    def give_back(self, ids: Sequence[str] | None) -> None:
        """Takes back what `take` gave out."""
        with self._lock:
            self._taken.difference_update(ids or ())
