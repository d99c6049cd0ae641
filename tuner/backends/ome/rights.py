"""What tuner asks a cluster for, and whether this user may: the one table that `deploy/` and the preflight share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from tuner.backends.ome.reach import access
from tuner.finding import Finding, failed, ok, skipped, warning
from tuner.kube.cluster import Cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import ACCESS_REVIEW, Object, inside
from tuner.ome_settings import OmeBackendSettings

Scope = Literal["namespace", "ome_namespace", "cluster"]
Grant = Literal["base", "port-forward", "free-gpus"]

PORT_FORWARD: Grant = "port-forward"
FREE_GPUS: Grant = "free-gpus"
_AT_ONCE = 8
_FORBIDDEN = 403
_FIX = "bind the roles of deploy/ to this user or service account, see docs/kubernetes.md"


@dataclass(frozen=True, slots=True)
class Right:
    """What may be done with one kind of object.

    Attributes:
        group: API group; empty for the core.
        resource: Plural, with a subresource as in `pods/log`.
        verbs: As in RBAC rules.
        scope: Where: in the namespace of the trials, in OME's own, or in the whole cluster.
        why: What for.
        optional: Whether a study works without it.
        grant: The part of `deploy/` that gives it: the base, or the component of this name.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    scope: Scope
    why: str
    optional: bool = False
    grant: Grant = "base"

    def __str__(self) -> str:
        return f"{', '.join(self.verbs)} {self.resource}{f'.{self.group}' if self.group else ''}"


RIGHTS = (
    Right(
        "ome.io",
        "inferenceservices",
        ("get", "list", "watch", "create", "patch", "delete"),
        "namespace",
        "one for each trial; patched to renew its lease",
    ),
    Right("ome.io", "servingruntimes", ("get", "list"), "namespace", "the command line, image and port of backend.runtime"),
    Right(
        "ome.io",
        "clusterservingruntimes",
        ("get", "list"),
        "cluster",
        "the command line, image and port of a backend.runtime that all namespaces share",
    ),
    Right("ome.io", "basemodels", ("get", "list"), "namespace", "whether backend.model is on a node, and where", optional=True),
    Right(
        "ome.io",
        "clusterbasemodels",
        ("get", "list"),
        "cluster",
        "whether a backend.model that all namespaces share is on a node",
        optional=True,
    ),
    Right("", "pods", ("list", "watch"), "namespace", "how a server starts and ends"),
    Right("", "pods/log", ("get",), "namespace", "server.log of each trial, and why a server ended"),
    Right("", "events", ("list", "watch"), "namespace", "what neither status nor pods tell: quota, scheduling, OME's own errors"),
    Right("apps", "deployments", ("list", "watch"), "namespace", "why a server has no pod"),
    Right(
        "batch",
        "jobs",
        ("get", "list", "create", "delete"),
        "namespace",
        "genai-bench beside the server, for benchmark.mode=job, and its removal by `tuner clean`",
    ),
    Right("", "namespaces", ("get",), "namespace", "whether backend.namespace exists", optional=True),
    Right("", "resourcequotas", ("list",), "namespace", "whether the quota suffices", optional=True),
    Right("kueue.x-k8s.io", "localqueues", ("get",), "namespace", "whether backend.local_queue exists", optional=True),
    Right("apps", "deployments", ("list",), "ome_namespace", "whether OME runs, and which version", optional=True),
    Right("", "nodes", ("list",), "cluster", "which GPUs there are", optional=True),
    Right("", "pods/portforward", ("get", "create"), "namespace", "backend.access=port_forward", grant=PORT_FORWARD),
    Right("", "pods", ("list",), "cluster", "which GPUs are in use", optional=True, grant=FREE_GPUS),
)
"""All that tuner asks for. Nothing else is in `deploy/`; a test compares the two."""


def needed(settings: OmeBackendSettings, jobs: bool) -> tuple[Right, ...]:
    """The rights that a study with these settings makes use of; those of `FREE_GPUS` only make one message better and are left out.

    Args:
        settings: Of the backend.
        jobs: Whether genai-bench runs as Jobs.
    """
    unused = {
        ("ome.io", "basemodels" if settings.model.kind == "ClusterBaseModel" else "clusterbasemodels"),
        ("ome.io", "servingruntimes" if settings.runtime.kind == "ClusterServingRuntime" else "clusterservingruntimes"),
        *([] if jobs else [("batch", "jobs")]),
        *([] if settings.local_queue else [("kueue.x-k8s.io", "localqueues")]),
        *([] if access(settings) == "port_forward" else [("", "pods/portforward")]),
    }
    return tuple(right for right in RIGHTS if (right.group, right.resource) not in unused and right.grant != FREE_GPUS)


def missing(cluster: Cluster, settings: OmeBackendSettings, rights: Iterable[Right]) -> list[Right]:
    """Those of `rights` that this user has not, each with the verbs that are missing.

    Raises:
        ApiError: the cluster does not tell.
    """
    asked = [(right, verb) for right in rights for verb in right.verbs]
    with ThreadPoolExecutor(_AT_ONCE, "access review") as pool:
        allowed = list(pool.map(lambda each: _allowed(cluster, settings, *each), asked))
    refused = [each for each, yes in zip(asked, allowed, strict=True) if not yes]
    return [replace(right, verbs=verbs) for right in rights if (verbs := tuple(verb for other, verb in refused if other is right))]


def check(cluster: Cluster, settings: OmeBackendSettings, jobs: bool) -> Finding:
    """Whether this user has the rights that a study needs.

    Raises:
        ApiError: the cluster does not tell.
    """
    wanted = needed(settings, jobs)
    try:
        lacking = missing(cluster, settings, wanted)
    except ApiError as error:
        if error.status == _FORBIDDEN:
            return skipped(f"this user may not ask for its own rights ({error.message})")
        raise
    if required := [right for right in lacking if not right.optional]:
        return failed(f"this user may not {_told(required, cluster, settings)}", _FIX)
    if lacking:
        reasons = ", ".join(dict.fromkeys(right.why for right in lacking))
        seen = f"this user may not {_told(lacking, cluster, settings)}, so that nobody can tell beforehand: {reasons}"
        return warning(seen, f"a study works without; {_FIX}")
    return ok(f"this user has all {sum(len(right.verbs) for right in wanted)} rights that the study needs in namespace {cluster.namespace}")


def _told(rights: Sequence[Right], cluster: Cluster, settings: OmeBackendSettings) -> str:
    return "; ".join(_by_scope(rights, cluster, settings))


def _by_scope(rights: Sequence[Right], cluster: Cluster, settings: OmeBackendSettings) -> Iterator[str]:
    where: dict[Scope, str] = {
        "namespace": f"in namespace {cluster.namespace}",
        "ome_namespace": f"in namespace {settings.ome_namespace}",
        "cluster": "in the whole cluster",
    }
    for scope, place in where.items():
        if here := [str(right) for right in rights if right.scope == scope]:
            yield f"{', '.join(here)} {place}"


def _allowed(cluster: Cluster, settings: OmeBackendSettings, right: Right, verb: str) -> bool:
    namespaces: dict[Scope, str] = {"namespace": cluster.namespace, "ome_namespace": settings.ome_namespace, "cluster": ""}
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespaces[right.scope],
        # a Role may allow to read the namespace that it is in, and no other
        "name": cluster.namespace if resource == "namespaces" else "",
    }
    review: Object = {
        "apiVersion": ACCESS_REVIEW.api_version,
        "kind": ACCESS_REVIEW.kind,
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }
    return bool(inside(cluster.create(ACCESS_REVIEW, review), "status", "allowed"))
