"""What every run needs of this host: packages, the engine's program, disk, a port, limits."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tuner.backend_settings import DockerBackendSettings
from tuner.backends import docker_request
from tuner.backends.docker_connection import is_loopback
from tuner.backends.pid_file import default_folder, is_private
from tuner.backends.port import reserve_port
from tuner.benchmark.client import genai_bench_version
from tuner.engine_settings import LlamaCppSettings, ReplaySettings
from tuner.engines.llamacpp import PACKAGES
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.settings import Settings

STUDY_GB = 1
"""A trial's log and raw results take some megabytes."""
PULL_GB = 40
"""An image of SGLang or vLLM has 11 to 13 GB packed (sgl-project/sglang #3673, vllm-project/vllm #27154); Docker unpacks it beside that."""
CONTAINERS_GB = 5
"""For the logs of servers, which Docker keeps until a trial ends."""
NCCL_SHARED_GIB = 1
"""What NCCL's troubleshooting guide gives containers: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"""

_GB, _GIB = 10**9, 2**30
_OTHER_FILES = 256
"""Open files of a load generator beside one connection for each user, generously."""
_PROBE_S = 20.0
_HAS_MODULE = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def packages() -> Finding:
    """Whether all that tuner needs is installed, in versions that it knows. genai-bench is found, not imported: that takes seconds."""
    wrong = [] if find_spec("genai_bench") else ["genai-bench is missing"]
    try:
        requirements = [Requirement(line) for line in metadata.requires("tuner") or ()]
        allowed = metadata.metadata("tuner")["Requires-Python"]
    except metadata.PackageNotFoundError:  # run from its sources
        requirements, allowed = [], ""
    if not SpecifierSet(allowed).contains(platform.python_version(), prereleases=True):
        wrong.append(f"tuner is for Python {allowed}")
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            wrong += _wrong(requirement)
    python = f"Python {platform.python_version()}"
    if wrong:
        return failed(f"{python}: {', '.join(wrong)}", "install tuner anew: `pip install -e .` in its folder, or `make setup`")
    return ok(f"{python}, genai-bench {genai_bench_version()}")


def _wrong(requirement: Requirement) -> list[str]:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [f"{requirement.name} is missing"]
    fits = requirement.specifier.contains(version, prereleases=True)
    return [] if fits else [f"{requirement.name} {version} instead of {requirement.specifier}"]


def engine(settings: Settings) -> Finding:
    """Whether this host has what the engine needs of it: the program for backend=local, and the packages that make llamacpp's models."""
    engine = settings.engine
    if isinstance(engine, LlamaCppSettings):
        if missing := [package for package in PACKAGES if find_spec(package) is None]:
            return failed(f"Python packages are missing: {', '.join(missing)}", "pip install 'tuner[llamacpp]'")
        if engine.executable is None or isinstance(settings.backend, DockerBackendSettings):
            return ok(f"xllamacpp {metadata.version('xllamacpp')}")
    assert not isinstance(engine, ReplaySettings), "nothing is run"
    return _program(engine.executable or ())


def _program(words: Sequence[str]) -> Finding:
    fix = "activate the environment that has it, or set engine.executable"
    program = shutil.which(words[0])
    if program is None:
        return failed(f"there is no program {words[0]!r} on the PATH", fix)
    if words[1:2] != ("-m",):
        return ok(program)
    module = words[2].partition(".")[0]
    probe = [program, "-c", _HAS_MODULE, module]
    found = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    return ok(f"{module} of {program}") if found else failed(f"{program} has no module {module}", fix)


def environment(backend: DockerBackendSettings) -> Finding:
    """Whether this environment has the variables that containers are to take from it. Their values are not shown."""
    docker_request.environment({}, backend)  # raises for one that is missing
    taken = [name for name, value in backend.environment.items() if value is None]
    return ok(f"{', '.join(taken)} will be taken from this environment" if taken else "containers take no variable from this environment")


