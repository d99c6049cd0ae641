"""Short studies with the real SGLang and vLLM on a real GPU: `pytest -m gpu`. Left out everywhere else.

Needs Docker with the NVIDIA Container Toolkit, the images of `conf/engine/`, and a small model, which TUNER_GPU_MODEL names.
"""

from __future__ import annotations

import os

import docker
import pytest

from tests.user import Run
from tuner.backends.docker_request import OWNER_LABEL

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(3600)]

MODEL = os.environ.get("TUNER_GPU_MODEL", "Qwen/Qwen3-0.6B")
STUDY = (
    "backend=docker",
    f"engine.model={MODEL}",
    "workload=chat",
    "workload.scenario=D(128,32)",
    "workload.levels=[1,16]",
    "trials=3",
)


@pytest.mark.parametrize(
    ("engine", "fraction"),
    [("sglang", "mem_fraction_static={low:0.3,high:0.6,default:0.6}"), ("vllm", "gpu_memory_utilization={low:0.3,high:0.6,step:0.1}")],
)
def test_a_study_in_containers(run: Run, engine: str, fraction: str) -> None:
    process = run.start(*STUDY, f"engine={engine}", f"space={engine}", f"space.{fraction}", quick=False)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    measured = [trial for trial in run.finished() if trial.user_attrs["outcome"] == "measured"]
    assert measured, output
    for trial in measured:
        assert trial.user_attrs["startup"].keys() >= {"weights_gib", "kv_tokens"}
        assert trial.user_attrs["server"]["16"]["running_max"] > 1
        assert trial.user_attrs["versions"][engine] != "unknown"
    assert docker.from_env().containers.list(all=True, filters={"label": OWNER_LABEL}) == []


def test_what_certainly_does_not_fit_is_refused(run: Run) -> None:
    process = run.start(*STUDY, "engine=sglang", "space=sglang", "space.mem_fraction_static=0.01", quick=False)
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert "mem_fraction_static" in output
    assert "needed" in output
