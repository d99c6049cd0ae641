"""From a Docker daemon's answer to the kind of failure, with the cause and the remedy in one line."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from docker.errors import APIError

from tuner.backends.docker_connection import is_away
from tuner.backends.docker_gpus import REMEDY as GPU_REMEDY
from tuner.errors import Infeasible, Systemic, Transient, TrialFailure

MAX_QUOTE = 300
"""Characters of the daemon's answer that go into a reason."""

MEASURED = "Docker 20.10.24"


@dataclass(frozen=True, slots=True)
class DaemonText:
    """A text that Docker daemons answer with.

    Attributes:
        text: Part of the answer, compared without regard to case.
        failure: Whose fault it is.
        cause: What went wrong; empty where the answer itself is quoted. `{image}` stands for the image.
        remedy: What to do; empty where another try is all.
        source: Where the text comes from: the daemon that answered so, or the thread that shows it.
    """

    text: str
    failure: type[Infeasible] | type[Transient] | type[Systemic]
    cause: str
    remedy: str
    source: str


_CLI = "nvidia-container-cli:"
_LOGIN = "check engine.image, and `docker login` to its registry if it is private"
_NETWORK = "check the network of the Docker host and its proxy settings; `docker pull {image}` must work there"

DAEMON_TEXTS = (
    # GPUs
    DaemonText("could not select device driver", Systemic, "Docker cannot give GPUs to containers", GPU_REMEDY, MEASURED),
    DaemonText("Unknown runtime specified", Systemic, "", GPU_REMEDY, MEASURED),
    DaemonText("no known GPU vendor found", Systemic, "Docker cannot give GPUs to containers", GPU_REMEDY, "ShaneIsrael/fireshare #689"),
    DaemonText("unresolvable CDI devices", Systemic, "", "write the specification anew: `nvidia-ctk cdi generate`", "moby/moby #47633"),
    DaemonText(
        f"{_CLI} requirement error: unsatisfied condition",
        Systemic,
        "",
        "engine.image={image} needs a newer NVIDIA driver: update it, or choose an image for an older CUDA",
        "NVIDIA/nvidia-container-toolkit #152",
    ),
    DaemonText(
        "driver/library version mismatch",
        Systemic,
        "the NVIDIA driver was updated while it was loaded",
        "reboot the Docker host",
        "NVIDIA/nvidia-container-toolkit #394",
    ),
    DaemonText(
        "nvml error: driver not loaded",
        Systemic,
        "the NVIDIA driver is not loaded",
        "load or install it until `nvidia-smi` lists the GPU",
        "NVIDIA/nvidia-docker #1393",
    ),
    DaemonText(
        "load library failed: libnvidia-ml",
        Systemic,
        "the NVIDIA driver is not installed where Docker looks for it",
        "install it until `nvidia-smi` lists the GPU; a Docker from snap does not see it",
        "docker/for-win #13835",
    ),
    DaemonText("unknown device", Systemic, "", "check backend.gpus; `nvidia-smi -L` lists the GPUs", "NVIDIA/nvidia-docker #1283"),
    DaemonText(
        "cgroup subsystem devices not found",
        Systemic,
        "",
        "update the NVIDIA Container Toolkit, which is too old for cgroup v2",
        "NVIDIA/nvidia-docker #1660",
    ),
    DaemonText(_CLI, Systemic, "", "see whether `docker run --rm --gpus all {image} nvidia-smi` works", "prefix of all its errors"),
    # images
    DaemonText("invalid reference format", Systemic, "", "check engine.image={image}", MEASURED),
    DaemonText("no such image", Systemic, "the image {image} is not on the Docker host", "pull it, or set backend.pull=missing", MEASURED),
    DaemonText("pull access denied", Systemic, "", _LOGIN, "wukongdaily/DockerTarBuilder #11"),
    DaemonText("toomanyrequests", Transient, "", "`docker login` raises the limit; or wait", "docker/hub-feedback #2429"),
    DaemonText("manifest unknown", Systemic, "the registry has no {image}", "check the tag in engine.image", MEASURED),
    DaemonText("no matching manifest", Systemic, "", "choose an image for the Docker host's processor", "docker-library/mysql #698"),
    DaemonText("unauthorized", Systemic, "", _LOGIN, "the registry's error code, distribution/distribution errcode"),
    DaemonText("requested access to the resource is denied", Systemic, "", _LOGIN, "the same"),
    DaemonText("permission denied", Systemic, "", "the Docker daemon may not do this on its host", "errno EACCES"),
    DaemonText("denied", Systemic, "the registry refuses to give {image}", _LOGIN, f"{MEASURED}, of a registry's answer 403"),
    DaemonText("no such host", Transient, "the registry of {image} cannot be found", _NETWORK, MEASURED),
    DaemonText("server misbehaving", Transient, "the registry of {image} cannot be found", _NETWORK, "Go, net/dnsclient_unix.go"),
    DaemonText("connection refused", Transient, "the registry of {image} does not answer", _NETWORK, MEASURED),
    DaemonText("i/o timeout", Transient, "the registry of {image} does not answer", _NETWORK, "Go, os.ErrDeadlineExceeded"),
    DaemonText("TLS handshake timeout", Transient, "the registry of {image} does not answer", _NETWORK, "Go, net/http"),
    DaemonText("Client.Timeout exceeded", Transient, "the registry of {image} does not answer", _NETWORK, "Go, net/http"),
    DaemonText("request canceled while waiting for connection", Transient, "the registry of {image} does not answer", _NETWORK, MEASURED),
    DaemonText("unexpected EOF", Transient, "the download of {image} broke off", _NETWORK, "Go, io.ErrUnexpectedEOF"),
    DaemonText("x509:", Systemic, "", "make the registry's certificate known to the Docker host", "Go, crypto/x509"),
    DaemonText("HTTP response to HTTPS client", Systemic, "", "add the registry to the daemon's insecure-registries", "Go, net/http"),
    # the host
    DaemonText("no space left on device", Systemic, "the disk of the Docker host is full", "see `docker system df`", "moby/moby #32811"),
    DaemonText("Minimum memory limit", Systemic, "", "raise backend.memory", MEASURED),
    DaemonText("Range of CPUs", Systemic, "", "lower backend.cpus", MEASURED),
    DaemonText("unable to apply caps", Systemic, "", "the Docker host does not allow this: change backend.container", MEASURED),
    DaemonText("can't get final child's PID", Systemic, "", "the Docker host does not allow this: change backend.container", MEASURED),
    DaemonText("port is already allocated", Transient, "another container took the port", "", MEASURED),
    DaemonText("address already in use", Transient, "another process took the port", "", MEASURED),
    DaemonText("cannot assign requested address", Systemic, "", "backend.bind must be an address of the Docker host", MEASURED),
    DaemonText("is already in use by container", Transient, "the container's name is taken", "", MEASURED),
    DaemonText('exec: "docker-init"', Systemic, "", "install docker-init (Debian: tini) on the Docker host", "docker/for-win #695"),
    DaemonText("could not find bridge", Systemic, "", "restart Docker: its network bridge was deleted", MEASURED),
)
"""From the specific to the generic: the first row that matches decides."""

