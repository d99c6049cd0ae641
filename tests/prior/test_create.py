from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from tests.feasibility.model_folders import config, downloaded, gpus, model_folder
from tuner.gpus import Gpu
from tuner.prior.create import create
from tuner.prior.nominal import NominalRoofline
from tuner.prior.roofline import Roofline
from tuner.settings import Workload

CHAT = Workload(scenario="D(1024,256)", levels=(1, 64))


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `prior` is not installed."""
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_roofline_where_nothing_was_measured(engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    prior = create(engine, {}, downloaded(tmp_path, "Llama-3.1-8B"), gpus(2), CHAT)
    assert isinstance(prior, Roofline)
    assert caplog.messages == ["aiconfigurator-core is not installed: pip install 'tuner[prior]' adds its measured kernels to the prior"]
    predicted = prior.predict({}, 64)
    assert predicted is not None
    assert 1000 < predicted["output_tokens_per_s"] < 10_000


@pytest.mark.usefixtures("nothing_measured")
def test_the_scenario_counts(tmp_path: Path) -> None:
    folder = downloaded(tmp_path, "Llama-3.1-8B")
    scenarios = ("N(100,10)/(64,4)", "U(100,8000)/(64,64)")
    short, long = (create("vllm", {}, folder, gpus(1), Workload(scenario=scenario, levels=(1,))) for scenario in scenarios)
    assert short is not None
    assert long is not None
    assert (short.predict({}, 8) or {})["ttft_mean_s"] < (long.predict({}, 8) or {})["ttft_mean_s"]


def unknown(folder: Path) -> Path:
    return model_folder(folder / "unknown", config("Llama-3.1-8B") | {"model_type": "mamba"})


@pytest.mark.parametrize(
    ("engine", "model", "found", "scenario", "missing"),
    [
        ("llamacpp", "Llama-3.1-8B", gpus(1), "D(100,10)", "engine llamacpp"),
        ("sglang", "Llama-3.1-8B", (), "D(100,10)", "servers without GPUs"),
        ("sglang", "Llama-3.1-8B", gpus(1), "dataset", "workload.scenario=dataset"),
    ],
)
def test_none_with_one_line_of_why(
    engine: str,
    model: str | None,
    found: tuple[Gpu, ...] | None,
    scenario: str,
    missing: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    workload = Workload(scenario=scenario, levels=(1,), dataset="prompts.txt" if scenario == "dataset" else None)
    assert create(engine, {}, downloaded(tmp_path, model) if model else unknown(tmp_path), found, workload) is None
    assert len(caplog.messages) == 1
    assert missing in caplog.text


@pytest.mark.parametrize(
    ("model", "found", "missing"),
    [
        (None, None, "the model and GPUs that cannot be seen"),
        (None, gpus(1), "the model"),
        ("Llama-3.1-70B", None, "GPUs that cannot be seen"),
        ("Llama-3.1-70B", (Gpu(0, "GPU-0", "Tesla T4", 1, 1, (7, 5)),), "GPUs Tesla T4"),
        ("Llama-3.1-70B", (*gpus(1), Gpu(1, "GPU-1", "NVIDIA L4", 1, 1, (8, 9))), "GPUs NVIDIA H100 80GB HBM3, NVIDIA L4"),
    ],
)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_nominal_case_where_model_or_gpus_are_not_known(
    engine: str, model: str | None, found: tuple[Gpu, ...] | None, missing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    prior = create(engine, {}, downloaded(tmp_path, model) if model else unknown(tmp_path), found, CHAT)
    assert isinstance(prior, NominalRoofline)
    assert caplog.messages == [f"the prior tells only directions: it knows nothing of {missing}"]
    assert prior.predict({}, 64) is not None


def test_a_model_that_is_known_stays(tmp_path: Path) -> None:
    folder = downloaded(tmp_path, "Llama-3.1-70B")
    large, nominal = (create("sglang", {}, each, None, CHAT) for each in (folder, None))
    assert large is not None
    assert nominal is not None
    assert (large.predict({}, 8) or {})["tpot_mean_s"] > 4 * (nominal.predict({}, 8) or {})["tpot_mean_s"]
