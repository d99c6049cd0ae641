from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.ome.prepared import MODEL, NAMESPACE, NODE, Prepared, gpu_node, model, prepared, settings
from tests.cluster.objects import resource_quota
from tuner.backends.ome import capacity
from tuner.backends.ome.capacity import Capacity
from tuner.backends.ome.nodes import count, requested
from tuner.finding import Finding

GPU = "nvidia.com/gpu"
H100 = "NVIDIA-H100-80GB-HBM3"
MIB = 2**20
MINIKUBE = "minikube start --driver=docker --container-runtime=docker --gpus=all"


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Prepared]:
    with prepared(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Prepared]:
    """The same without nodes and model."""
    with prepared(tmp_path, without=("Node", "ClusterBaseModel")) as cluster:
        yield cluster


def plain(name: str, **changes: Any) -> dict[str, Any]:
    """A node without GPUs, as a plain Minikube has it."""
    node = gpu_node(name, None)
    node["metadata"]["labels"] |= changes.pop("labels", {})
    node["spec"] |= changes
    return node


def cordoned(name: str = NODE, gpus: int = 4) -> dict[str, Any]:
    node = gpu_node(name, gpus)
    node["spec"]["unschedulable"] = True
    return node


def quota(gpus: int, used: int = 0, **spec: Any) -> dict[str, Any]:
    manifest = dict(resource_quota("limits", NAMESPACE, gpus))
    manifest["status"]["used"] = {f"requests.{GPU}": str(used)}
    manifest["spec"] |= spec
    return manifest


