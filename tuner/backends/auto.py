"""The backend `auto`: which backend suits the engine on this host, or what is missing."""

from __future__ import annotations

from collections.abc import Callable

from tuner.backends.docker_gpus import REMEDY, DockerGpus
from tuner.errors import NotReadyError
from tuner.host import Nvidia

_CPU_ENGINE = "llamacpp"


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
    here = f"backend=auto: this host has an NVIDIA device ({nvidia.devices[0]}) but"
    if not nvidia.driver_loaded:
        raise NotReadyError(f"{here} its driver is not loaded: install or load the driver until `nvidia-smi` lists the GPU")
    try:
        gpus = probe_docker()
    except NotReadyError as error:
        raise NotReadyError(f"{here} {error}, {otherwise}") from error
    if not gpus.usable:
        raise NotReadyError(f"{here} Docker cannot use it: {REMEDY}, {otherwise}")
    return "docker"
