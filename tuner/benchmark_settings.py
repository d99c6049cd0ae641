"""Settings of the load generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from tuner.errors import ConfigError
from tuner.kube.merge_patch import OWN_IN_ALL, spare, without_secrets
from tuner.ome_settings import KubernetesName
from tuner.section import SECRET, Section, Text, as_mapping

_POD = ("spec", "template", "spec")
OWN_JOB_PATHS = (
    *OWN_IN_ALL,
    ("spec", "activeDeadlineSeconds"),
    ("spec", "backoffLimit"),
    ("spec", "completions"),
    ("spec", "parallelism"),
    ("spec", "suspend"),
    ("spec", "ttlSecondsAfterFinished"),
    ("spec", "selector"),
    ("spec", "manualSelector"),
    (*_POD, "containers"),
    (*_POD, "volumes"),
    (*_POD, "nodeSelector"),
    (*_POD, "serviceAccountName"),
    (*_POD, "automountServiceAccountToken"),
    (*_POD, "restartPolicy"),
    (*_POD, "terminationGracePeriodSeconds"),
)
"""Fields of the load generator's Job that tuner sets itself, from other keys or for its own purposes."""

Quantities = Mapping[str, StrictInt | StrictFloat | StrictStr]


class JobSettings(Section):
    """A Kubernetes Job for each load level, in the namespace of the servers.

    Attributes:
        image: Container image that holds tuner, in this version, and genai-bench: see deploy/Dockerfile.
        tokenizer: Hub id, or a path in the image, of the tokenizer that measures out the prompts; None takes the model's folder on the
            node, which ties the Job to the nodes that have the model. One from the hub is fetched anew for each level, without a token.
        resources: `{requests: {cpu: "2"}, limits: {memory: 4Gi}}` of its container, in place of tuner's own. Better without a limit on CPU:
            one that bites delays the timestamps of requests.
        node_selector: Labels of the nodes that it may run on, as `{pool: load}`.
        service_account: ServiceAccount of its pod, for imagePullSecrets and policies; the pod itself never asks the API.
        start_timeout_s: Seconds in which its pod must have a node and its container must have been started.
        patch: JSON merge patch on the Job: `{spec: {template: {spec: {priorityClassName: high}}}}`.
    """

    image: Text | None = None
    tokenizer: Text | None = None
    resources: Annotated[Mapping[Literal["requests", "limits"], Quantities], BeforeValidator(as_mapping)] = {}
    node_selector: Annotated[Mapping[str, StrictStr], BeforeValidator(as_mapping)] = {}
    service_account: KubernetesName | None = None
    start_timeout_s: PositiveFloat = 900.0
    patch: Annotated[Mapping[str, Any], BeforeValidator(as_mapping)] = {}

    @field_validator("patch")
    @classmethod
    def _leaves_what_tuner_sets(cls, patch: Mapping[str, Any]) -> Mapping[str, Any]:
        spare(OWN_JOB_PATHS, patch, "benchmark.job.patch", "the other keys of benchmark.job")
        without_secrets(patch, "benchmark.job.patch", SECRET, "take it from a Secret, by valueFrom")
        return patch


class BenchmarkSettings(Section):
    """The load generator.

    Attributes:
        mode: `driver` keeps one genai-bench process for the whole study; `cli` runs its command line for each level, as a reference; `job`
            runs each level as a Job beside servers in a cluster that cannot be reached well from here.
        job: How, for the mode `job`. The others leave it aside, so that `benchmark.mode=driver` alone takes an experiment that was written
            for outside of a cluster into one.
    """

    mode: Literal["driver", "cli", "job"] = "driver"
    job: JobSettings = Field(default_factory=JobSettings)

    @model_validator(mode="after")
    def _job_has_its_image(self) -> BenchmarkSettings:
        if self.mode == "job" and self.job.image is None:
            raise ConfigError(
                "benchmark.job.image: missing; benchmark.mode=job needs an image with tuner and genai-bench, as deploy/Dockerfile makes it"
            )
        return self
