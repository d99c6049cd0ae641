"""Whether tuner or its Docker daemon runs in a container or a cluster's node, where a GPU of the host is seen only if it is passed on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.finding import Finding, failed, ok, warning

_POD = "request nvidia.com/gpu in the pod's resources.limits, and use backend=local in an image that holds the engine"
_NODES = {"provider=docker", "provider=podman"}


@dataclass(frozen=True, slots=True)
class Shell:
    """Something that stands between here and the host.

    Attributes:
        what: Who runs in what.
        fix: How a GPU gets through it.
    """

    what: str
    fix: str


def nesting(tuner: list[Shell], daemon: list[Shell], gpu_seen: bool, daemon_outside: bool) -> Finding:
    """Names the environment where it keeps a GPU away.

    Args:
        tuner: What `of_tuner` found.
        daemon: What `of_daemon` found.
        gpu_seen: Whether a GPU can be used from here nevertheless.
        daemon_outside: Whether the Docker daemon of this host runs outside of what tuner runs in.
    """
    shells = [*tuner, *daemon]
    what = ", ".join(shell.what for shell in shells)
    if not shells:
        return ok("neither tuner nor the Docker daemon runs in a container or a cluster's node")
    if not gpu_seen:
        return failed(f"{what}, and no GPU is passed on", "; ".join(shell.fix for shell in shells))
    if tuner and daemon_outside:
        fix = "start tuner's container with `--network=host`, and mount models and the Hugging Face cache in it where the host has them"
        return warning(f"{what}, the Docker daemon outside of it: 127.0.0.1 and paths mean other things there", fix)
    return ok(f"{what}; the GPU is passed on")


def of_tuner(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Iterator[Shell]:
    """What this process runs in.

    Signs: Kubernetes sets KUBERNETES_SERVICE_HOST in every pod (https://kubernetes.io/docs/concepts/services-networking/service/). kind
    mounts a product name of its own over that of the machine, in nodes and in pods (kubernetes-sigs/kind,
    images/base/files/kind/bin/mount-product-files.sh). Docker puts /.dockerenv into a container's root (moby, daemon/initlayer), podman
    /run/.containerenv (podman-run(1)).
    """
    try:
        of_kind = (root / "sys/class/dmi/id/product_name").read_text().strip() == "kind"
    except OSError:
        of_kind = False
    if "KUBERNETES_SERVICE_HOST" in environ and not of_kind:
        yield Shell("tuner runs in a pod of Kubernetes", _POD)
    elif of_kind:
        fix = f"make the cluster with nvkind (https://github.com/NVIDIA/nvkind), whose nodes have GPUs; {_POD}"
        yield Shell("tuner runs in a kind cluster, whose nodes are containers (Kubernetes in Docker)", fix)
    elif mark := next((mark for mark in (".dockerenv", "run/.containerenv") if (root / mark).exists()), None):
        yield Shell(
            f"tuner runs in a container (there is /{mark})", "start that container with `--gpus all`, or run tuner on the host itself"
        )


def of_daemon(info: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Iterator[Shell]:
    """What the Docker daemon runs in.

    Signs: `minikube docker-env` exports MINIKUBE_ACTIVE_DOCKERD. Minikube starts the daemon of its nodes with its driver's name as label
    `provider` (kubernetes/minikube, pkg/provision/ubuntu.go and buildroot.go); so did docker-machine, which had no such driver.
    Minikube's virtual machines run Buildroot (its deploy/iso). A daemon that finds itself in a container says so in its system's name
    (moby, daemon/info.go), which is no sure sign: cgroup namespaces hide it.

    Args:
        info: The answer to `docker info`.
        environ: The environment.
    """
    node, system = str(info.get("Name", "")), str(info.get("OperatingSystem", ""))
    if profile := environ.get("MINIKUBE_ACTIVE_DOCKERD"):
        yield _minikube(profile)
    elif _NODES.intersection(info.get("Labels") or ()) or system.startswith("Buildroot"):
        yield _minikube(node)
    elif system == "Docker Desktop":
        fix = "on Linux use Docker Engine (`docker context use default`), on Windows its WSL 2 backend: https://docs.docker.com/desktop/features/gpu/"
        yield Shell("the Docker daemon runs in the virtual machine of Docker Desktop", fix)
    elif system.endswith("(containerized)"):
        fix = (
            "start that container with `--gpus all` and the NVIDIA Container Toolkit inside, or use the host's daemon by mounting its "
            "/var/run/docker.sock"
        )
        yield Shell("the Docker daemon runs in a container itself (Docker in Docker)", fix)


def _minikube(node: str) -> Shell:
    # https://minikube.sigs.k8s.io/docs/tutorials/nvidia/
    fix = (
        "`eval $(minikube docker-env -u)` goes back to the host's own Docker; or start Minikube so that it has the GPU: "
        "`minikube start --driver=none`, or `minikube start --driver=docker --container-runtime=docker --gpus=all`"
    )
    return Shell(f"the Docker daemon is that of Minikube's node {node}", fix)
