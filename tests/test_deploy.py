from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tuner
from tests.cluster.api_server import ApiServer
from tests.cluster.crds import FOLDER as CRDS
from tests.cluster.crds import ome_crds
from tests.cluster.schema import strict_errors
from tests.composing import settings, work
from tuner.backends.ome.fit import Fit, judge
from tuner.backends.ome.rights import RIGHTS
from tuner.cli import _verb, clean
from tuner.cli import run as run_study
from tuner.engines.sglang import Sglang
from tuner.hydra_app import split
from tuner.ome_settings import OmeBackendSettings

__all__ = ["work"]

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))
MANIFESTS = [path for path in FILES if path.name != "kustomization.yaml"]
COMPONENTS = sorted((DEPLOY / "components").iterdir())
SCOPES = {"tuner": "namespace", "ome": "ome_namespace"}

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def relative(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def found(kind: str, *, under: str = "") -> list[Manifest]:
    return [each for path in MANIFESTS if relative(path).startswith(under) for each in documents(path) if each["kind"] == kind]


def one(kind: str, name: str) -> Manifest:
    (manifest,) = (each for each in found(kind) if each["metadata"]["name"] == name)
    return manifest


def pods() -> list[Manifest]:
    """The pod specifications of the Job and the CronJob."""
    return [
        one("Job", "tuner-study")["spec"]["template"]["spec"],
        one("CronJob", "tuner-clean")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    ]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_manifest_says_what_it_is(path: Path) -> None:
    assert documents(path)
    for each in documents(path):
        assert {"apiVersion", "kind"} <= each.keys()
    assert all(len(line) <= 160 for line in path.read_text().splitlines())


@pytest.mark.parametrize("folder", [DEPLOY, *COMPONENTS], ids=lambda folder: folder.name)
def test_kustomizations_list_every_file(folder: Path) -> None:
    (listed,) = documents(folder / "kustomization.yaml")
    here = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == here


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()
    for path in (*MANIFESTS, DEPLOY / "Dockerfile"):
        shown = relative(path.parent) if path.parent.parent.name == "components" else relative(path)
        assert f"`{shown}`" in text, shown


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kustomize_makes_the_same_of_it(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    base = tmp_path / "deploy/kustomization.yaml"
    text = base.read_text()
    assert "components: []" in text
    base.write_text(text.replace("components: []", "components: [components/port-forward, components/free-gpus]"))
    run = subprocess.run(["kubectl", "kustomize", str(base.parent)], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr

    def names(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
        return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in manifests}

    plain = [each for path in MANIFESTS if not relative(path).startswith("examples") for each in documents(path)]
    assert names(list(yaml.safe_load_all(run.stdout))) == names(plain)


class TestRights:
    def granted(self) -> set[tuple[str, str, str, str, str]]:
        rules = set()
        for part in ("rbac.yaml", *(f"components/{folder.name}" for folder in COMPONENTS)):
            grant = "base" if part == "rbac.yaml" else part.partition("/")[2]
            for role in (*found("Role", under=part), *found("ClusterRole", under=part)):
                scope = SCOPES.get(role["metadata"].get("namespace", ""), "cluster")
                for rule in role["rules"]:
                    assert rule.keys() == {"apiGroups", "resources", "verbs"}
                    rules |= {
                        (grant, scope, group, resource, verb)
                        for group in rule["apiGroups"]
                        for resource in rule["resources"]
                        for verb in rule["verbs"]
                    }
        return rules

    def test_what_is_granted_is_exactly_what_is_needed(self) -> None:
        assert self.granted() == {(r.grant, r.scope, r.group, r.resource, verb) for r in RIGHTS for verb in r.verbs}

    def test_nothing_is_granted_by_a_wildcard(self) -> None:
        assert not [rule for rule in self.granted() if "*" in rule]

    def test_every_role_is_bound_to_the_service_account(self) -> None:
        roles = {
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in (*found("Role"), *found("ClusterRole"))
        }
        bound = set()
        for binding in (*found("RoleBinding"), *found("ClusterRoleBinding")):
            reference = binding["roleRef"]
            bound.add((reference["kind"], binding["metadata"].get("namespace"), reference["name"]))
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "tuner", "namespace": "tuner"}]
        assert bound == roles

    def test_each_is_documented(self) -> None:
        page = (ROOT / "docs/kubernetes.md").read_text()
        for right in RIGHTS:
            assert right.why in page, right


class TestPods:
    def test_names_lead_to_what_is_there(self) -> None:
        for pod in pods():
            assert pod["serviceAccountName"] == one("ServiceAccount", "tuner")["metadata"]["name"]
            for volume in pod["volumes"]:
                if claim := volume.get("persistentVolumeClaim"):
                    assert one("PersistentVolumeClaim", claim["claimName"])
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}

    def test_the_image_is_the_one_that_the_kustomization_replaces(self) -> None:
        (kustomization,) = documents(DEPLOY / "kustomization.yaml")
        (image,) = kustomization["images"]
        assert {container["image"] for pod in pods() for container in pod["containers"]} == {f"{image['name']}:{image['newTag']}"}
        assert image["newTag"] == tuner.__version__

    def test_they_may_do_no_more_than_they_need(self) -> None:
        for pod in pods():
            assert pod["securityContext"]["runAsNonRoot"] is True
            (container,) = pod["containers"]
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/home/tuner", "/tmp"}
            assert "memory" in container["resources"]["limits"]

    def test_no_secret_stands_in_a_manifest(self) -> None:
        for pod in pods():
            for variable in pod["containers"][0].get("env", ()):
                assert "value" not in variable or "TOKEN" not in variable["name"]
        assert not found("Secret")

    def test_an_attempt_resumes_the_study_and_a_wrong_configuration_ends_it(self) -> None:
        job = one("Job", "tuner-study")["spec"]
        assert job["backoffLimit"] > 0
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # or else there is no podFailurePolicy
        failed, ignored = job["podFailurePolicy"]["rules"]
        assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [2])
        assert (ignored["action"], ignored["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])

    def test_the_server_of_the_moment_can_be_removed_before_the_pod_is_killed(self) -> None:
        backend = settings("+experiment=llama1b_ome").backend
        assert isinstance(backend, OmeBackendSettings)
        grace_s = pods()[0]["terminationGracePeriodSeconds"]
        assert grace_s > backend.stop_grace_s + backend.delete_timeout_s

    def test_one_sweep_at_a_time(self) -> None:
        cron = one("CronJob", "tuner-clean")["spec"]
        assert cron["concurrencyPolicy"] == "Forbid"
        minutes = int(re.fullmatch(r"\*/(\d+) \* \* \* \*", cron["schedule"])[1])  # type: ignore[index]
        assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 60 * minutes


class TestCommandLines:
    @pytest.mark.parametrize(("index", "verb"), [(0, run_study), (1, clean)], ids=["job", "cronjob"])
    def test_tuner_takes_them(self, index: int, verb: Any) -> None:
        (container,) = pods()[index]["containers"]
        assert container["command"] == ["python", "-m", "tuner"]
        options, words = split(container["args"])
        chosen, overrides = _verb(words)
        assert (options, chosen) == ([], verb)
        assert settings(*overrides).backend.name == "ome"

    def test_namespaces_are_those_of_the_settings(self) -> None:
        backend = settings("+experiment=llama1b_ome").backend
        assert isinstance(backend, OmeBackendSettings)
        assert {role["metadata"]["namespace"] for role in found("Role")} == {
            one("Namespace", "tuner")["metadata"]["name"],
            backend.ome_namespace,
        }


class TestExamples:
    @pytest.mark.slow  # reading the definitions takes seconds
    @pytest.mark.skipif(not CRDS.exists(), reason="OME's CRDs are not here")
    @pytest.mark.parametrize("kind", ["ClusterServingRuntime", "ClusterBaseModel"])
    def test_they_are_valid(self, kind: str) -> None:
        (crd,) = (crd for crd in ome_crds() if crd["spec"]["names"]["kind"] == kind)
        (manifest,) = found(kind, under="examples")
        assert strict_errors(crd, manifest) == []

    def test_they_are_for_the_experiment(self) -> None:
        chosen = settings("+experiment=llama1b_ome")
        (model,), (runtime,) = found("ClusterBaseModel"), found("ClusterServingRuntime")
        assert isinstance(chosen.backend, OmeBackendSettings)
        assert model["metadata"]["name"] == chosen.backend.model.name
        assert model["spec"]["storage"]["storageUri"] == f"hf://{chosen.engine.model}"
        # a runtime of the catalogue is others' too: the example must not be written over it
        assert runtime["metadata"]["name"] != chosen.backend.runtime.name

    def test_the_runtime_serves_the_model(self) -> None:
        (model,), (runtime,) = found("ClusterBaseModel"), found("ClusterServingRuntime")
        # as the model agent fills it in
        model["spec"] |= {
            "modelFormat": {"name": "safetensors", "version": "1.0.0"},
            "modelFramework": {"name": "transformers", "version": "4.45.0.dev0"},
            "modelArchitecture": "LlamaForCausalLM",
            "modelParameterSize": "1.24B",
        }
        assert judge(model, runtime) == Fit()

    def test_tuner_can_take_over_its_flags(self) -> None:
        (runtime,) = found("ClusterServingRuntime")
        runner = runtime["spec"]["engineConfig"]["runner"]
        engine = Sglang("org/model", image=runner["image"], model_path="$(MODEL_PATH)")
        assert engine.read_flags(runner["command"]) == {"enable_metrics": True, "tp_size": 1}

    def test_the_queue_admits_the_runtimes_resources(self) -> None:
        (queue,) = found("ClusterQueue")
        (group,) = queue["spec"]["resourceGroups"]
        (runtime,) = found("ClusterServingRuntime")
        assert set(group["coveredResources"]) == set(runtime["spec"]["engineConfig"]["runner"]["resources"]["requests"])
        (flavor,) = group["flavors"]
        assert flavor["name"] == found("ResourceFlavor")[0]["metadata"]["name"]
        assert {resource["name"] for resource in flavor["resources"]} == set(group["coveredResources"])
        (local,) = found("LocalQueue")
        assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]


class TestOnTheDouble:
    @pytest.fixture
    def server(self) -> Iterator[ApiServer]:
        with ApiServer() as server:
            server.seed({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ome"}})
            yield server

    def create(self, server: ApiServer, manifest: Manifest) -> tuple[int, str]:
        group, _, version = manifest["apiVersion"].rpartition("/")
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        scope = f"/namespaces/{manifest['metadata']['namespace']}" if "namespace" in manifest["metadata"] else ""
        url = f"{server.url}{root}{scope}/{manifest['kind'].lower()}s?fieldValidation=Strict"
        headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(manifest).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def test_it_takes_them_in_their_order(self, server: ApiServer) -> None:
        (kustomization,) = documents(DEPLOY / "kustomization.yaml")
        for name in (*kustomization["resources"], *(f"components/{folder.name}/rbac.yaml" for folder in COMPONENTS)):
            for manifest in documents(DEPLOY / name):
                status, text = self.create(server, manifest)
                assert status == 201, (name, text)


class TestDockerfile:
    TEXT = (DEPLOY / "Dockerfile").read_text()

    def stages(self) -> list[str]:
        return re.split(r"^FROM ", self.TEXT, flags=re.MULTILINE)[1:]

    def test_what_it_copies_is_there_and_not_ignored(self) -> None:
        kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copied = set()
        for words in re.findall(r"^COPY (?!--)(.+) \S+$", self.TEXT, re.MULTILINE):
            copied |= set(words.split())
        assert copied == kept
        assert all((ROOT / name).exists() for name in copied)

    def test_all_versions_are_pinned(self) -> None:
        assert "PIP_CONSTRAINT=constraints.txt" in self.TEXT
        assert re.search(r"^ARG BASE=python:3\.11-", self.TEXT, re.MULTILINE)

    def test_the_last_stage_has_no_compiler_and_no_root(self) -> None:
        last = self.stages()[-1]
        assert "build-essential" not in last
        assert "pip install" not in last
        user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
        assert user
        for pod in pods():
            assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user[1]), int(user[2]))

    def test_the_pods_find_their_command(self) -> None:
        assert re.search(r"PATH=/opt/tuner/bin:\$PATH", self.stages()[-1])
        assert "ENTRYPOINT" not in self.TEXT
