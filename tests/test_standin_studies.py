"""Whole studies of SGLang and vLLM, on this host and in containers: a user's command, the real genai-bench, and doubles of the engines."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from pathlib import Path

import docker
import pytest

from tests.standins.running import SGLANG, VLLM
from tests.warm_tuner import WarmRun
from tuner.backends.docker_request import STUDY_LABEL
from tuner.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.slow

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


@pytest.fixture
def model(run: WarmRun, nano_engine: LlamaCpp) -> Path:
    """A model's folder without weights; those that a double takes for it are 20 GiB, on a GPU of 40."""
    folder = run.folder / "model"
    shutil.copytree(nano_engine.tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    run.environment |= {"STANDIN_GPU_GIB": "40", "STANDIN_WEIGHTS_GIB": "20"}
    return folder


def options(engine: str, double: Path, model: Path, *space: str) -> list[str]:
    program = f"engine.executable=[{sys.executable},{double}]"
    return [f"engine={engine}", f"space={engine}", "backend=local", "backend.gpus=[]", program, f"engine.model={model}", *space]


def in_container(engine: str, image: str, double: Path, model: Path) -> list[str]:
    """The same double and simulated GPU, in the image of the tests."""
    program = f"engine.executable=[python3,/srv/{double.name}]"
    gpu = "+backend.environment={STANDIN_GPU_GIB: '40', STANDIN_WEIGHTS_GIB: '20'}"
    where = ["backend=docker", "backend.gpus=[]", f"engine.image={image}", gpu]
    return [f"engine={engine}", f"space={engine}", program, f"engine.model={model}", *where]


def reasons(run: WarmRun) -> str:
    infeasible = [trial.user_attrs for trial in run.finished() if trial.user_attrs["outcome"] == "infeasible"]
    return "\n".join(attributes["reason"] for attributes in infeasible)


def test_sglang(run: WarmRun, model: Path) -> None:
    space = (
        "space.mem_fraction_static={type:float,low:0.347,high:0.998,step:0.217,default:0.781}",
        "space.max_running_requests=2",
        "space.chunked_prefill_size=512",
        "space.tp_size=1",
    )
    code, output = run.finish("trials=4", *options("sglang", SGLANG, model, *space))
    assert code == 0, output
    assert "Pareto front" in output
    finished = run.finished()
    measured = [trial for trial in finished if trial.user_attrs["outcome"] == "measured"]
    assert {trial.user_attrs["configuration"].get("mem_fraction_static") for trial in measured} == {None, 0.564}
    assert all("0.5.23" in trial.user_attrs["versions"]["sglang"] for trial in measured)
    assert {trial.user_attrs["effective"]["max_running_requests"] for trial in measured} == {2}
    assert "Raise --mem-fraction-static above 0.507" in reasons(run)
    assert "Capture cuda graph failed" in reasons(run)
    assert run.processes() == []


def test_vllm(run: WarmRun, model: Path) -> None:
    space = (
        "space.gpu_memory_utilization={type:float,low:0.5,high:0.98,step:0.16}",
        "+space.gpu_memory_utilization.default=0.82",
        "space.max_num_seqs=1024",
        "space.max_num_batched_tokens=1024",
        "space.tensor_parallel_size=1",
    )
    code, output = run.finish("trials=4", *options("vllm", VLLM, model, *space))
    assert code == 0, output
    assert "Pareto front" in output
    measured = [trial for trial in run.finished() if trial.user_attrs["outcome"] == "measured"]
    assert {trial.user_attrs["configuration"].get("gpu_memory_utilization") for trial in measured} == {None, 0.66}
    assert all("0.33.0" in trial.user_attrs["versions"]["vllm"] for trial in measured)
    assert "No available memory for the cache blocks" in reasons(run)
    assert "occurred when warming up sampler with 1024 dummy requests" in reasons(run)
    assert run.processes() == []


@pytest.mark.parametrize(
    ("engine", "double", "space", "reason"),
    [
        (
            "sglang",
            SGLANG,
            ["space.mem_fraction_static={low:0.45,high:0.55,step:0.1,default:0.55}", "space.max_running_requests=8"],
            "Raise --mem-fraction-static above 0.507",
        ),
        (
            "vllm",
            VLLM,
            [
                "space.gpu_memory_utilization={low:0.5,high:0.8,step:0.3}",
                "+space.gpu_memory_utilization.default=0.8",
                "space.max_num_seqs=8",
            ],
            "No available memory for the cache blocks",
        ),
    ],
)
def test_in_containers(
    run: WarmRun, model: Path, daemon: docker.DockerClient, docker_image: str, engine: str, double: Path, space: list[str], reason: str
) -> None:
    study = f"standin-{engine}-{secrets.token_hex(4)}"
    chunk = "space.chunked_prefill_size=512" if engine == "sglang" else "space.max_num_batched_tokens=512"
    code, output = run.finish("trials=2", *in_container(engine, docker_image, double, model), *space, chunk, f"study_name={study}")
    assert code == 0, output
    default, other = run.finished()
    assert default.user_attrs["outcome"] == "measured"
    assert default.user_attrs["startup"]["weights_gib"] == pytest.approx(20, rel=0.05)
    assert default.user_attrs["server"]["2"].keys() >= {"running_max", "queued_max", "kv_usage_max", "preemptions"}
    assert other.user_attrs["outcome"] == "infeasible"
    assert other.user_attrs["memory"] == "load"
    assert reason in other.user_attrs["reason"]
    assert "docker run" in output
    assert daemon.api.containers(all=True, filters={"label": f"{STUDY_LABEL}={study}"}) == []
