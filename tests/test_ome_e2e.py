"""A short study on a real cluster with OME, when `TUNER_E2E_KUBECONFIG` names its kubeconfig.

`TUNER_E2E_BASE_MODEL` and `TUNER_E2E_RUNTIME` name the ClusterBaseModel and the ClusterServingRuntime, `TUNER_E2E_MODEL` the hub id of the
tokenizer (all default to Llama-3.2-1B-Instruct of OME's catalogue), `TUNER_E2E_NAMESPACE` the namespace, `TUNER_E2E_OPTIONS` further
overrides, as `benchmark.mode=job benchmark.job.image=registry/tuner:1`.
"""

from __future__ import annotations

import os
import shlex

import pytest

from tests.user import Run
from tuner.backends.ome.backend import Ome
from tuner.backends.ome.sweep import owned
from tuner.ome_settings import OmeBackendSettings

KUBECONFIG = os.environ.get("TUNER_E2E_KUBECONFIG", "")
NAMES = {
    "backend.model.name": os.environ.get("TUNER_E2E_BASE_MODEL", "llama-3-2-1b-instruct"),
    "backend.runtime.name": os.environ.get("TUNER_E2E_RUNTIME", "srt-llama-3-2-1b-instruct"),
    "engine.model": os.environ.get("TUNER_E2E_MODEL", "meta-llama/Llama-3.2-1B-Instruct"),
    "backend.namespace": os.environ.get("TUNER_E2E_NAMESPACE", "default"),
}
DEADLINE_S = 3600

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * DEADLINE_S),
    pytest.mark.skipif(not KUBECONFIG, reason="TUNER_E2E_KUBECONFIG names no cluster with OME"),
]


def test_a_study_leaves_nothing_behind(run: Run) -> None:
    run.environment |= {"KUBECONFIG": KUBECONFIG}
    names = [f"{key}={value}" for key, value in NAMES.items()]
    load = ["workload.levels=[1,8]", "workload.min_requests=8", "workload.requests_per_user=2"]
    further = shlex.split(os.environ.get("TUNER_E2E_OPTIONS", ""))
    process = run.start("+experiment=llama1b_ome", "trials=3", "study_name=tuner-e2e", "seed=1", *names, *load, *further, quick=False)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert len(run.finished()) == 3
    assert "Pareto front" in output
    settings = OmeBackendSettings(name="ome", kubeconfig=KUBECONFIG, namespace=NAMES["backend.namespace"])
    assert [item for _, item in owned(Ome(settings).cluster()) if item["metadata"]["annotations"].get("tuner.study") == "tuner-e2e"] == []
