"""From the settings to the parties of a run: which backend, engine and GPUs they mean on this host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner import host
from tuner.backend_settings import DockerBackendSettings, LocalBackendSettings
from tuner.backends import auto, docker_connection
from tuner.backends.base import Backend
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.engine_settings import LlamaCppSettings
from tuner.engines.base import Engine
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, NotReadyError
from tuner.explain import nearest
from tuner.gpus import Gpu, GpuSlots, discover, select
from tuner.settings import Settings

LISTED = 40
"""So many names are too many for a message."""


def with_backend(settings: Settings) -> Settings:
    """The settings with `backend=auto` decided.

    Raises:
        NotReadyError: this host cannot run the engine; names the cause and the fix.
    """
    if settings.backend.name != "auto":
        return settings
    gpus = settings.backend.gpus
    if auto.resolve(settings.engine.name) == "docker":
        return settings.model_copy(update={"backend": DockerBackendSettings(name="docker", gpus=gpus)})
    return settings.model_copy(update={"backend": LocalBackendSettings(name="local", gpus=gpus)})


def create_engine(settings: Settings) -> Engine:
    """The engine that `settings` name.

    Raises:
        ConfigError: what it needs is missing or wrong in the configuration.
        NotReadyError: where the Docker daemon is cannot be told.
    """
    docker = settings.backend if isinstance(settings.backend, DockerBackendSettings) else None
    if docker and settings.engine.image is None:
        raise ConfigError(f"engine.image: missing; backend=docker needs an image that holds {settings.engine.name}")
    if docker and docker.model_cache is None and settings.engine.name != "llamacpp" and docker_connection.elsewhere():
        raise ConfigError(
            "backend.model_cache: missing; the Docker daemon runs on another host: name the hub cache there, which holds the model"
        )
    match settings.engine:
        case LlamaCppSettings() as engine:
            return LlamaCpp(
                engine.model,
                engine.args,
                image=engine.image if docker else None,
                executable=engine.executable,
                tokenizer=engine.tokenizer,
                ready_timeout_s=engine.ready_timeout_s,
            )
        case engine:
            kind = Sglang if engine.name == "sglang" else Vllm
            return kind(
                engine.model,
                engine.args,
                image=engine.image if docker else None,
                version=engine.version,
                executable=engine.executable,
                tokenizer=engine.tokenizer,
                model_cache=docker.model_cache if docker else None,
                ready_timeout_s=engine.ready_timeout_s,
            )


def check_parameters(settings: Settings, engine: Engine) -> None:
    """Refuses a search space with parameters that the engine does not have: not one trial could be launched.

    Raises:
        ConfigError: names the first of them.
    """
    for name in settings.space.parameters:
        if engine.parameters is not None and name not in engine.parameters:
            known = sorted(engine.parameters)
            more = f"known: {', '.join(known)}" if len(known) < LISTED else "for another version of the engine name it: engine.version=..."
            raise ConfigError(f"space.{name}: {engine.name} has no such parameter{nearest(name, known)}; {more}")


def find_gpus(settings: Settings) -> tuple[Gpu, ...] | None:
    """The GPUs that deployments may use; none for an engine that needs none, None where they cannot be seen from here.

    Raises:
        NotReadyError: there is none, or not the one that `backend.gpus` names.
    """
    backend = settings.backend
    if settings.engine.name == "llamacpp" or backend.gpus == ():
        return ()
    if backend.name == "docker" and docker_connection.elsewhere():
        return None
    if host.nvidia_device() is None:
        raise NotReadyError(
            f"backend={backend.name}: engine {settings.engine.name} needs an NVIDIA GPU and this host has none. Run it on a GPU host, use "
            "engine=llamacpp on the CPU, or, with a build of the engine for the CPU, backend.gpus=[]."
        )
    return select(backend.gpus, discover())


def create_backend(settings: Settings, gpus: Sequence[Gpu] | None, on_progress: Callable[[str], None]) -> Backend:
    """The backend that `settings` name.

    Args:
        settings: The experiment.
        gpus: What `find_gpus` found.
        on_progress: Is told, in a line, what takes long before the first trial.
    """
    backend = settings.backend
    if isinstance(backend, DockerBackendSettings):
        named = None if backend.gpus is None else [str(gpu) for gpu in backend.gpus]
        slots = GpuSlots(named if gpus is None else [gpu.uuid for gpu in gpus])
        return Docker(backend, slots, settings.engine.image, on_progress)
    return Local(GpuSlots([gpu.cuda_name for gpu in gpus or ()]))
