from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.backends.ome.prepared import (
    MODEL,
    NAMESPACE,
    NODE,
    OME,
    RUNTIME,
    Prepared,
    controller,
    model,
    prepared,
    runtime,
    settings,
    trial,
)
from tests.cluster.objects import cluster_base_model
from tuner.backends.ome import preflight
from tuner.backends.ome.preflight import Needs
from tuner.finding import Finding
from tuner.kube.connection import Address, connect
from tuner.kube.errors import ApiError
from tuner.owner import Owner

ORDER = ("cluster", "namespace", "rights", "ome", "model", "runtime", "gpus", "quota", "dry_run", "leftovers")


class Begin(Protocol):
    def __call__(self, *, without: tuple[str, ...] = ...) -> AbstractContextManager[Prepared]: ...


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    return partial(prepared, tmp_path)


@pytest.fixture
def ready(begin: Begin) -> Iterator[Prepared]:
    with begin() as cluster:
        yield cluster


def assert_told(finding: Finding, verdict: str, *parts: str) -> None:
    assert finding.verdict == verdict, finding
    for part in parts:
        assert part in f"{finding.seen}: {finding.fix}", finding
    assert "\n" not in finding.seen + finding.fix
    assert bool(finding.fix) == (verdict in ("warning", "failed")), finding


class TestReadyCluster:
    def test_all_is_ok_in_this_order(self, ready: Prepared) -> None:
        findings = ready.findings(manifest=trial())
        assert tuple(findings) == ORDER == preflight.names(1)
        assert {name: finding.verdict for name, finding in findings.items()} == dict.fromkeys(ORDER, "ok")
        assert "context double" in findings["cluster"].seen
        assert "OME 0.1.5" in findings["ome"].seen
        assert f"ready on {NODE}" in findings["model"].seen
        assert "4 are free" in findings["gpus"].seen

    def test_nothing_is_left_behind(self, ready: Prepared) -> None:
        ready.findings(manifest=trial())
        assert ready.server.objects("inferenceservices") == []

    def test_an_engine_on_the_cpu_needs_no_gpus(self, ready: Prepared) -> None:
        findings = ready.findings(0, 0)
        assert tuple(findings) == tuple(name for name in ORDER if name != "gpus") == preflight.names(0)
        assert_told(findings["dry_run"], "skipped", "no manifest")


class TestCluster:
    def test_down(self, tmp_path: Path) -> None:
        with prepared(tmp_path) as ready:
            cluster = ready.cluster
        asked = [check() for _, check in preflight.checks(cluster, settings(), Needs(1, 1, None))]
        assert_told(asked[0], "failed", "does not answer (connection refused)", "start the cluster")
        assert {finding.verdict for finding in asked[1:]} == {"skipped"}

    def test_wrong_token(self, ready: Prepared, tmp_path: Path) -> None:
        config = ready.server.kubeconfig(tmp_path)
        config.write_text(config.read_text().replace(ready.server.token, "expired"))
        ready.cluster = connect(Address(str(config), namespace=NAMESPACE))
        findings = ready.findings()
        assert_told(findings["cluster"], "failed", "does not accept your credentials", "log in anew")
        assert {finding.verdict for name, finding in findings.items() if name != "cluster"} == {"skipped"}

    def test_it_goes_away_in_the_middle(self, ready: Prepared) -> None:
        ready.server.faults.add(lambda method, path: "clusterbasemodels" in path, reset=True, times=None)
        checks = dict(preflight.checks(ready.cluster, settings(), Needs(1, 1, None)))
        for name in ("cluster", "namespace", "rights", "ome"):
            assert checks[name]().verdict == "ok"
        ready.cluster.get = away  # type: ignore[method-assign]  # its patience is half a minute
        assert_told(checks["model"](), "failed", "does not answer")
        assert_told(checks["gpus"](), "skipped", "does not answer")


