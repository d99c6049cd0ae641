"""The kinds of objects that tuner asks a cluster about, and where the API keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = Mapping[str, Any]
"""An object of the API, as its JSON has it: keys in camelCase, as in manifests and in Kubernetes' documentation."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind.

    Attributes:
        group: API group; empty for the core.
        version: Version of the group.
        plural: As it stands in paths and in RBAC rules.
        kind: As it stands in manifests.
        namespaced: Whether its objects live in namespaces.
        pod_label: The label by which the pods of one of its objects are known, its value being the object's name; empty where it has none.
        controller: Who makes and removes them.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    pod_label: str = ""
    controller: str = ""

    @property
    def api_version(self) -> str:
        """As it stands in manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of all its objects in `namespace`, of one, or of a subresource of one."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = ["namespaces", namespace] if self.namespaced else []
        return "/".join([root, *(quote(part, safe="") for part in (*scope, self.plural, name, subresource) if part)])


NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
EVENT = Resource("", "v1", "events", "Event")
RESOURCE_QUOTA = Resource("", "v1", "resourcequotas", "ResourceQuota")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
JOB = Resource("batch", "v1", "jobs", "Job", pod_label="job-name", controller="the cluster's Job controller")
ACCESS_REVIEW = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)

INFERENCE_SERVICE = Resource(
    "ome.io", "v1beta1", "inferenceservices", "InferenceService", pod_label="ome.io/inferenceservice", controller="OME's controller"
)
SERVING_RUNTIME = Resource("ome.io", "v1beta1", "servingruntimes", "ServingRuntime")
CLUSTER_SERVING_RUNTIME = Resource("ome.io", "v1beta1", "clusterservingruntimes", "ClusterServingRuntime", namespaced=False)
BASE_MODEL = Resource("ome.io", "v1beta1", "basemodels", "BaseModel")
CLUSTER_BASE_MODEL = Resource("ome.io", "v1beta1", "clusterbasemodels", "ClusterBaseModel", namespaced=False)


def inside(obj: Any, *keys: str | int) -> Any:
    """What `obj` holds under nested keys and indices, or None: fields of the API are left out where they are empty."""
    for key in keys:
        if isinstance(key, int):
            obj = obj[key] if isinstance(obj, list) and -len(obj) <= key < len(obj) else None
        else:
            obj = obj.get(key) if isinstance(obj, Mapping) else None
    return obj


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of that type in an object's status."""
    found = [entry for entry in inside(obj, "status", "conditions") or () if entry.get("type") == kind]
    return found[-1] if found else None


def name_of(obj: Object) -> str:
    """Its name."""
    return str(inside(obj, "metadata", "name") or "")


def uid_of(obj: Object) -> str:
    """Its uid: another object of the same name has another."""
    return str(inside(obj, "metadata", "uid") or "")
