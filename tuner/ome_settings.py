"""Settings of the backend `ome`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from tuner.errors import ConfigError
from tuner.explain import show
from tuner.kube.merge_patch import OWN_IN_ALL, spare, without_secrets
from tuner.section import SECRET, Section, Text, as_mapping

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_RUNNER = ("spec", "engine", "runner")
AUTOSCALER = "ome.io/autoscalerClass"
OWN_MANIFEST_PATHS = (
    *OWN_IN_ALL,
    ("metadata", "labels", "tuner.deployment"),
    ("metadata", "labels", "tuner.study"),
    ("metadata", "labels", "tuner.trial"),
    ("metadata", "annotations", "tuner.study"),
    ("metadata", "annotations", "ome.io/deploymentMode"),
    ("spec", "model"),
    ("spec", "runtime"),
    ("spec", "decoder"),
    ("spec", "router"),
    ("spec", "engine", "leader"),
    ("spec", "engine", "worker"),
    ("spec", "engine", "minReplicas"),
    ("spec", "engine", "maxReplicas"),
    ("spec", "engine", "terminationGracePeriodSeconds"),
    (*_RUNNER, "name"),
    (*_RUNNER, "command"),
    (*_RUNNER, "args"),
)
"""Fields of an InferenceService that tuner sets itself, from other keys or for its own purposes."""


def _kubernetes_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{show(text)} is no name of a Kubernetes object: lower-case letters, digits, - and .")
    return text


KubernetesName = Annotated[str, AfterValidator(_kubernetes_name)]


def _unnamed(value: Any) -> Any:
    return "" if value is None else value


ReferredName = Annotated[KubernetesName | Literal[""], BeforeValidator(_unnamed)]
"""Empty where nothing is deployed, as by `tuner clean`."""


class ModelReference(Section):
    """The model that OME has put on the nodes.

    Attributes:
        name: Of the object.
        kind: `ClusterBaseModel`, or `BaseModel` of the same namespace.
    """

    name: ReferredName = ""
    kind: Literal["ClusterBaseModel", "BaseModel"] = "ClusterBaseModel"


class RuntimeReference(Section):
    """The runtime that says how OME serves.

    Attributes:
        name: Of the object.
        kind: `ClusterServingRuntime`, or `ServingRuntime` of the same namespace.
    """

    name: ReferredName = ""
    kind: Literal["ClusterServingRuntime", "ServingRuntime"] = "ClusterServingRuntime"


class SecretReference(Section):
    """The value of a variable, from a Secret of the namespace.

    Attributes:
        secret: Name of the Secret.
        key: Key in it.
    """

    secret: KubernetesName
    key: Text


class OmeBackendSettings(Section):
    """An InferenceService of OME in a Kubernetes cluster.

    Attributes:
        model: The model, `{name, kind}`.
        runtime: The runtime, `{name, kind}`; image, environment and probes come from it.
        runtime_args: `inherit` takes the flags of the runtime's command line as flags of every launch, which `engine.args` and the space
            override; `ignore` starts from the engine's own defaults.
        kubeconfig: Path; None takes KUBECONFIG, `~/.kube/config`, or the pod's service account.
        context: Context of the kubeconfig; None takes the current one.
        namespace: Where InferenceServices are made; None takes that of the context.
        image: Container image instead of the runtime's.
        model_path: Where the server finds the model; OME sets the variable MODEL_PATH to its directory.
        gpu_resource: Name of the extended resource that GPUs are asked for by.
        gpu_budget: GPUs that all servers of the study may have together; None leaves it to the namespace's quota.
        local_queue: Kueue's LocalQueue that servers wait in.
        environment: Environment of the server in addition to the runtime's; `{secret, key}` takes a value from a Secret.
        patch: JSON merge patch on the InferenceService: `{spec: {engine: {nodeSelector: {pool: a}}}}`.
        access: How tuner reaches servers: `cluster` by their DNS name in the cluster, `port_forward` through the API server, `url` by
            `url`. `auto` takes `url` where that is set, `cluster` in a pod, and else `port_forward`.
        url: Address with `{name}`, `{namespace}`, `{port}` and `{pod_ip}` in it, for `access=url`.
        queue_timeout_s: Seconds that a server may wait for its GPUs.
        pull_timeout_s: Seconds from there until its container starts: images, volumes.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
        delete_timeout_s: Seconds beyond `stop_grace_s` after which a removal counts as stuck.
        on_stuck: What follows from a removal that is stuck: the study goes on (`continue`), or ends (`stop`).
        max_restarts: Restarts of the container that a trial survives before it is ready.
        lease_s: Seconds for which an InferenceService outlives a tuner that cannot be asked, because it ran on another host.
        ome_namespace: Where OME's controller runs, for the preflight.
    """

    name: Literal["ome"]
    model: ModelReference = ModelReference()
    runtime: RuntimeReference = RuntimeReference()
    runtime_args: Literal["inherit", "ignore"] = "inherit"
    kubeconfig: Text | None = None
    context: Text | None = None
    namespace: KubernetesName | None = None
    image: Text | None = None
    model_path: Text = "$(MODEL_PATH)"
    gpu_resource: Text = "nvidia.com/gpu"
    gpu_budget: PositiveInt | None = None
    local_queue: KubernetesName | None = None
    environment: Annotated[
        Mapping[str, StrictBool | StrictInt | StrictFloat | StrictStr | SecretReference], BeforeValidator(as_mapping)
    ] = {}
    patch: Annotated[Mapping[str, Any], BeforeValidator(as_mapping)] = {}
    access: Literal["auto", "cluster", "port_forward", "url"] = "auto"
    url: Text | None = None
    queue_timeout_s: PositiveFloat = 3600.0
    pull_timeout_s: PositiveFloat = 3600.0
    stop_grace_s: Annotated[PositiveInt, Field(le=3600)] = 10
    delete_timeout_s: PositiveFloat = 120.0
    on_stuck: Literal["continue", "stop"] = "continue"
    max_restarts: NonNegativeInt = 0
    lease_s: Annotated[float, Field(ge=30, le=7 * 86400)] = 900.0
    ome_namespace: KubernetesName = "ome"

    @field_validator("environment", mode="before")
    @classmethod
    def _references_are_whole(cls, environment: Any) -> Any:
        for name, value in environment.items() if isinstance(environment, Mapping) else ():
            if isinstance(value, Mapping) and set(value) != {"secret", "key"}:
                raise ConfigError(f"backend.environment.{name}: {show(dict(value))} is neither a value nor {{secret: <name>, key: <key>}}")
        return environment

    @field_validator("environment")
    @classmethod
    def _secrets_by_reference(cls, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in environment.items():
            if not isinstance(value, SecretReference) and SECRET.search(name):
                raise ConfigError(
                    f"backend.environment.{name}: the values of a configuration are stored, which is no place for a secret; "
                    f"put it into a Secret of the namespace and write {{secret: <its name>, key: <its key>}} here"
                )
        return environment

    @field_validator("patch")
    @classmethod
    def _leaves_what_tuner_sets(cls, patch: Mapping[str, Any]) -> Mapping[str, Any]:
        spare(OWN_MANIFEST_PATHS, patch, "backend.patch", "the other keys of backend")
        without_secrets(patch, "backend.patch", SECRET, "take it from a Secret: backend.environment, or valueFrom")
        scaler = patch.get("metadata", {}).get("annotations", {}).get(AUTOSCALER)
        if scaler not in (None, "external"):
            key = f"backend.patch.metadata.annotations.{AUTOSCALER}"
            raise ConfigError(f"{key}: an autoscaler would add servers to the one that is measured; leave it out, or null")
        return patch

    @model_validator(mode="after")
    def _patch_leaves_environment_and_gpus(self) -> OmeBackendSettings:
        if self.environment:
            spare([(*_RUNNER, "env")], self.patch, "backend.patch", "backend.environment, whose variables it would replace")
        for kind in ("requests", "limits"):
            spare([(*_RUNNER, "resources", kind, self.gpu_resource)], self.patch, "backend.patch", "the tensor parallel size of the space")
        return self

    @model_validator(mode="after")
    def _url_where_it_is_used(self) -> OmeBackendSettings:
        if self.access == "url" and self.url is None:
            raise ConfigError("backend.url: missing; backend.access=url needs an address such as http://{name}.{namespace}.example.com")
        if self.url is not None:
            if self.access not in ("url", "auto"):
                raise ConfigError(f"backend.url: not used by backend.access={self.access}; leave one of them out")
            try:
                sample = urlsplit(self.url.format(name="n", namespace="n", port=1, pod_ip="127.0.0.1"))
                complete = sample.scheme in ("http", "https") and bool(sample.hostname) and sample.port != 0
            except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
                why = f"{show(self.url)} is no address with {{name}}, {{namespace}}, {{port}} and {{pod_ip}} in it and no other braces"
                raise ConfigError(f"backend.url: {why}") from error
            if not complete:
                raise ConfigError(f"backend.url: {show(self.url)} must begin with http:// or https:// and name a host")
        return self
