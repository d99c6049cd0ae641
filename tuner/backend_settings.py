"""Settings of the backends."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
)

from tuner.errors import ConfigError
from tuner.explain import nearest, show
from tuner.ome_settings import OmeBackendSettings
from tuner.section import SECRET, Section, Text, as_mapping, as_tuple

OWN_CONTAINER_ARGUMENTS = frozenset(
    {
        "image",
        "command",
        "entrypoint",
        "name",
        "detach",
        "remove",
        "auto_remove",
        "labels",
        "environment",
        "ports",
        "network_disabled",
        "mounts",
        "volumes",
        "device_requests",
        "shm_size",
        "ipc_mode",
        "ulimits",
        "mem_limit",
        "memswap_limit",
        "nano_cpus",
        "init",
        "restart_policy",
        "log_config",
        "stdin_open",
        "tty",
    }
)
"""Arguments of `containers.create` that tuner sets itself, from other keys or for its own purposes."""


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[kmgKMG]?", text):
        raise ValueError(f"{show(text)} is no size; write bytes, or k, m or g as in 32g")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{show(path)} is no absolute path")
    return path


def _ip_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:  # Docker takes anything else for 0.0.0.0, which everybody can reach
        raise ValueError(f"{show(text)} is no IP address") from None


Size = Annotated[str, AfterValidator(_size)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Gpus = Annotated[tuple[StrictInt | Text, ...] | None, BeforeValidator(as_tuple)]


def _distinct(gpus: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
    if gpus is not None and len({str(gpu) for gpu in gpus}) < len(gpus):
        raise ValueError(f"{list(gpus)} names a GPU twice")
    return gpus


class GpuBackendSettings(Section):
    """What backends on one host have in common.

    Attributes:
        gpus: Index or UUID of the GPUs that servers may use, as `nvidia-smi -L` lists them; None takes all that the host has, an empty
            list gives none, as for an engine's build for the CPU.
    """

    gpus: Gpus = None

    @field_validator("gpus")
    @classmethod
    def _each_once(cls, gpus: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        return _distinct(gpus)


class AutoBackendSettings(GpuBackendSettings):
    """`auto` decides by the engine and this host."""

    name: Literal["auto"]


class LocalBackendSettings(GpuBackendSettings):
    """A process of this host."""

    name: Literal["local"]


class MountSettings(Section):
    """A directory or file of the Docker host, read-only in the container.

    Attributes:
        source: Absolute path on the host of the daemon. It must exist.
        target: Absolute path in the container; by default the same.
    """

    source: AbsolutePath
    target: AbsolutePath | None = None


class DockerBackendSettings(GpuBackendSettings):
    """A container of a Docker daemon, the one that DOCKER_HOST, DOCKER_CONTEXT or the current context names.

    Attributes:
        pull: When the image is pulled: `missing`, `always` (once per study) or `never`.
        pull_timeout_s: Seconds that pulling the image may take.
        bind: Address of the Docker host on which servers are published. One other than loopback is needed for a daemon on another host;
            servers have no login.
        shm_size: Size of `/dev/shm`, as `32g`. NCCL uses it where there is more than one GPU.
        ipc: `private` takes the shared memory away with the container; `host` uses the host's.
        ulimits: Limits by name, -1 for none: `{memlock: -1, stack: 67108864}`.
        memory: Limit on main memory, as `64g`; None sets none.
        cpus: Limit on processors; None sets none.
        environment: Environment of the server. A variable with value None is taken from tuner's own environment, which is the only way
            for a secret: values of a configuration are stored.
        mounts: Further paths of the host.
        model_cache: Hugging Face hub cache on the host of the daemon; None takes this host's (HF_HUB_CACHE) and fills it when needed.
        container: Further arguments of the docker SDK's `containers.create`, as `{cap_add: [SYS_NICE]}`.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
    """

    name: Literal["docker"]
    pull: Literal["missing", "always", "never"] = "missing"
    pull_timeout_s: PositiveFloat = 3600.0
    bind: IpAddress = "127.0.0.1"
    shm_size: Size = "32g"
    ipc: Literal["private", "host"] = "private"
    ulimits: Annotated[Mapping[str, StrictInt], BeforeValidator(as_mapping)] = {}
    memory: Size | None = None
    cpus: PositiveFloat | None = None
    environment: Annotated[Mapping[str, StrictBool | StrictInt | StrictFloat | StrictStr | None], BeforeValidator(as_mapping)] = {}
    mounts: Annotated[tuple[MountSettings, ...], BeforeValidator(as_tuple)] = ()
    model_cache: AbsolutePath | None = None
    container: Annotated[Mapping[str, Any], BeforeValidator(as_mapping)] = {}
    stop_grace_s: PositiveFloat = 10.0

    @field_validator("environment")
    @classmethod
    def _no_secret_in_the_configuration(cls, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in environment.items():
            if value is not None and SECRET.search(name):
                raise ConfigError(
                    f"backend.environment.{name}: the values of a configuration are stored, which is no place for a secret; "
                    f"write null here and export {name} before you start tuner"
                )
        return environment

    @field_validator("container")
    @classmethod
    def _known_arguments(cls, container: Mapping[str, Any]) -> Mapping[str, Any]:
        if not container:
            return container
        from docker.models.containers import RUN_CREATE_KWARGS, RUN_HOST_CONFIG_KWARGS  # slow to import

        known = {*RUN_CREATE_KWARGS, *RUN_HOST_CONFIG_KWARGS} - OWN_CONTAINER_ARGUMENTS
        for name in container:
            if name in OWN_CONTAINER_ARGUMENTS:
                raise ConfigError(f"backend.container.{name}: set by tuner itself; see the other keys of backend")
            if name not in known:
                raise ConfigError(f"backend.container.{name}: containers.create has no such argument{nearest(name, sorted(known))}")
        return container


class ReplayBackendSettings(Section):
    """No server at all: the table of `engine=replay`."""

    name: Literal["replay"]


BackendSettings = Annotated[
    AutoBackendSettings | LocalBackendSettings | DockerBackendSettings | OmeBackendSettings | ReplayBackendSettings,
    Field(discriminator="name"),
]