def pod(name: str, gpus: int, *, node: str | None = NODE, phase: str = "Running") -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"limits": {GPU: str(gpus)}, "requests": {GPU: str(gpus)}}}
    spec: dict[str, Any] = {"containers": [container]} | ({"nodeName": node} if node else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": {"phase": phase}}


class TestGpus:
    def told(self, cluster: Prepared, fewest: int = 1, most: int = 1, **keys: Any) -> Finding:
        return cluster.findings(fewest, most, **keys)["gpus"]

    @pytest.mark.parametrize(
        ("node", "what", "fix"),
        [
            (
                plain("minikube"),
                "This is Minikube",
                "minikube delete && minikube start --driver=docker --container-runtime=docker --gpus=all",
            ),
            (plain("m02", labels={"minikube.k8s.io/name": "mine"}), "This is Minikube", "minikube start"),
            (plain("kind-control-plane", providerID="kind://docker/kind/kind-control-plane"), "This is kind", "nvkind"),
            (plain("k3d-mine-server-0", providerID="k3s://k3d-mine-server-0"), "This is k3d", "k3d cluster create --gpus=all"),
            (plain("docker-desktop"), "This is Docker Desktop", "use a cluster on Linux"),
            (plain("worker-1"), "no node offers nvidia.com/gpu: worker-1", "GPU operator or device plugin"),
        ],
        ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else None,
    )
    def test_no_node_offers_any(self, bare: Prepared, node: dict[str, Any], what: str, fix: str) -> None:
        bare.add(node)
        finding = self.told(bare)
        assert finding.verdict == "failed"
        assert f"no node offers {GPU}: {node['metadata']['name']}" in finding.seen
        assert what in finding.seen
        assert fix in finding.fix

    def test_none_of_several_does(self, bare: Prepared) -> None:
        bare.add(plain("a"), plain("b"), gpu_node("c", 0))
        assert self.told(bare).seen == f"no node offers {GPU}: none of a, b, c"

    def test_another_kind_of_device(self, bare: Prepared) -> None:
        node = plain("a")
        node["status"]["allocatable"] = {**node["status"]["allocatable"], "amd.com/gpu": "8", "hugepages-2Mi": "0"}
        bare.add(node)
        finding = self.told(bare)
        assert finding.seen.endswith("there is amd.com/gpu")
        assert "backend.gpu_resource" in finding.fix

    def test_all_are_cordoned(self, bare: Prepared) -> None:
        bare.add(cordoned())
        assert self.told(bare).fix == f"`kubectl uncordon {NODE}`"

    def test_too_few_on_one_node(self, ready: Prepared) -> None:
        finding = self.told(ready, 8, 8)
        assert (finding.verdict, finding.seen) == (
            "failed",
            f"{NODE} (4 x {H100}) offer {GPU}; the smallest configuration needs 8 on one node",
        )

    def test_too_few_for_some(self, ready: Prepared) -> None:
        finding = self.told(ready, 1, 8)
        assert finding.verdict == "warning"
        assert "configurations that need more than 4 will be refused" in finding.seen

    def test_the_model_is_elsewhere(self, bare: Prepared) -> None:
        far = gpu_node("gpu-node-2")
        far["metadata"]["labels"] = {}
        bare.add(far, plain(NODE), model())
        finding = self.told(bare)
        assert finding.verdict == "failed"
        assert f"but the model {MODEL} is on none of them" in finding.seen

    def test_only_a_small_node_has_the_model(self, bare: Prepared) -> None:
        far = gpu_node("gpu-node-2", 8)
        far["metadata"]["labels"] = {}
        bare.add(far, gpu_node(NODE, 1), model())
        assert "gpu-node-2" not in self.told(bare, 2, 2).seen
        assert self.told(bare, 2, 2).verdict == "failed"

    def test_all_are_in_use(self, ready: Prepared) -> None:
        ready.add(pod("a", 3), pod("b", 1), pod("done", 4, phase="Succeeded"), pod("waiting", 4, node=None, phase="Pending"))
        finding = self.told(ready)
        assert (finding.verdict, finding.seen.rpartition("; ")[2]) == ("warning", f"in use are 4 of 4 on {NODE}")
        assert "backend.queue_timeout_s" in finding.fix

    def test_some_are_free(self, ready: Prepared) -> None:
        ready.add(pod("a", 3))
        assert self.told(ready).seen.endswith("1 are free")
        assert self.told(ready, 2, 2).verdict == "warning"

    def test_taints_are_told(self, bare: Prepared) -> None:
        node = gpu_node()
        node["spec"]["taints"] = [{"key": GPU, "value": "present", "effect": "NoSchedule"}, {"key": "x", "effect": "PreferNoSchedule"}]
        bare.add(node, model())
        assert f"only to pods that tolerate {GPU}=present:NoSchedule; 4 are free" in self.told(bare).seen

    def test_what_may_not_be_seen(self, ready: Prepared) -> None:
        ready.server.permissions = lambda verb, group, resource, namespace: (resource, namespace) != ("pods", "")
        assert self.told(ready).seen.endswith("how many are in use may not be seen by this user")


class TestQuota:
    def told(self, cluster: Prepared, fewest: int = 1, **keys: Any) -> Finding:
        return cluster.findings(fewest, fewest, **keys)["quota"]

    def test_none(self, ready: Prepared) -> None:
        assert self.told(ready).seen == f"no ResourceQuota limits trials in namespace {NAMESPACE}"

    def test_enough(self, ready: Prepared) -> None:
        ready.add(quota(4, 1))
        assert self.told(ready) == Finding("ok", f"1 of 4 requests.{GPU} in use")

    def test_too_small(self, ready: Prepared) -> None:
        ready.add(quota(1))
        finding = self.told(ready, 2)
        assert finding.verdict == "failed"
        assert finding.seen.startswith(f"ResourceQuota limits allows 1 requests.{GPU} in namespace {NAMESPACE}, a trial needs 2")

    def test_too_small_for_some_pods_only(self, ready: Prepared) -> None:
        ready.add(quota(1, scopes=["BestEffort"]))
        assert self.told(ready, 2).verdict == "warning"

    def test_used_up(self, ready: Prepared) -> None:
        ready.add(quota(4, 3))
        assert self.told(ready, 2).verdict == "warning"
        assert "3 are in use" in self.told(ready, 2).seen

    def test_of_objects(self, ready: Prepared) -> None:
        manifest = quota(4)
        manifest["spec"]["hard"] = manifest["status"]["hard"] = {"count/inferenceservices.ome.io": "0"}
        ready.add(manifest)
        assert "allows 0 count/inferenceservices.ome.io" in self.told(ready).seen

    def test_budget(self, ready: Prepared) -> None:
        assert self.told(ready, 4, gpu_budget=2).verdict == "failed"
        ready.add(quota(4))
        finding = self.told(ready, gpu_budget=8)
        assert (finding.verdict, finding.fix) == ("warning", "set backend.gpu_budget=4, or have the quota raised")
        assert self.told(ready, gpu_budget=4).verdict == "ok"

    def test_a_queue_without_kueue(self, ready: Prepared) -> None:
        finding = self.told(ready, local_queue="mine")
        assert (finding.verdict, finding.seen) == ("failed", "backend.local_queue=mine, and the cluster has no Kueue to heed it")

    def test_a_queue(self, ready: Prepared) -> None:
        ready.server.install(kueue())
        finding = self.told(ready, local_queue="mine")
        assert finding.verdict == "failed"
        assert f"no such LocalQueue in namespace {NAMESPACE}" in finding.seen
        metadata = {"name": "mine", "namespace": NAMESPACE}
        ready.add({"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": metadata, "spec": {"clusterQueue": "gpus"}})
        assert self.told(ready, local_queue="mine").verdict == "ok"


class TestCapacity:
    def test_the_greatest_node(self, ready: Prepared) -> None:
        ready.add(gpu_node("small", 1), cordoned("large", 8))
        assert capacity.read(ready.cluster, settings()) == Capacity(4, 81559 * MIB, H100)

    def test_quota_and_budget_bound_it(self, ready: Prepared) -> None:
        ready.add(quota(2))
        assert capacity.read(ready.cluster, settings()).per_server == 2
        assert capacity.read(ready.cluster, settings(gpu_budget=1)).per_server == 1

    def test_a_quota_for_some_pods_does_not(self, ready: Prepared) -> None:
        ready.add(quota(2, scopes=["BestEffort"]))
        assert capacity.read(ready.cluster, settings()).per_server == 4

    def test_the_largest_gpu(self, ready: Prepared) -> None:
        ready.add(gpu_node("h200", 1, {"nvidia.com/gpu.memory": "143771", "nvidia.com/gpu.product": "NVIDIA-H200"}))
        assert capacity.read(ready.cluster, settings()) == Capacity(4, 143771 * MIB, "NVIDIA-H200")

    def test_a_gpu_of_unknown_memory_may_be_the_largest(self, ready: Prepared) -> None:
        unknown = gpu_node("unknown", 2)
        unknown["metadata"]["labels"] = {}
        ready.add(unknown)
        assert capacity.read(ready.cluster, settings()) == Capacity(4)

    def test_nothing_may_be_seen(self, ready: Prepared) -> None:
        ready.forbid(("list", "nodes"), ("list", "resourcequotas"))
        assert capacity.read(ready.cluster, settings()) == Capacity()
        assert capacity.read(ready.cluster, settings(gpu_budget=3)) == Capacity(3)


def kueue() -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "localqueues.kueue.x-k8s.io"},
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "LocalQueue", "listKind": "LocalQueueList", "plural": "localqueues", "singular": "localqueue"},
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }


@pytest.mark.parametrize(("quantity", "number"), [("4", 4), (4, 4), ("1k", 1000), ("0", 0), (None, 0), ("many", 0)])
def test_quantities_of_whole_things(quantity: object, number: int) -> None:
    assert count(quantity) == number


def test_containers_that_run_one_after_the_other_share() -> None:
    def asking(gpus: int) -> dict[str, Any]:
        return {"resources": {"requests": {GPU: str(gpus)}}}

    assert requested({"spec": {"containers": [asking(1), asking(2)], "initContainers": [asking(2), {}]}}, GPU) == 3
    assert requested({"spec": {"containers": [asking(1)], "initContainers": [asking(4)]}}, GPU) == 4
