"""Which checks an experiment needs, each guarded: none may raise, hang or tell a secret."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from tuner import host
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.ome.reach import access
from tuner.doctor import gpu_checks, host_checks, hub_checks, model_checks, nesting, servers
from tuner.doctor.docker_checks import DockerChecks
from tuner.doctor.ome_checks import cluster_checks
from tuner.doctor.report import Report
from tuner.doctor.storage_check import storage
from tuner.engine_settings import ReplaySettings
from tuner.errors import ConfigError, NotReadyError, TunerError
from tuner.finding import Finding, failed, ok, warning
from tuner.ome_settings import OmeBackendSettings
from tuner.parties import check_parameters, create_engine, gpus_needed, with_backend
from tuner.section import SECRET
from tuner.settings import Settings

LIMIT_S = 45.0
"""Seconds after which a check that hangs (a dead network drive, a GPU that does not answer) is given up. Most take well under one."""

_SHORTEST_SECRET = 6
_SECRETS = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)|(?<=Bearer )\S+|\bhf_[A-Za-z0-9]{20,}")
"""User and password in an address, a token in a header, a token of the Hugging Face hub."""

Check = Callable[[], Finding]


def examine(settings: Settings) -> Report:
    """Makes the checks that the experiment needs.

    Args:
        settings: The experiment. `backend=auto` is examined as what it stands for here, or as docker where it cannot stand for anything.
    """
    experiment, settings = _decide(settings)
    findings = {"experiment": experiment}
    with DockerChecks(settings) as docker:
        backend = settings.backend
        if isinstance(settings.engine, ReplaySettings):
            checks = _of_replay(settings)
        else:
            checks = _on_cluster(settings, backend) if isinstance(backend, OmeBackendSettings) else _checks(settings, docker)
        for name, check in checks:
            findings[name] = _made(check)
    return Report(settings.study_name, settings.engine.name, settings.backend.name, findings)


def _decide(settings: Settings) -> tuple[Finding, Settings]:
    """What would run here."""
    engine = settings.engine
    try:
        decided = with_backend(settings)
    except (ConfigError, NotReadyError) as error:
        if settings.backend.name != "auto":
            return Finding.failure(error), settings
        assumed = DockerBackendSettings(name="docker", gpus=settings.backend.gpus)
        return Finding.failure(error), settings.model_copy(update={"backend": assumed})
    auto = ", by backend=auto" if settings.backend.name == "auto" else ""
    seen = f"{engine.name} with {engine.model} on backend {decided.backend.name}{auto}"
    if settings.stand_in_for is None:
        return ok(seen), decided
    stands = f"{seen}: the CPU stand-in for {settings.stand_in_for}"
    if host.nvidia_device() is not None:
        return ok(stands), decided
    what = f"+experiment={settings.stand_in_for}"
    fix = f"for the experiment itself use a GPU host; `tuner doctor {what} backend=docker` tells what this host lacks"
    return warning(f"{stands}, because this host has no NVIDIA device", fix), decided


def _checks(settings: Settings, docker: DockerChecks) -> Iterator[tuple[str, Check]]:
    backend = settings.backend
    in_container = isinstance(backend, DockerBackendSettings)
    fewest, most = gpus_needed(settings)
    yield "configuration", lambda: _configuration(settings)
    yield "packages", host_checks.packages
    if not in_container or settings.engine.name == "llamacpp":
        yield "engine", lambda: host_checks.engine(settings)
    if isinstance(backend, DockerBackendSettings):
        yield "docker", docker.daemon
        yield "docker_api", docker.api
        yield "environment", partial(host_checks.environment, backend)
    else:
        yield "state_folder", host_checks.state_folder
    if fewest:
        yield "gpus", lambda: gpu_checks.gpus(settings, fewest, docker.elsewhere)
        if in_container:
            yield "docker_gpus", docker.gpus
        yield "nesting", lambda: _nesting(docker if in_container else None)
    if in_container:
        yield "image", docker.image
        if fewest:
            yield "container_gpu", lambda: docker.container_gpu(fewest)
    yield "model", lambda: model_checks.model(settings, docker.elsewhere)
    if model_checks.on_hub(settings.engine):
        yield "token", lambda: hub_checks.token(str(settings.engine.model), model_checks.revision(settings))
    yield "disk", lambda: host_checks.disk(settings, docker.root, docker.must_pull)
    yield "port", lambda: host_checks.port(settings, docker.elsewhere)
    yield "limits", lambda: host_checks.limits(settings)
    if most > 1:
        yield "shared_memory", lambda: host_checks.shared_memory(settings)
    yield "storage", lambda: storage(settings.storage.url)
    yield "leftovers", lambda: servers.leftovers([*servers.processes(), *docker.servers()])
    yield "other_runs", lambda: servers.other_runs([*servers.processes(), *docker.servers()])


def _of_replay(settings: Settings) -> Iterator[tuple[str, Check]]:
    """Nothing is deployed: only the table and what is kept matter."""
    yield "configuration", lambda: _configuration(settings)
    yield "disk", lambda: host_checks.disk(settings, None, must_pull=False)
    yield "storage", lambda: storage(settings.storage.url)


def _on_cluster(settings: Settings, backend: OmeBackendSettings) -> Iterator[tuple[str, Check]]:
    """Servers run elsewhere: of this host only what measures and keeps matters."""
    yield "configuration", lambda: _configuration(settings)
    yield "packages", host_checks.packages
    yield from cluster_checks(settings, backend, *gpus_needed(settings))
    yield "tokenizer", lambda: model_checks.model(settings, None)
    if model_checks.on_hub(settings.engine):
        yield "token", lambda: hub_checks.token(str(settings.engine.model), model_checks.revision(settings))
    yield "disk", lambda: host_checks.disk(settings, None, must_pull=False)
    if access(backend) == "port_forward":
        yield "port", lambda: host_checks.port(settings, None)
    if settings.benchmark.mode != "job":
        yield "limits", lambda: host_checks.limits(settings)
    yield "storage", lambda: storage(settings.storage.url)


def _configuration(settings: Settings) -> Finding:
    try:
        check_parameters(settings, create_engine(settings))
    except ConfigError as error:
        return failed(str(error), "change the configuration; a run would end with exit code 2")
    return ok(f"{settings.engine.name} takes the configuration")


def _nesting(docker: DockerChecks | None) -> Finding:
    here = host.nvidia_device() is not None
    tuner = [*nesting.of_tuner()]
    if docker is None:
        return nesting.nesting(tuner, [], here, daemon_outside=False)
    gpu_seen = docker.sees_gpus and (here or docker.elsewhere is not None)
    outside = docker.elsewhere is None and docker.info.get("Name") != socket.gethostname()
    return nesting.nesting(tuner, [*nesting.of_daemon(docker.info)], gpu_seen, outside)


def _made(check: Check) -> Finding:
    answers: SimpleQueue[Finding] = SimpleQueue()

    def make() -> None:
        try:
            answers.put(check())
        except TunerError as error:
            answers.put(Finding.failure(error))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            answers.put(failed(f"this check itself failed with {text}", "please report this as a bug of tuner"))

    Thread(target=make, name="tuner doctor", daemon=True).start()
    try:
        finding = answers.get(timeout=LIMIT_S)
    except Empty:
        return failed(f"no answer within {LIMIT_S:g} s", "find out what hangs: a network drive, the GPU driver, or the Docker daemon")
    return replace(finding, seen=_redacted(finding.seen), fix=_redacted(finding.fix))


def _redacted(text: str) -> str:
    """`text` in one line, without what reads like a secret and without the values of variables that hold one."""
    text = _SECRETS.sub("<secret>", " ".join(text.split()))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and SECRET.search(name):
            text = text.replace(value, "<secret>")
    return text