def state_folder() -> Finding:
    """Whether the backend local can write down which servers it starts."""
    folder = default_folder()
    place = _existing(folder.absolute())
    if not os.access(place, os.W_OK | os.X_OK):
        return failed(f"pid files cannot be written to {folder}: {place} is not this user's", "set XDG_STATE_HOME")
    if place == folder.absolute() and not is_private(folder):
        return failed(f"{folder}, for pid files, is not for you alone", f"chmod 700 {folder}, or set XDG_STATE_HOME")
    return ok(f"{folder} is for pid files")


def disk(settings: Settings, docker_root: str | None, must_pull: bool) -> Finding:
    """Whether results can be written, and whether there is room for them, for images and for containers.

    Args:
        settings: The experiment.
        docker_root: Where a Docker daemon on this host keeps its data.
        must_pull: Whether it lacks the experiment's image.
    """
    results = _existing(Path(settings.folder).absolute())
    if not os.access(results, os.W_OK | os.X_OK):
        return failed(f"{results} cannot be written by this user", "set folder to one that you may write to")
    places = [("results", Path(settings.folder), STUDY_GB)]
    if docker_root is not None:
        places.append(("the image", Path(docker_root), PULL_GB) if must_pull else ("containers", Path(docker_root), CONTAINERS_GB))
    seen, short = [], []
    for purpose, path, least in places:
        free = shutil.disk_usage(_existing(path.absolute())).free / _GB
        seen.append(f"{free:.0f} GB free for {purpose} in {path}")
        if free < least:
            short.append(f"at least {least} GB for {purpose}")
    return warning(", ".join(seen), f"make room, {' and '.join(short)}") if short else ok(", ".join(seen))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def port(settings: Settings, docker_host: str | None) -> Finding:
    """Whether a server can have a port."""
    backend = settings.backend
    address = backend.bind if isinstance(backend, DockerBackendSettings) else "127.0.0.1"
    if docker_host is not None and is_loopback(address):
        seen = f"servers on {docker_host}, the host of the Docker daemon, cannot be reached at backend.bind={address}"
        return failed(seen, f"set backend.bind to an address of {docker_host} in a network that you trust: servers have no login")
    if docker_host is not None:
        return skipped(f"those of {docker_host}, the host of the Docker daemon, cannot be bound from here")
    if ":" in address:
        return skipped(f"backend.bind={address} is an IPv6 address; Docker will tell")
    try:
        with reserve_port(address) as reservation:
            return ok(f"{address}:{reservation.getsockname()[1]} and others can be had")
    except OSError as error:
        fix = (
            "backend.bind must be an address of this host" if address != "127.0.0.1" else "end programs that hold ports, raise `ulimit -n`"
        )
        return failed(f"no port of {address} can be had ({error.strerror})", fix)


def limits(settings: Settings) -> Finding:
    """Whether the load generator may open a connection for each user."""
    users = max(settings.workload.levels)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = users + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        may = "" if hard == resource.RLIM_INFINITY or hard >= needed else f", which needs a hard limit above {hard}: see limits.conf(5)"
        return warning(f"a process may open {soft} files, {users} users need {needed}", f"`ulimit -n {needed}`{may}")
    return ok(f"a process may open {'any number of' if soft == resource.RLIM_INFINITY else soft} files, enough for {users} users")


def shared_memory(settings: Settings) -> Finding:
    """Whether NCCL, which connects the GPUs of one server, has the shared memory it needs."""
    backend = settings.backend
    if isinstance(backend, DockerBackendSettings) and backend.ipc == "private":
        size, where, fix = _bytes(backend.shm_size), "a container", f"raise backend.shm_size={backend.shm_size}"
    else:
        shm = os.statvfs("/dev/shm")
        size, where, fix = shm.f_frsize * shm.f_blocks, "this host", "`sudo mount -o remount,size=32g /dev/shm`"
    seen = f"/dev/shm of {where} has {size / _GIB:.1f} GiB"
    return ok(seen) if size >= NCCL_SHARED_GIB * _GIB else warning(f"{seen}, NCCL wants {NCCL_SHARED_GIB} for several GPUs", fix)


def _bytes(size: str) -> int:
    return int(size[:-1]) * _UNITS[size[-1].lower()] if size[-1].lower() in _UNITS else int(size)
