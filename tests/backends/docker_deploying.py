"""What the tests of the backend `docker` share: the backend, its launch specs, and what is left of a test."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import docker

from tests.conformance.backend import PATIENCE_S, answers
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Place
from tuner.backends.docker import Docker
from tuner.gpus import GpuSlots
from tuner.launch import LaunchSpec


def mark(folder: Path) -> str:
    """A host name for the containers of one test, by which they are told from those of others."""
    return f"test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def settings(folder: Path, /, **changes: Any) -> DockerBackendSettings:
    container = {"hostname": mark(folder)} | changes.pop("container", {})
    return DockerBackendSettings.model_validate({"name": "docker", "stop_grace_s": 0.3, "pull": "never", "container": container} | changes)


def backend_in(folder: Path, image: str | None = None, slots: GpuSlots | None = None, /, **changes: Any) -> Docker:
    return Docker(settings(folder, **changes), slots or GpuSlots(()), image)


def stub_spec(image: str, mode: str, gpus: int = 0, **env: str) -> LaunchSpec:
    return LaunchSpec(("python3", "/srv/stub_server.py", mode, "{host}", "{port}"), "stub", env=env, image=image, gpus=gpus)


def containers_of(daemon: docker.DockerClient, folder: Path) -> list[docker.models.containers.Container]:
    """All that exist of a test, in whatever state."""
    found = []
    for listed in daemon.api.containers(all=True):
        try:
            container = daemon.containers.get(listed["Id"])
        except docker.errors.NotFound:
            continue
        if container.attrs["Config"]["Hostname"] == mark(folder):
            found.append(container)
    return found


def own(folder: Path, image: str, mode: str, stage: str) -> None:
    """What a process does that deploys, tells when it has come to a stage, and sleeps there until it is killed."""

    def arrived() -> None:
        print(stage, flush=True)  # noqa: T201
        if stage == "created":
            time.sleep(3600)

    trial = folder / "foreign"
    trial.mkdir()
    start = docker.models.containers.Container.start

    def start_at_stage(container: docker.models.containers.Container) -> None:
        if stage in {"created", "starting"}:
            arrived()
        start(container)

    docker.models.containers.Container.start = start_at_stage
    deployment = backend_in(folder, image, None, stop_grace_s=600.0).deploy(stub_spec(image, mode), Place("some-study", 9, trial))
    if stage == "loading":
        arrived()
    deployment.wait_ready(answers, PATIENCE_S)
    if stage == "stopping":
        arrived()
        deployment.close()
    if stage == "serving":
        print(deployment.endpoint.url, flush=True)  # noqa: T201
    time.sleep(3600)


if __name__ == "__main__":
    own(Path(sys.argv[1]), *sys.argv[2:])
