"""The backend `auto`: which backend suits the engine on this host, or what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuner.errors import NotReadyError
from tuner.host import Nvidia

DOCKER_LATER = (
    "backend docker is not available in this version: it arrives with the next release; "
    "use backend=local with the engine installed in an environment on this host"
)

_CPU_ENGINE = "llamacpp"
_DAEMON_TIMEOUT_S = 10
_HOOK = "nvidia-container-runtime-hook"
_CDI_KIND = "nvidia.com/gpu"
_TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"


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
        """Asks the daemon that DOCKER_HOST or the default socket names.

        Raises:
            NotReadyError: the daemon does not answer.
        """
        import docker  # slow to import, and not needed where there is no GPU
        import requests

        try:
            client = docker.from_env(timeout=_DAEMON_TIMEOUT_S)
            try:
                client.ping()
                info = client.info()
            finally:
                client.close()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise NotReadyError(_unreachable(str(error))) from error
        return cls.from_info(info)

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Self:
        """Reads the answer to `docker info`. `DiscoveredDevices` stands there since API 1.50; before, the CDI files themselves tell."""
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


def resolve(
    engine: str, probe_nvidia: Callable[[], Nvidia] = Nvidia.probe, probe_docker: Callable[[], DockerGpus] = DockerGpus.probe
) -> str:
    """The name of the backend that `backend=auto` stands for.

    A host with a GPU that cannot be used is an error, never a reason to fall back on the CPU.

    Args:
        engine: Engine name.
        probe_nvidia: Looks for the NVIDIA devices of this host.
        probe_docker: Asks the Docker daemon; called only when the answer depends on it.

    Raises:
        NotReadyError: names what is missing for `engine` on this host and what to do about it.
    """
    if engine == _CPU_ENGINE:
        return "local"
    nvidia = probe_nvidia()
    otherwise = f"or use backend=local with {engine} installed in an environment on this host"
    if not nvidia.devices:
        raise NotReadyError(
            f"backend=auto: engine {engine} needs an NVIDIA GPU and this host has none: use engine=llamacpp on the CPU, {otherwise}"
        )
    if not nvidia.driver_loaded:
        raise NotReadyError(
            f"backend=auto: this host has an NVIDIA device ({nvidia.devices[0]}) but its driver is not loaded: "
            "install or load the driver until `nvidia-smi` lists the GPU"
        )
    if not probe_docker().usable:
        raise NotReadyError(
            f"backend=auto: this host has an NVIDIA device ({nvidia.devices[0]}) but Docker cannot use it: install the NVIDIA Container "
            f"Toolkit, `nvidia-ctk runtime configure --runtime=docker`, restart Docker (see {_TOOLKIT}), {otherwise}"
        )
    return "docker"


def _unreachable(text: str) -> str:
    start = "backend=auto: this host has an NVIDIA device but the Docker daemon does not answer"
    if "Permission denied" in text:
        return f"{start} (permission denied): add yourself to the group with `sudo usermod -aG docker $USER` and log in again"
    cause = "no socket" if "FileNotFoundError" in text else " ".join(text.split())[:200]
    return f"{start} ({cause}): install or start Docker (`sudo systemctl start docker`), or set DOCKER_HOST"


def _names_gpu(file: Path) -> bool:
    try:
        return file.suffix in {".json", ".yaml", ".yml"} and _CDI_KIND in file.read_text(errors="replace")
    except OSError:
        return False
