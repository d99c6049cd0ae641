"""What OME, the kubelet and the image registries say when a server cannot start, and whose fault it is."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.errors import Systemic, Transient, TrialFailure
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.errors import ApiError

V015 = "OME v0.1.5, pkg/controller/v1beta1/inferenceservice/controller.go"


@dataclass(frozen=True, slots=True)
class ClusterText:
    """A text, or the reason of an event, by which a cluster says what is wrong.

    Attributes:
        text: Part of what it says, compared without regard to case.
        failure: Whose fault it is.
        remedy: What to do.
        source: Where the text comes from.
    """

    text: str
    failure: type[Transient] | type[Systemic]
    remedy: str
    source: str


_LOGIN = "check backend.image or the runtime's image, and the imagePullSecrets of the namespace if it is private"
_REGISTRY = "the nodes must reach the registry; the same configuration is tried again"

IMAGE_TEXTS = (
    ClusterText("InvalidImageName", Systemic, "check backend.image or the runtime's image", "kubelet, pkg/kubelet/images/types.go"),
    ClusterText("couldn't parse image", Systemic, "check backend.image or the runtime's image", "kubelet, pkg/kubelet/images"),
    ClusterText("ErrImageNeverPull", Systemic, "the node has no such image and may not pull it: see imagePullPolicy", "kubelet"),
    ClusterText("toomanyrequests", Transient, "log in with imagePullSecrets, or wait", "docker/hub-feedback #2429"),
    ClusterText("no match for platform", Systemic, "choose an image for the nodes' processor", "containerd, platforms"),
    ClusterText("no matching manifest", Systemic, "choose an image for the nodes' processor", "docker-library/mysql #698"),
    ClusterText("manifest unknown", Systemic, "check the tag of backend.image or of the runtime's image", "distribution errcode"),
    ClusterText("not found", Systemic, "check backend.image or the runtime's image", "containerd, resolver"),
    ClusterText("pull access denied", Systemic, _LOGIN, "containerd, resolver"),
    ClusterText("authorization failed", Systemic, _LOGIN, "containerd, resolver"),
    ClusterText("unauthorized", Systemic, _LOGIN, "distribution errcode"),
    ClusterText("403 Forbidden", Systemic, _LOGIN, "containerd, resolver"),
    ClusterText("denied", Systemic, _LOGIN, "distribution errcode"),
    ClusterText("no space left on device", Systemic, "the node's disk is full", "errno ENOSPC"),
    ClusterText("x509:", Systemic, "make the registry's certificate known to the nodes", "Go, crypto/x509"),
    ClusterText("no such host", Transient, _REGISTRY, "Go, net"),
    ClusterText("i/o timeout", Transient, _REGISTRY, "Go, os.ErrDeadlineExceeded"),
    ClusterText("connection refused", Transient, _REGISTRY, "errno ECONNREFUSED"),
    ClusterText("TLS handshake timeout", Transient, _REGISTRY, "Go, net/http"),
    ClusterText("unexpected EOF", Transient, _REGISTRY, "Go, io"),
    ClusterText("", Transient, _REGISTRY, "anything else: the registry may be back"),
)
"""From the specific to the generic: the first row that matches decides."""

_RUNTIME = "choose a runtime that supports the model, backend.runtime"
RESOLUTION_EVENTS = (
    ClusterText("ModelReconcileError", Systemic, "check backend.model: `kubectl describe` it", V015),
    ClusterText("RuntimeValidationError", Systemic, _RUNTIME, V015),
    ClusterText("RuntimeFetchError", Systemic, "check backend.runtime", V015),
    ClusterText("RuntimeSelectionError", Systemic, "check backend.runtime", V015),
    ClusterText("RuntimeNotFound", Systemic, "check backend.runtime", "OME 1.3 documentation, troubleshoot an InferenceService"),
    ClusterText("MergeSpecsError", Systemic, "OME cannot put the trial over the runtime: check backend.patch and the runtime", V015),
    ClusterText("DeploymentModeError", Systemic, "check backend.patch and the runtime: tuner needs a RawDeployment of one pod", V015),
    ClusterText("AcceleratorClassError", Systemic, "check the runtime's accelerator classes", V015),
    ClusterText("ServerlessModeRejected", Systemic, "check backend.patch: tuner needs a RawDeployment", V015),
    ClusterText("PredictorMigrationError", Systemic, "leave `predictor` out of backend.patch", V015),
    ClusterText("InternalError", Transient, "see the log of OME's controller", V015),
    ClusterText("UpdateFailed", Transient, "see the log of OME's controller", V015),
)
"""Warning events on an InferenceService whose status then stays empty, by their reason."""


def image_failure(reason: str, message: str) -> TrialFailure:
    """What a container's wait for its image means.

    Args:
        reason: `ErrImagePull`, `InvalidImageName`, ...
        message: The kubelet's explanation, with the registry's answer in it.
    """
    said = f"{reason}: {message}" if message else reason
    row = next(row for row in IMAGE_TEXTS if row.text.lower() in said.lower())
    return row.failure(f"the server's image cannot be pulled ({said}): {row.remedy}", said)


def resolution_failure(reason: str, message: str) -> TrialFailure | None:
    """What a warning event on an InferenceService means; None for one that says nothing of its start."""
    if reason == "InternalError" and "is invalid" in message:  # the API server's word for a Deployment that it refuses
        reason = "MergeSpecsError"
    row = next((row for row in RESOLUTION_EVENTS if row.text == reason), None)
    return None if row is None else row.failure(f"OME cannot deploy the server ({reason}: {message}): {row.remedy}", message)


def creation_failure(error: ApiError, cluster: Cluster) -> TrialFailure:
    """What it means for a trial that its InferenceService was not made."""
    if error.status == 403 and "exceeded quota" in error.message:
        return Transient(f"the namespace's quota is used up ({error.message}): wait, or raise it")
    if error.status == 403 and "admission webhook" in error.message:
        return Systemic(f"OME refuses the InferenceService ({error.message}): check backend.model, backend.runtime and backend.patch")
    if error.status in (400, 409, 422):
        return Systemic(f"the cluster refuses the InferenceService ({error.message}): check backend.patch, and the version of OME's CRDs")
    if error.status == 404 and error.found_api:
        return Systemic(f"the cluster has no namespace {cluster.namespace}: create it, or set backend.namespace")
    if error.passing and not error.away:
        return Transient(explain(error, cluster, "create InferenceServices"), str(error))
    return Systemic(explain(error, cluster, "create InferenceServices"), str(error))
