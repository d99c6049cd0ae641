"""The `docker run` that a user would type to have a server without tuner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.backend_settings import DockerBackendSettings
from tuner.backends.docker_request import PORT, as_text, bind_mounts
from tuner.launch import LaunchSpec
from tuner.section import SECRET

# Where the command line has another name than the SDK.
_FLAGS = {
    "devices": "device",
    "device_cgroup_rules": "device-cgroup-rule",
    "dns_opt": "dns-option",
    "extra_hosts": "add-host",
    "links": "link",
    "mem_reservation": "memory-reservation",
    "mem_swappiness": "memory-swappiness",
    "network_mode": "network",
    "pid_mode": "pid",
    "sysctls": "sysctl",
    "userns_mode": "userns",
    "uts_mode": "uts",
    "working_dir": "workdir",
}
_COLON = {"add-host", "tmpfs", "link"}


def docker_command(spec: LaunchSpec, settings: DockerBackendSettings) -> list[str]:
    """`docker run` for `spec`, published on loopback, port 8000.

    Secrets, and what the settings take from the environment, stand there by the name of their variable.
    """
    argv = spec.bound("0.0.0.0", PORT)
    words = ["docker", "run", "--rm", "--init", "-p", f"127.0.0.1:{PORT}:{PORT}"]
    if spec.gpus:
        words.append(f"--gpus={spec.gpus}")
    words += [f"--shm-size={settings.shm_size}", f"--ipc={settings.ipc}"]
    words += [f"--ulimit={name}={limit}" for name, limit in settings.ulimits.items()]
    if settings.memory is not None:
        words += [f"--memory={settings.memory}", f"--memory-swap={settings.memory}"]
    if settings.cpus is not None:
        words.append(f"--cpus={settings.cpus:g}")
    for name, value in {**spec.env, **settings.environment}.items():
        words += ["-e", name if value is None or SECRET.search(name) else f"{name}={as_text(value)}"]
    words += [f"--mount=type=bind,readonly,source={source},target={target}" for source, target in bind_mounts(spec, settings)]
    words += [word for name, value in settings.container.items() for word in _further(name, value)]
    return [*words, f"--entrypoint={argv[0]}", spec.image or "", *argv[1:]]


def _further(name: str, value: Any) -> list[str]:
    flag = _FLAGS.get(name, name.replace("_", "-"))
    match value:
        case bool():
            return [f"--{flag}"] if value else []
        case Mapping():
            between = ":" if flag in _COLON else "="
            return [f"--{flag}={key}{between}{part}" for key, part in value.items()]
        case list() | tuple():
            return [f"--{flag}={part}" for part in value]
        case _:
            return [f"--{flag}={value}"]
