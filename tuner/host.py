"""Facts of this host: its NVIDIA devices, its processor and its memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

_NVIDIA_VENDOR = "0x10de"  # https://pcisig.com/membership/member-companies
_DISPLAY_CLASS = "0x03"  # display controllers: VGA 0x0300, 3D 0x0302 (data centre GPUs); NVIDIA's audio functions are 0x0403


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What this host shows of NVIDIA GPUs.

    Attributes:
        devices: Where a device was seen, for example `/dev/nvidia0`. Empty: the host has none.
        driver_loaded: Whether the kernel driver runs.
    """

    devices: tuple[str, ...]
    driver_loaded: bool

    @classmethod
    def probe(cls, root: Path = Path("/")) -> Self:
        """Looks for devices in the file system alone, so that a GPU whose driver is missing or broken counts as a device too.

        Args:
            root: Where `dev`, `proc`, `sys` and `usr` are.
        """
        under_windows = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/nvidia-smi").exists()
        found = [
            *sorted((root / "dev").glob("nvidia[0-9]*")),
            *sorted((root / "proc/driver/nvidia/gpus").glob("*")),
            *(path for path in sorted((root / "sys/bus/pci/devices").glob("*")) if _is_nvidia_gpu(path)),
            *([root / "dev/dxg"] if under_windows else []),
        ]
        driver_loaded = under_windows or (root / "proc/driver/nvidia/version").exists()
        return cls(tuple(f"/{path.relative_to(root)}" for path in found), driver_loaded)


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        return (device / "vendor").read_text().strip() == _NVIDIA_VENDOR and (device / "class").read_text().startswith(_DISPLAY_CLASS)
    except OSError:
        return False


def nvidia_device(root: Path = Path("/")) -> str | None:
    """Where this host shows an NVIDIA GPU, be it usable or not; None where it has none."""
    return next(iter(Nvidia.probe(root).devices), None)


def describe(root: Path = Path("/")) -> dict[str, str | int | float]:
    """What a study records of the machine that it ran on.

    Args:
        root: Where `dev`, `proc`, `sys` and `usr` are.

    Returns:
        `cpu_model`, the processor's name as the kernel tells it; `cpus`, the logical processors that this process may use; `memory_gib`,
        the main memory in GiB; `nvidia_device`, where a GPU was seen, or an empty text.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return {
        "cpu_model": _cpu_model(root / "proc/cpuinfo"),
        "cpus": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "nvidia_device": nvidia_device(root) or "",
    }


def _cpu_model(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())  # ARM kernels give no model name
