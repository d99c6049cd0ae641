"""From a launch spec and the settings to the arguments of the docker SDK's `containers.create`."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

import tuner
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Place
from tuner.backends.docker_gpus import device_requests
from tuner.errors import Systemic
from tuner.launch import LaunchSpec, Value
from tuner.owner import Owner

PORT = 8000
"""Where servers listen inside their container."""

STUDY_LABEL, TRIAL_LABEL, OWNER_LABEL, VERSION_LABEL = "tuner.study", "tuner.trial", "tuner.owner", "tuner.version"

# json-file can be followed on every daemon. The options keep daemon.json from having lines dropped under load, or rotated away.
_LOG = {"mode": "blocking", "max-size": "1g"}
_NAME_LENGTH = 100


def create_arguments(spec: LaunchSpec, settings: DockerBackendSettings, place: Place, gpus: Sequence[str] | None) -> dict[str, Any]:
    """The arguments of `containers.create`.

    The image's entrypoint is replaced: the command line is the engine's own, whatever the image does by default.

    Args:
        spec: What the engine asks for.
        settings: What the user asks for.
        place: Whose deployment it is.
        gpus: What `GpuSlots.take` gave.

    Raises:
        Systemic: a variable that the settings take from tuner's environment is not there.
    """
    argv = spec.bound("0.0.0.0", PORT)
    own = {
        "image": spec.image,
        "name": container_name(place),
        "entrypoint": argv[:1],
        "command": argv[1:],
        "environment": environment(spec.env, settings),
        "labels": {
            STUDY_LABEL: place.study,
            TRIAL_LABEL: str(place.trial),
            OWNER_LABEL: Owner.current().to_str(),
            VERSION_LABEL: tuner.__version__,
        },
        "ports": {f"{PORT}/tcp": (settings.bind, None)},
        # `volumes` would create a missing source on the host
        "mounts": [Mount(target, source, type="bind", read_only=True) for source, target in bind_mounts(spec, settings)],
        "device_requests": device_requests(gpus, spec.gpus),
        "shm_size": settings.shm_size,
        "ipc_mode": settings.ipc,
        "ulimits": [Ulimit(name=name, soft=limit, hard=limit) for name, limit in settings.ulimits.items()],
        "init": True,  # so that an engine that kills itself ends, which process 1 cannot, and its orphans are collected
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG),
    }
    if settings.memory is not None:
        own |= {"mem_limit": settings.memory, "memswap_limit": settings.memory}  # equal: no swap, which would falsify latencies
    if settings.cpus is not None:
        own["nano_cpus"] = round(settings.cpus * 1e9)
    return {**settings.container, **own}


def container_name(place: Place) -> str:
    """`tuner-STUDY-TRIAL-RANDOM`, in the letters that Docker allows."""
    study = re.sub(r"[^a-zA-Z0-9_.-]+", "-", place.study)[:_NAME_LENGTH]
    return f"tuner-{study}-{place.trial}-{secrets.token_hex(4)}"


def environment(env: Mapping[str, str], settings: DockerBackendSettings) -> dict[str, str]:
    """The server's variables: the engine's, then the user's.

    Raises:
        Systemic: one that is to come from tuner's environment is not there.
    """
    # unbuffered: what a Python server wrote before it was killed is the evidence
    variables = {"PYTHONUNBUFFERED": "1", **env}
    for name, value in settings.environment.items():
        if value is None:
            if name not in os.environ:
                raise Systemic(f"backend.environment.{name}: to be taken from your environment, where it is not set: export {name}")
            variables[name] = os.environ[name]
        else:
            variables[name] = as_text(value)
    return variables


def bind_mounts(spec: LaunchSpec, settings: DockerBackendSettings) -> list[tuple[str, str]]:
    """Source and target of all that the server reads of the host."""
    engines = [(str(mount.source), mount.target) for mount in spec.mounts]
    return engines + [(mount.source, mount.target or mount.source) for mount in settings.mounts]


def as_text(value: Value) -> str:
    """The value of a variable, as YAML writes it: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
