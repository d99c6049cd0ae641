"""OME itself: whether its API is served, whether its controller runs, and which version it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from packaging.version import InvalidVersion, Version

from tuner.backends.ome.asking import PATIENCE_S
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import (
    BASE_MODEL,
    CLUSTER_BASE_MODEL,
    CLUSTER_SERVING_RUNTIME,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    SERVING_RUNTIME,
    Object,
    inside,
    name_of,
)

OLDEST, FIRST_UNKNOWN = Version("0.1.5"), Version("2")
LENIENT = Version("1.3.0.dev0")
"""From here on OME deploys a service whose runtime does not declare the model, with a warning."""

KINDS = (INFERENCE_SERVICE, SERVING_RUNTIME, CLUSTER_SERVING_RUNTIME, BASE_MODEL, CLUSTER_BASE_MODEL)
INSTALL = "install OME's charts ome-crd and ome-resources, see docs/kubernetes.md"
_API = INFERENCE_SERVICE.api_version
_FORBIDDEN = 403
_OWN = re.compile(r"(?:^|[-/])ome(?:[-:@]|$)")
"""`ome` as a word of a name or an image; not the end of `prometheus`."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A Deployment of OME.

    Attributes:
        name: Its name.
        ready: Replicas that are ready.
        wanted: Replicas that should be.
        version: By the tag of its image; None where that names none.
    """

    name: str
    ready: int
    wanted: int
    version: Version | None

    @classmethod
    def read(cls, deployment: Object) -> Self:
        """From a Deployment."""
        wanted = inside(deployment, "spec", "replicas")
        versions = [found for image in _images(deployment) if (found := tag_version(image)) is not None]
        return cls(
            name_of(deployment),
            int(inside(deployment, "status", "readyReplicas") or 0),
            1 if wanted is None else int(wanted),
            versions[0] if versions else None,
        )

    @property
    def reconciles(self) -> bool:
        """Whether it is the one that makes servers of InferenceServices, by the name that OME's manifests and charts give it."""
        return self.name == "ome-controller-manager"


def controllers(cluster: Cluster, namespace: str) -> list[Controller]:
    """OME's Deployments in its namespace, the one that makes servers first.

    Raises:
        ApiError: there is no answer.
    """
    found, _ = Cluster(cluster.client, namespace, cluster.title).list(DEPLOYMENT, patience_s=PATIENCE_S)
    own = [Controller.read(each) for each in found if any(_OWN.search(text) for text in (name_of(each), *_images(each)))]
    return sorted(own, key=lambda controller: not controller.reconciles)


def version(cluster: Cluster, namespace: str) -> Version | None:
    """The version of OME; None where nobody can tell."""
    try:
        return next((found.version for found in controllers(cluster, namespace) if found.version is not None), None)
    except ApiError:
        return None


def check(cluster: Cluster, namespace: str) -> Finding:
    """Whether OME is installed, runs, and is of a version that tuner knows.

    Args:
        cluster: Where to look.
        namespace: That of OME's controller.

    Raises:
        ApiError: the cluster does not tell.
    """
    if missing := _api(cluster):
        return missing
    try:
        found = controllers(cluster, namespace)
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
        return skipped(f"{_API} is served; whether OME's controller runs in namespace {namespace} may not be seen by this user")
    if not found:
        return warning(
            f"{_API} is served, but there is no Deployment of OME in namespace {namespace}",
            "name the namespace of ome-controller-manager in backend.ome_namespace; without a controller no server ever starts",
        )
    told = ", ".join(f"{each.name} {each.ready}/{each.wanted}" for each in found)
    main = found[0]
    seen = f"{_API} is served, OME {main.version or 'of an unknown version'} in namespace {namespace}: {told} ready"
    look = f"`kubectl -n {namespace} get pods` and their logs tell why"
    if main.reconciles and not main.ready:
        return failed(seen, f"{look}; without a controller no server ever starts")
    if any(each.ready < each.wanted for each in found):
        return warning(seen, look)
    return _known(main.version, seen)


def _api(cluster: Cluster) -> Finding | None:
    """What of OME's API is missing."""
    try:
        served = {entry.get("name") for entry in cluster.ask(f"/apis/{_API}").get("resources") or ()}
    except ApiError as error:
        if error.status != 404:
            raise
        if versions := _versions(cluster):
            return failed(f"this OME serves ome.io/{', ome.io/'.join(versions)}, not {_API}", "install a release of OME from 0.1.5 to 1.x")
        return failed(f"OME is not installed: the cluster does not serve {_API}", INSTALL)
    if lacking := [resource.kind for resource in KINDS if resource.plural not in served]:
        return failed(f"{_API} is served without {', '.join(lacking)}", "install the chart ome-crd of the same version as ome-resources")
    return None


def _versions(cluster: Cluster) -> Sequence[str]:
    try:
        return [str(entry.get("version")) for entry in cluster.ask("/apis/ome.io").get("versions") or ()]
    except ApiError:
        return []


def _known(found: Version | None, seen: str) -> Finding:
    if found is not None and found < OLDEST:
        return warning(f"{seen}; tuner knows {OLDEST} to 1.x", "update OME: older ones write the command lines of runtimes differently")
    if found is not None and found >= FIRST_UNKNOWN:
        return warning(f"{seen}; tuner knows {OLDEST} to 1.x", "try a single trial first: trials=1")
    return ok(seen)


def _images(deployment: Object) -> list[str]:
    containers = inside(deployment, "spec", "template", "spec", "containers") or ()
    return [str(container.get("image") or "") for container in containers]


def tag_version(image: str) -> Version | None:
    """The version that the tag of an image names, as `v0.1.5` in `ghcr.io/sgl-project/ome-manager:v0.1.5`."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    try:
        return Version(tag)
    except InvalidVersion:
        return None
