"""The kinds of resource that the double of an API server knows: the built-in ones, and those of CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.core_schema import model_schema
from tests.cluster.schema import Schema, version_schema

_METADATA_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT_FIELDS = "reason type source reportingComponent " + " ".join(f"involvedObject.{name}" for name in _INVOLVED)


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of one group and version.

    Attributes:
        custom: Whether a CustomResourceDefinition made it.
        counts_generations: Whether a change of its specification raises metadata.generation.
        returned_when_deleted: Whether a delete answers with the object rather than with a Status.
        created_by_put: Whether a PUT of a missing object creates it.
        fields: What field selectors may name.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: frozenset[str] = frozenset()
    schema: Schema | None = None
    custom: bool = False
    counts_generations: bool = False
    returned_when_deleted: bool = False
    created_by_put: bool = False
    fields: frozenset[str] = _METADATA_FIELDS
    short_names: tuple[str, ...] = ()
    singular: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources


def _kind(
    group: str, version: str, plural: str, kind: str, subresources: str = "", fields: str = "", model: str | None = None, **rest: Any
) -> Kind:
    """One built-in kind; `subresources` and `fields` are words."""
    return Kind(
        group,
        version,
        plural,
        kind,
        subresources=frozenset(subresources.split()),
        schema=model_schema(model or f"V1{kind}"),
        fields=_METADATA_FIELDS | set(fields.split()),
        singular=kind.lower(),
        **rest,
    )


def built_in() -> Iterator[Kind]:
    """The kinds that are there before any CustomResourceDefinition."""
    yield _kind("", "v1", "namespaces", "Namespace", "status finalize", "status.phase", namespaced=False)
    pod_fields = "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName status.phase status.podIP"
    pod_parts = "status log portforward binding eviction"
    yield _kind("", "v1", "pods", "Pod", pod_parts, pod_fields, counts_generations=True, returned_when_deleted=True, short_names=("po",))
    yield _kind("", "v1", "services", "Service", "status", "spec.clusterIP spec.type", returned_when_deleted=True, short_names=("svc",))
    yield _kind("", "v1", "endpoints", "Endpoints", created_by_put=True)
    yield _kind("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
    yield _kind("", "v1", "secrets", "Secret", fields="type")
    yield _kind("", "v1", "nodes", "Node", "status", "spec.unschedulable", namespaced=False, short_names=("no",))
    yield _kind("", "v1", "events", "Event", fields=_EVENT_FIELDS, model="CoreV1Event", created_by_put=True)
    yield _kind("", "v1", "resourcequotas", "ResourceQuota", "status", returned_when_deleted=True)
    yield _kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "status", returned_when_deleted=True)
    yield _kind("", "v1", "serviceaccounts", "ServiceAccount", returned_when_deleted=True)
    counted: dict[str, Any] = {"counts_generations": True}
    yield _kind("apps", "v1", "deployments", "Deployment", "status", short_names=("deploy",), **counted)
    yield _kind("apps", "v1", "replicasets", "ReplicaSet", "status", "status.replicas", short_names=("rs",), **counted)
    yield _kind("batch", "v1", "jobs", "Job", "status", "status.successful", **counted)
    yield _kind("batch", "v1", "cronjobs", "CronJob", "status", **counted)
    yield _kind("coordination.k8s.io", "v1", "leases", "Lease", created_by_put=True)
    rbac = "rbac.authorization.k8s.io"
    yield _kind(rbac, "v1", "roles", "Role")
    yield _kind(rbac, "v1", "rolebindings", "RoleBinding")
    yield _kind(rbac, "v1", "clusterroles", "ClusterRole", namespaced=False)
    yield _kind(rbac, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
    # Its own schema is recursive and of no use to anybody here.
    yield Kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        subresources=frozenset({"status"}),
        returned_when_deleted=True,
        counts_generations=True,
        short_names=("crd",),
        singular="customresourcedefinition",
    )


def defined_by(crd: Mapping[str, Any]) -> Iterator[Kind]:
    """The kinds that a CustomResourceDefinition makes: one a served version."""
    spec = crd["spec"]
    names = spec["names"]
    for version in spec["versions"]:
        if version["served"]:
            yield Kind(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                subresources=frozenset(version.get("subresources") or ()),
                schema=version_schema(crd, version["name"]),
                custom=True,
                counts_generations=True,
                short_names=tuple(names.get("shortNames") or ()),
                singular=names.get("singular") or names["kind"].lower(),
            )
