"""How a Docker daemon gives NVIDIA GPUs to a container."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from docker.types import DeviceRequest

from tuner.backends import docker_connection
from tuner.backends.docker_connection import DAEMON_ERRORS
from tuner.errors import NotReadyError

TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
REMEDY = f"install the NVIDIA Container Toolkit, `nvidia-ctk runtime configure --runtime=docker`, restart Docker (see {TOOLKIT})"

_HOOK = "nvidia-container-runtime-hook"
_CDI_KIND = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class DockerGpus:
    """The ways by which a Docker daemon can give NVIDIA GPUs to a container; one is enough.

    Attributes:
        runtime: The runtime `nvidia` is registered.
        hook: The toolkit's hook is on the path, which is all that `docker run --gpus` asks for (moby, daemon/nvidia_linux.go).
        cdi: The daemon reads CDI specifications, and one names an NVIDIA GPU.
    """

    runtime: bool
    hook: bool
    cdi: bool

    @classmethod
    def probe(cls) -> Self:
        """Asks the current daemon, which must run on this host.

        Raises:
            NotReadyError: it does not answer.
        """
        client = docker_connection.connect()
        try:
            return cls.from_info(client.info())
        except DAEMON_ERRORS as error:
            raise NotReadyError(f"the Docker daemon does not answer: {error}") from error
        finally:
            client.close()

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Self:
        """Reads the answer to `docker info` of a daemon on this host.

        `DiscoveredDevices` stands there since API 1.50; before, the CDI files themselves tell.
        """
        discovered = any(str(device.get("ID", "")).startswith(_CDI_KIND) for device in info.get("DiscoveredDevices") or ())
        folders = [Path(folder) for folder in info.get("CDISpecDirs") or ()]
        return cls(
            runtime="nvidia" in (info.get("Runtimes") or {}),
            hook=shutil.which(_HOOK) is not None,
            cdi=discovered or any(_names_gpu(file) for folder in folders if folder.is_dir() for file in folder.iterdir()),
        )

    @property
    def usable(self) -> bool:
        """Whether any of the ways is open."""
        return self.runtime or self.hook or self.cdi


def device_requests(ids: Sequence[str] | None, count: int) -> list[DeviceRequest]:
    """What `docker run --gpus` sends.

    Args:
        ids: Indices or UUIDs of the GPUs; empty for none; None where the daemon shall choose.
        count: How many the daemon shall choose.
    """
    if ids:
        return [DeviceRequest(device_ids=list(ids), capabilities=[["gpu"]])]
    if ids is None and count:
        return [DeviceRequest(count=count, capabilities=[["gpu"]])]
    return []


def _names_gpu(file: Path) -> bool:
    try:
        return file.suffix in {".json", ".yaml", ".yml"} and _CDI_KIND in file.read_text(errors="replace")
    except OSError:
        return False
