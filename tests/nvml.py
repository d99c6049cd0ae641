"""A double of the NVIDIA driver: NVML's functions as pynvml gives them, for GPUs that are not there. Errors are pynvml's own classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

GIB = 2**30


@dataclass
class Device:
    """What the driver tells of a GPU or of a MIG slice.

    Attributes:
        uuid: As `nvidia-smi -L` lists it.
        name: Product name.
        total: Bytes; None where the driver does not know, as for a GPU without memory of its own.
        used: Bytes.
        slices: Of a GPU in MIG mode, None standing for a gap in their numbers; None where the GPU has no such mode or it is off.
        fails: The code of the error with which it answers.
    """

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int | None = 80 * GIB
    used: int = GIB
    slices: Sequence[Device | None] | None = None
    fails: int | None = None


@dataclass
class Driver:
    """What NVML answers.

    Attributes:
        devices: The GPUs.
        fails: The code of the error with which `nvmlInit` fails.
        in_bytes: Whether texts come as bytes, as of the package `pynvml` before 12.
        opened: How often it was initialised and not shut down again.
    """

    devices: Sequence[Device] = ()
    fails: int | None = None
    in_bytes: bool = False
    opened: int = field(default=0, init=False)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(self, name))

    def nvmlInit(self) -> None:
        if self.fails is not None:
            raise pynvml.NVMLError(self.fails)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._text("580.105.08")

    def nvmlDeviceGetCount(self) -> int:
        assert self.opened
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        device = self.devices[index]
        if device.fails is not None:
            raise pynvml.NVMLError(device.fails)
        return device

    def nvmlDeviceGetUUID(self, device: Device) -> Any:
        return self._text(device.uuid)

    def nvmlDeviceGetName(self, device: Device) -> Any:
        return self._text(device.name)

    def nvmlDeviceGetCudaComputeCapability(self, device: Device) -> list[int]:
        return [9, 0]

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> SimpleNamespace:
        if device.total is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=device.total, free=device.total - device.used, used=device.used)

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:
        if device.slices is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:
        return len(device.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:
        found = (device.slices or ())[index]
        if found is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return found

    def _text(self, text: str) -> Any:
        return text.encode() if self.in_bytes else text
