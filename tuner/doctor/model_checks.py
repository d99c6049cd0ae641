"""The model of an experiment: whether it is there."""

from __future__ import annotations

from tuner.backend_settings import DockerBackendSettings
from tuner.doctor.hub_checks import hub_model
from tuner.engine_settings import EngineSettings, GpuEngineSettings, LlamaCppSettings
from tuner.engines.base import existing_path
from tuner.engines.random_llama import RandomLlama
from tuner.finding import Finding, failed, ok, skipped
from tuner.ome_settings import OmeBackendSettings
from tuner.settings import Settings

_GB = 10**9
_GGUF_MAGIC = b"GGUF"  # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def on_hub(engine: EngineSettings) -> bool:
    """Whether the model is one of the Hugging Face hub; an id there begins with a letter or digit."""
    return isinstance(engine, GpuEngineSettings) and engine.model[0] not in "/.~" and existing_path(engine.model) is None


def revision(settings: Settings) -> str | None:
    """The branch, tag or commit of the model; None is the default branch."""
    named = settings.engine.args.get("revision")
    return None if named is None else str(named)


def model(settings: Settings, docker_host: str | None) -> Finding:
    """Whether the model can be had; on backend=ome, whose nodes have it, only its configuration and tokenizer are needed here.

    Args:
        settings: The experiment.
        docker_host: The host of the Docker daemon, where it is another: a path means one there.
    """
    name = str(settings.engine.model)
    if isinstance(settings.engine, LlamaCppSettings):
        return _gguf(name)
    on_cluster = isinstance(settings.backend, OmeBackendSettings)
    if on_hub(settings.engine):
        elsewhere = on_cluster or (isinstance(settings.backend, DockerBackendSettings) and settings.backend.model_cache is not None)
        return hub_model(name, revision(settings), weights=not elsewhere)
    path = existing_path(name)
    if path is None and docker_host is not None:
        return skipped(f"{name} on {docker_host}, the host of the Docker daemon, cannot be seen from here")
    if path is None:
        return failed(f"engine.model={name}: no such directory", "give a directory that exists, or a hub id such as org/model")
    if not (path / "config.json").is_file():
        return failed(f"engine.model={name} has no config.json", "give the directory with the model's config.json and weights")
    if on_cluster:
        return ok(f"{path} has the configuration; the weights are those of backend.model")
    size = sum(file.stat().st_size for file in path.iterdir() if file.suffix in _WEIGHTS)
    return ok(f"{path}, {size / _GB:.1f} GB") if size else failed(f"{path} has a config.json but no weights", "copy the weights there too")


def _gguf(name: str) -> Finding:
    if RandomLlama.parse(name):
        return ok(f"{name}: random weights, made on first use")
    path = existing_path(name)
    if path is None or not path.is_file():
        return failed(f"engine.model={name}: no such file", "give the path of a GGUF file, or nano or micro")
    with path.open("rb") as file:
        if file.read(len(_GGUF_MAGIC)) != _GGUF_MAGIC:
            return failed(f"{path} is no GGUF file", "give the path of a GGUF file, or nano or micro")
    return ok(f"{path}, {path.stat().st_size / _GB:.1f} GB")
