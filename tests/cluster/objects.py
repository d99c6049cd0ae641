"""Manifests of what a cluster has before anybody asks it for a server: namespaces, nodes with GPUs, models, runtimes, quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.cluster.connection import Object

GPU = "nvidia.com/gpu"


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}


def node(name: str, gpus: int | None, labels: Mapping[str, str] | None = None) -> Object:
    """A ready node with that many GPUs of 80 GB; None: without a device plugin, which is how a plain Minikube looks."""
    resources = {"cpu": "128", "memory": "1056Gi", "pods": "110"}
    described = {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    if gpus is not None:
        resources[GPU] = str(gpus)
        # What NVIDIA's GPU feature discovery writes for an H100.
        described |= {
            f"{GPU}.present": "true",
            f"{GPU}.count": str(gpus),
            f"{GPU}.memory": "81559",
            f"{GPU}.product": "NVIDIA-H100-80GB-HBM3",
        }
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": described | dict(labels or {})},
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [ready],
            "addresses": [{"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "containerd://1.7.27",
                "kernelVersion": "6.8.0",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.0",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "Ubuntu 24.04 LTS",
                "systemUUID": "",
            },
        },
    }


def model_label(name: str, namespace: str | None = None) -> str:
    """The node label that OME's model agent sets to Ready where it has put a model."""
    return f"models.ome.io/clusterbasemodel.{name}" if namespace is None else f"models.ome.io/{namespace}.basemodel.{name}"


def cluster_base_model(name: str, path: str, state: str = "Ready", nodes_ready: Sequence[str] = (), namespace: str | None = None) -> Object:
    """A model that the agent has put at `path` of the nodes `nodes_ready`; a BaseModel where `namespace` is given."""
    return {
        "apiVersion": "ome.io/v1beta1",
        "kind": "ClusterBaseModel" if namespace is None else "BaseModel",
        "metadata": {"name": name} if namespace is None else {"name": name, "namespace": namespace},
        "spec": {
            "displayName": f"meta.{name}",
            "vendor": "meta",
            "disabled": False,
            "version": "1.0.0",
            "modelType": "llama",
            "modelArchitecture": "LlamaForCausalLM",
            "modelFormat": {"name": "safetensors", "version": "1.0.0"},
            "modelFramework": {"name": "transformers", "version": "4.45.0.dev0"},
            "modelParameterSize": "1.24B",
            "modelCapabilities": ["TEXT_TO_TEXT"],
            "maxTokens": 131072,
            "storage": {"storageUri": "hf://meta-llama/Llama-3.2-1B-Instruct", "path": path},
        },
        "status": {"state": state, "nodesReady": list(nodes_ready)},
    }


def cluster_serving_runtime(
    name: str,
    image: str = "docker.io/lmsysorg/sglang:v0.5.5.post3-cu129-amd64",
    command: Sequence[str] | None = None,
    args: Sequence[str] | None = None,
    port: int = 8080,
    *,
    gpus: int = 1,
    probe_path: str = "/health",
    env: Mapping[str, str] | None = None,
    namespace: str | None = None,
) -> Object:
    """A runtime in the shape of OME's `srt-llama-3-2-1b-instruct`; a ServingRuntime where `namespace` is given."""
    resources = {"cpu": "10", "memory": "30Gi", GPU: str(gpus)}
    get = {"httpGet": {"path": probe_path, "port": port}}
    runner = {
        "name": "ome-container",
        "image": image,
        "ports": [{"containerPort": port, "name": "http1", "protocol": "TCP"}],
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
        "readinessProbe": get | {"periodSeconds": 60, "timeoutSeconds": 200, "failureThreshold": 3},
        "livenessProbe": get | {"periodSeconds": 60, "timeoutSeconds": 60, "failureThreshold": 5},
    }
    runner |= {key: list(words) for key, words in (("command", command), ("args", args)) if words is not None}
    return {
        "apiVersion": "ome.io/v1beta1",
        "kind": "ClusterServingRuntime" if namespace is None else "ServingRuntime",
        "metadata": {"name": name} if namespace is None else {"name": name, "namespace": namespace},
        "spec": {
            "disabled": False,
            "supportedModelFormats": [
                {
                    "modelFormat": {"name": "safetensors", "version": "1.0.0"},
                    "modelFramework": {"name": "transformers", "version": "4.45.0.dev0"},
                    "modelArchitecture": "LlamaForCausalLM",
                    "autoSelect": False,
                    "priority": 1,
                }
            ],
            "modelSizeRange": {"min": "500M", "max": "2B"},
            "protocolVersions": ["openAI"],
            "engineConfig": {
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"},
                "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
                "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}],
                "runner": runner,
            },
        },
    }


def resource_quota(name: str, namespace: str, gpus: int) -> Object:
    """Allows the unfinished pods of a namespace that many GPUs together."""
    hard = {f"requests.{GPU}": str(gpus)}
    used = {f"requests.{GPU}": "0"}
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata,
        "spec": {"hard": hard},
        "status": {"hard": hard, "used": used},
    }


def secret(name: str, namespace: str, **values: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": values}


def manager(name: str, namespace: str, image: str) -> Object:
    """A controller's Deployment that runs."""
    labels = {"control-plane": name}
    available = {
        "type": "Available",
        "status": "True",
        "reason": "MinimumReplicasAvailable",
        "message": "Deployment has minimum availability.",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": "ome", **labels}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": image}]}},
        },
        "status": {
            "replicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
            "updatedReplicas": 1,
            "observedGeneration": 1,
            "conditions": [available],
        },
    }
