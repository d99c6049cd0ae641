"""Every manifest that a configuration can produce is one that OME takes, and one whose words arrive as they were meant."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.crds import ome_crds
from tests.cluster.objects import cluster_serving_runtime
from tests.cluster.pod_network import expand
from tests.cluster.schema import strict_errors
from tuner.backends.base import Place
from tuner.backends.ome.catalogue import Runtime
from tuner.backends.ome.manifest import CONTAINER, Lease, escaped, exported, inference_service, label_value, unique_name
from tuner.composition import compose
from tuner.engines.base import Engine
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, Infeasible
from tuner.hydra_app import plain
from tuner.launch import LaunchSpec, Value
from tuner.ome_settings import OmeBackendSettings
from tuner.settings import Settings, load

LEASE = Lease.of("host:1:2.0:boot", 900)
MODEL = "meta-llama/Llama-3.2-1B-Instruct"
ENGINES: Mapping[str, Engine] = {
    "sglang": Sglang(MODEL, model_path="$(MODEL_PATH)"),
    "vllm": Vllm(MODEL, model_path="$(MODEL_PATH)"),
    "llamacpp": LlamaCpp("nano", model_path="$(MODEL_PATH)"),
}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # OME's webhook
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def crd() -> Any:
    return next(each for each in ome_crds() if each["spec"]["names"]["kind"] == "InferenceService")


def backend(**changes: Any) -> OmeBackendSettings:
    return OmeBackendSettings.model_validate({"name": "ome", "model": {"name": "m"}, "runtime": {"name": "r"}} | changes)


def runtime(**changes: Any) -> Runtime:
    manifest = cluster_serving_runtime("r", **changes)
    return Runtime(manifest, manifest["spec"]["engineConfig"]["runner"])


def make(spec: LaunchSpec, chosen: OmeBackendSettings | None = None, study: str = "some-study", trial: int = 3) -> dict[str, Any]:
    place = Place(study, trial, Path())
    return inference_service(unique_name(place), spec, chosen or backend(), "tuner", runtime(), place, LEASE)


def space(name: str) -> Settings:
    """The shipped space of an engine with each of its sizes raised to what a node of eight GPUs allows."""
    sizes = {"sglang": "tp_size", "vllm": "tensor_parallel_size"}
    widened = [f"space.{sizes[name]}.high=8"] if name in sizes else []
    model = "engine.model=nano" if name == "llamacpp" else f"engine.model={MODEL}"
    return load(plain(compose([f"engine={name}", f"space={name}", model, "backend=ome", *widened])))


def configurations(name: str) -> st.SearchStrategy[dict[str, Value]]:
    parameters = space(name).space.parameters
    some = {key: st.sampled_from(list(parameter.values())) for key, parameter in parameters.items()}
    return st.fixed_dictionaries({}, optional=some)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_of_every_configuration_of_the_shipped_spaces(name: str) -> None:
    schema = crd()

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(configurations(name), st.text(min_size=1, max_size=40), st.integers(0, 10**7))
    def check(configuration: dict[str, Value], study: str, trial: int) -> None:
        try:
            spec = ENGINES[name].launch(configuration, "t-1")
        except Infeasible:
            return
        manifest = make(spec, study=study, trial=trial)
        assert strict_errors(schema, manifest) == []
        metadata = manifest["metadata"]
        assert NAME.fullmatch(metadata["name"])
        assert len(metadata["name"]) <= 40
        assert all(LABEL.fullmatch(value) for value in metadata["labels"].values())
        engine = manifest["spec"]["engine"]
        assert (engine["minReplicas"], engine["maxReplicas"], engine["runner"]["name"]) == (1, 1, CONTAINER)
        assert not {"router", "decoder", "acceleratorSelector"} & manifest["spec"].keys()
        assert engine["runner"]["command"]
        assert "{{" not in json.dumps(engine)
        gpus = engine["runner"].get("resources", {})
        assert gpus == ({kind: {"nvidia.com/gpu": str(spec.gpus)} for kind in ("requests", "limits")} if spec.gpus else {})
        assert strict_errors(schema, exported(spec, backend(), "tuner", runtime())) == []

    check()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=30).filter(lambda word: "{{" not in word), min_size=1, max_size=6))
def test_words_arrive_as_they_are(words: list[str]) -> None:
    variables = {"MODEL_PATH": "/mnt/model", "HOME": "/root"}
    arrived = [expand(escaped(word, "$(NO_SUCH)"), variables) for word in words]
    assert arrived == words or any("$(NO_SUCH)" in word for word in words)


@pytest.mark.parametrize(
    ("word", "arrives"),
    [
        ("$(MODEL_PATH)", "/mnt/model"),
        ("--model-path=$(MODEL_PATH)", "--model-path=/mnt/model"),
        ("$(HOME)", "$(HOME)"),
        ("$$(MODEL_PATH)x", "$/mnt/modelx"),
        ('{"a":"$b"}', '{"a":"$b"}'),
    ],
)
def test_only_the_path_of_the_model_is_expand(word: str, arrives: str) -> None:
    assert expand(escaped(word, "$(MODEL_PATH)"), {"MODEL_PATH": "/mnt/model", "HOME": "/root"}) == arrives


def test_beginnings_of_templates_are_refused() -> None:
    with pytest.raises(Infeasible, match="beginning of a template"):
        escaped('{"a":{{', "$(MODEL_PATH)")


def test_names_differ_in_their_last_twenty_characters() -> None:
    names = {unique_name(Place("s", trial, Path()))[-20:] for trial in range(200)}
    assert len(names) == 200


def test_label_values() -> None:
    assert label_value("Qwen 3 @ home+") == "Qwen-3---home"
    assert label_value("-" * 80) == ""
    assert len(label_value("x" * 80)) == 63


class TestRunner:
    SPEC = ENGINES["sglang"].launch({}, "t")

    def runner(self, chosen: OmeBackendSettings | None = None, spec: LaunchSpec = SPEC) -> dict[str, Any]:
        runner: dict[str, Any] = make(spec, chosen)["spec"]["engine"]["runner"]
        return runner

    def test_command_and_args_are_whole(self) -> None:
        runner = self.runner()
        assert runner["command"] == ["python3", "-m", "sglang.launch_server"]
        assert runner["args"][:2] == ["--model-path", "$(MODEL_PATH)"]
        assert runner["args"][runner["args"].index("--port") + 1] == "8080"
        assert "image" not in runner, "it is the runtime's"

    def test_image_environment_and_secrets_by_reference(self) -> None:
        environment = {"NCCL_DEBUG": "INFO", "N": 3, "FAST": True, "HF_TOKEN": {"secret": "hf", "key": "token"}}
        runner = self.runner(backend(image="own:1", environment=environment))
        assert runner["image"] == "own:1"
        assert runner["env"] == [
            {"name": "NCCL_DEBUG", "value": "INFO"},
            {"name": "N", "value": "3"},
            {"name": "FAST", "value": "true"},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
        ]

    def test_no_secret_of_the_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "HF_TOKEN", "hf_secret")
        spec = LaunchSpec(("serve",), "m", env={"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"})
        manifest = json.dumps(make(spec))
        assert "hf_secret" not in manifest
        assert "HF_HUB_OFFLINE" in manifest

    def test_probes_change_only_where_the_runtime_has_them(self) -> None:
        runner = self.runner()
        assert runner["readinessProbe"] == {"periodSeconds": 5}
        assert "startupProbe" not in runner
        bare = Runtime({}, {})
        place = Place("s", 0, Path())
        made = inference_service("x", self.SPEC, backend(), "tuner", bare, place, LEASE)["spec"]["engine"]["runner"]
        assert not {"readinessProbe", "startupProbe", "livenessProbe"} & made.keys()
        slow = Runtime({}, {"startupProbe": {"httpGet": {"path": "/", "port": 1}, "initialDelaySeconds": 60}})
        made = inference_service("x", self.SPEC, backend(), "tuner", slow, place, LEASE)["spec"]["engine"]["runner"]
        assert made["startupProbe"] == {"initialDelaySeconds": 1, "periodSeconds": 5, "failureThreshold": 241}


class TestPatch:
    @pytest.mark.slow
    def test_is_merged(self) -> None:
        chosen = backend(
            local_queue="trials",
            patch={
                "metadata": {"labels": {"team": "a"}, "annotations": {"ome.io/autoscalerClass": None}},
                "spec": {"engine": {"nodeSelector": {"pool": "a"}, "runner": {"resources": {"limits": {"cpu": "8"}}}}},
            },
        )
        manifest = make(TestRunner.SPEC, chosen)
        assert strict_errors(crd(), manifest) == []
        assert manifest["metadata"]["labels"] | {"team": "a", "kueue.x-k8s.io/queue-name": "trials"} == manifest["metadata"]["labels"]
        assert "ome.io/autoscalerClass" not in manifest["metadata"]["annotations"]
        assert manifest["spec"]["engine"]["nodeSelector"] == {"pool": "a"}
        assert manifest["spec"]["engine"]["runner"]["resources"]["limits"] == {"nvidia.com/gpu": "1", "cpu": "8"}

    @pytest.mark.parametrize(
        ("patch", "key"),
        [
            ({"metadata": {"name": "x"}}, "backend.patch.metadata.name"),
            ({"spec": {"engine": {"runner": {"args": ["--x"]}}}}, "backend.patch.spec.engine.runner.args"),
            ({"spec": {"engine": {"maxReplicas": 3}}}, "backend.patch.spec.engine.maxReplicas"),
            ({"metadata": {"annotations": {"tuner.owner": "me"}}}, "backend.patch.metadata.annotations.tuner.owner"),
            ({"spec": {"engine": None}}, "backend.patch.spec.engine"),
            ({"spec": ["engine"]}, "backend.patch.spec"),
            ({"status": {}}, "backend.patch.status"),
        ],
    )
    def test_leaves_alone_what_tuner_sets(self, patch: dict[str, Any], key: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(key)):
            backend(patch=patch)


def test_an_export_carries_no_marks_of_tuner() -> None:
    manifest = exported(ENGINES["sglang"].launch({"tp_size": 2}, ""), backend(local_queue="prod"), "tuner", runtime())
    assert manifest["metadata"] == {
        "namespace": "tuner",
        "labels": {"kueue.x-k8s.io/queue-name": "prod"},
        "annotations": {"ome.io/autoscalerClass": "external"},
        "name": "m-llama-3-2-1b-instruct-tuned",
    }
    assert "tuner." not in json.dumps(manifest)