# One answer holds one of these, and the number or path says which key of the configuration is meant.
_RLIMIT = re.compile(r"setting rlimit type (\d+)")  # runc, seen with Docker 20.10.24
_SOURCE = re.compile(r"bind source path does not exist: (.+)")  # moby, seen with Docker 20.10.24
_WRAPPING = re.compile(
    r"^(?:failed to create task for container: |failed to create shim task: |OCI runtime create failed: |runc create failed: "
    r"|unable to start container process: |error during container init: )+"
)
# By number, on the daemon's host: Linux, include/uapi/asm-generic/resource.h
_LIMITS = (
    *("cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile"),
    *("memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"),
)


def explain(error: BaseException | str, image: str, own_mounts: Collection[str] = (), chosen_by_daemon: int = 0) -> TrialFailure:
    """The failure that an error of the SDK, or a text in the middle of a pull, means.

    An answer that matches nothing stops the study if the daemon calls it the client's fault (4xx): every other trial would ask the same.

    Args:
        error: What was raised, or the daemon's text.
        image: The image in use.
        own_mounts: The sources in `backend.mounts`, to tell them from the engine's.
        chosen_by_daemon: How many GPUs the daemon was asked to choose, 0 where they were named.
    """
    if isinstance(error, BaseException) and is_away(error):
        return Transient(f"the Docker daemon went away ({type(error).__name__}))")
    text = daemon_text(error)
    if found := _RLIMIT.search(text):
        return Systemic(f"the Docker host does not allow backend.ulimits.{_LIMITS[int(found[1])]}: lower it, or leave it out")
    if found := _SOURCE.search(text):
        key = "backend.mounts" if found[1] in own_mounts else "engine.model and backend.model_cache"
        return Systemic(f"{found[1]} does not exist on the Docker host, or Docker may not see it: check {key}")
    if chosen_by_daemon > 1 and "unknown device" in text:
        return Infeasible(f"the Docker host has no {chosen_by_daemon} GPUs")
    quote = text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"
    for row in DAEMON_TEXTS:
        if row.text.lower() in text.lower():
            cause, remedy = ((part.replace("{image}", image)) for part in (row.cause, row.remedy))
            return row.failure(": ".join(filter(None, (cause or quote, remedy))), text)
    if isinstance(error, APIError) and error.is_server_error():
        return Transient(f"the Docker daemon failed: {quote}", text)
    return Systemic(f"the Docker daemon refuses: {quote}: see the keys of backend", text)


def daemon_text(error: BaseException | str) -> str:
    """The daemon's own words in one line, without what surrounds every error of a start."""
    words = (error.explanation if isinstance(error, APIError) else None) or str(error)
    return _WRAPPING.sub("", " ".join(str(words).split()))