class TestNamespace:
    def test_missing(self, begin: Begin) -> None:
        with begin(without=(f"Namespace {NAMESPACE}",)) as cluster:
            assert_told(cluster.findings()["namespace"], "failed", f"no namespace {NAMESPACE}", f"`kubectl create namespace {NAMESPACE}`")

    def test_not_to_be_seen(self, ready: Prepared) -> None:
        ready.forbid(("get", "namespaces"))
        assert_told(ready.findings()["namespace"], "skipped", "may not be seen")

    def test_being_deleted(self, ready: Prepared) -> None:
        ready.server.faults.add(
            lambda method, path: path == f"/api/v1/namespaces/{NAMESPACE}",
            status=200,
            body={"metadata": {"name": NAMESPACE, "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        )
        assert_told(ready.findings()["namespace"], "failed", "is being deleted")


class TestOme:
    def test_not_installed(self, begin: Begin) -> None:
        with begin(without=("CRD",)) as cluster:
            assert_told(cluster.findings()["ome"], "failed", "OME is not installed", "ome-crd")

    def test_another_version_of_the_api(self, ready: Prepared) -> None:
        faults = ready.server.faults
        faults.add(lambda method, path: path == "/apis/ome.io/v1beta1", status=404, body="404 page not found")
        faults.add(lambda method, path: path == "/apis/ome.io", status=200, body={"versions": [{"version": "v2"}]})
        assert_told(ready.findings()["ome"], "failed", "serves ome.io/v2, not ome.io/v1beta1")

    def test_kinds_are_missing(self, ready: Prepared) -> None:
        body = {"resources": [{"name": "inferenceservices"}, {"name": "servingruntimes"}, {"name": "clusterservingruntimes"}]}
        ready.server.faults.add(lambda method, path: path == "/apis/ome.io/v1beta1", status=200, body=body)
        assert_told(ready.findings()["ome"], "failed", "without BaseModel, ClusterBaseModel")

    def test_no_controller_is_ready(self, begin: Begin) -> None:
        with begin(without=("Deployment",)) as cluster:
            cluster.add(controller(ready=0))
            assert_told(cluster.findings()["ome"], "failed", "ome-controller-manager 0/1 ready", f"kubectl -n {OME} get pods")

    def test_controllers_elsewhere(self, begin: Begin) -> None:
        with begin(without=("Deployment",)) as cluster:
            other = controller()
            other["metadata"]["name"] = "prometheus"  # which ends with the letters of none
            other["spec"]["template"]["spec"]["containers"][0]["image"] = "prom/prometheus:v3.0.0"
            cluster.add(other)
            assert_told(cluster.findings()["ome"], "warning", f"no Deployment of OME in namespace {OME}", "backend.ome_namespace")

    @pytest.mark.parametrize(
        ("image", "verdict"),
        [
            ("ghcr.io/sgl-project/ome-manager:v1.2.2", "ok"),
            ("ghcr.io/sgl-project/ome-manager:latest", "ok"),
            ("registry:5000/ome/manager@sha256:abc", "ok"),
            ("ghcr.io/sgl-project/ome-manager:v0.1.3", "warning"),
            ("ghcr.io/sgl-project/ome-manager:v2.0.0", "warning"),
        ],
    )
    def test_versions(self, begin: Begin, image: str, verdict: str) -> None:
        with begin(without=("Deployment",)) as cluster:
            cluster.add(controller(image))
            assert_told(cluster.findings()["ome"], verdict)

    def test_not_to_be_seen(self, ready: Prepared) -> None:
        ready.server.permissions = lambda verb, group, resource, namespace: namespace != OME
        assert_told(ready.findings()["ome"], "skipped", "ome.io/v1beta1 is served", "may not be seen")


class TestModel:
    @pytest.mark.parametrize(
        ("state", "nodes", "part"),
        [
            ("In_Transit", (), "wait for the download"),
            ("Failed", (), "no token for a gated model"),
            ("Ready", (), "on no node"),
        ],
    )
    def test_not_ready(self, begin: Begin, state: str, nodes: tuple[str, ...], part: str) -> None:
        with begin(without=("ClusterBaseModel",)) as cluster:
            spoiled = model(state, nodes)
            spoiled["status"]["nodesFailed"] = ["gpu-node-9"]
            cluster.add(spoiled)
            assert_told(cluster.findings()["model"], "failed", part, "not on gpu-node-9, where it failed")

    def test_disabled(self, begin: Begin) -> None:
        with begin(without=("ClusterBaseModel",)) as cluster:
            spoiled = model()
            spoiled["spec"]["disabled"] = True
            cluster.add(spoiled)
            assert_told(cluster.findings()["model"], "failed", "is disabled")

    def test_missing(self, ready: Prepared) -> None:
        finding = ready.findings(model={"name": "lama"})["model"]
        assert_told(finding, "failed", "there is no ClusterBaseModel lama", f"set backend.model.name to one of {MODEL}")
        finding = ready.findings(model={"name": MODEL, "kind": "BaseModel"})["model"]
        assert_told(finding, "failed", f"there is no BaseModel {MODEL} in namespace {NAMESPACE}", "deploy/examples/")

    def test_on_a_claim(self, begin: Begin) -> None:
        with begin(without=("ClusterBaseModel",)) as cluster:
            shared = model(nodes=())
            shared["spec"]["storage"] = {"storageUri": "pvc://tuner:models/llama"}
            cluster.add(shared)
            findings = cluster.findings()
        assert_told(findings["model"], "ok", "on a PersistentVolumeClaim")
        assert_told(findings["gpus"], "ok", NODE)

    def test_of_the_namespace(self, ready: Prepared) -> None:
        ready.add(dict(cluster_base_model("own", "/raid/own", "Ready", [NODE], namespace=NAMESPACE)))
        assert_told(ready.findings(model={"name": "own", "kind": "BaseModel"})["model"], "ok", f"BaseModel own is ready on {NODE}")

    def test_not_to_be_seen(self, ready: Prepared) -> None:
        ready.forbid(("get", "clusterbasemodels"))
        findings = ready.findings()
        assert_told(findings["model"], "skipped", "may not be read")
        assert findings["runtime"].verdict == findings["gpus"].verdict == "ok"


class TestRuntime:
    def told(self, begin: Begin, image: str = "ghcr.io/sgl-project/ome-manager:v0.1.5", **changes: Any) -> Finding:
        with begin(without=("ClusterServingRuntime", "Deployment")) as cluster:
            spoiled = runtime()
            spoiled["spec"] |= changes
            cluster.add(spoiled, controller(image))
            return cluster.findings()["runtime"]

    def test_missing(self, ready: Prepared) -> None:
        assert_told(ready.findings(runtime={"name": "srt"})["runtime"], "failed", "no ClusterServingRuntime srt", RUNTIME)

    def test_disabled(self, begin: Begin) -> None:
        assert_told(self.told(begin, disabled=True), "failed", "is disabled")

    def test_several_nodes(self, begin: Begin) -> None:
        engine = {"leader": {"runner": {"name": "ome-container"}}, "worker": {"size": 1}}
        assert_told(self.told(begin, engineConfig=engine), "failed", "over several nodes")

    def test_no_container(self, begin: Begin) -> None:
        assert_told(self.told(begin, engineConfig={}), "failed", "no engineConfig.runner")

    def test_no_image(self, begin: Begin) -> None:
        assert_told(self.told(begin, engineConfig={"runner": {"name": "ome-container"}}), "failed", "set backend.image")

    def test_for_another_model(self, begin: Begin) -> None:
        formats = runtime()["spec"]["supportedModelFormats"]
        formats[0]["modelArchitecture"] = "Qwen3ForCausalLM"
        seen = "is for architecture Qwen3ForCausalLM, the model has LlamaForCausalLM"
        assert_told(self.told(begin, supportedModelFormats=formats), "failed", seen, "never start")
        # which deploys it nevertheless
        later = "ghcr.io/ome-projects/ome-manager:v1.3.0"
        assert_told(self.told(begin, later, supportedModelFormats=formats), "warning", "may not be meant")

    def test_for_larger_models(self, begin: Begin) -> None:
        sizes = {"min": "7B", "max": "70B"}
        assert_told(self.told(begin, modelSizeRange=sizes), "failed", "models of 7B parameters and more, the model has 1.24B")


class TestDryRun:
    def refused(self, ready: Prepared, status: int, message: str) -> Finding:
        body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
        ready.server.faults.add(lambda method, path: method == "POST" and "inferenceservices" in path, status=status, body=body)
        return ready.findings(manifest=trial)["dry_run"]

    def test_a_webhook_refuses(self, ready: Prepared) -> None:
        text = 'admission webhook "inferenceservice.ome-webhook-server.validator" denied the request: referenced model "x" not found'
        assert_told(self.refused(ready, 403, text), "failed", text, "backend.patch")

    def test_no_webhook_answers(self, ready: Prepared) -> None:
        text = 'Internal error occurred: failed calling webhook "x": no endpoints available for service "ome-webhook-server-service"'
        assert_told(self.refused(ready, 500, text), "failed", "webhook does not answer", "ome-controller-manager")

    def test_a_webhook_that_knows_no_dry_run(self, ready: Prepared) -> None:
        text = 'admission webhook "x" does not support dry run'
        assert_told(self.refused(ready, 400, text), "skipped", "no dry run")

    def test_the_schema_refuses(self, ready: Prepared) -> None:
        spoiled = trial()
        spoiled["metadata"]["name"] = "Not A Name"
        assert_told(ready.findings(manifest=spoiled)["dry_run"], "failed", "refuses the InferenceService", "Not A Name")


class TestLeftovers:
    def add(self, ready: Prepared, name: str, owner: str, expires: str) -> None:
        manifest = trial(name)
        manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "tuner"}
        manifest["metadata"]["annotations"] = {"tuner.owner": owner, "tuner.expires-at": expires}
        ready.add(manifest)

    def test_of_the_dead_and_of_those_who_do_not_renew(self, ready: Prepared) -> None:
        me = Owner.current()
        dead = Owner(me.host, me.pid, me.started + 1, me.boot)
        self.add(ready, "mine", me.to_str(), "2999-01-01T00:00:00Z")
        self.add(ready, "elsewhere", "another-host:1:1.0:", "2999-01-01T00:00:00Z")
        assert_told(ready.findings()["leftovers"], "ok")
        self.add(ready, "dead", dead.to_str(), "2999-01-01T00:00:00Z")
        self.add(ready, "expired", "another-host:1:1.0:", "2000-01-01T00:00:00Z")
        finding = ready.findings()["leftovers"]
        assert_told(finding, "warning", "InferenceService dead, InferenceService expired", "`python -m tuner clean`")
        assert "mine" not in finding.seen
        assert "elsewhere" not in finding.seen


def away(*arguments: Any, **options: Any) -> Any:
    raise ApiError.no_answer(ConnectionResetError("Connection reset by peer"))
