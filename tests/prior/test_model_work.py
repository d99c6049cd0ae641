from __future__ import annotations

from pathlib import Path

import pytest

from tests.feasibility.model_folders import PARAMETERS, config, model_folder
from tests.prior.cases import work
from tuner.prior.model_work import ModelWork


@pytest.mark.parametrize(("name", "width"), [("Llama-3.1-8B", 2), ("Qwen3-30B-A3B", 2), ("Qwen3-235B-A22B-FP8", 1), ("DeepSeek-V3", 1)])
def test_adds_up_to_the_parameters_of_the_model(name: str, width: int, tmp_path: Path) -> None:
    found = work(tmp_path, name)
    embeddings = found.head_weights
    assert found.plain_weights + found.expert_weights * found.experts + embeddings == pytest.approx(PARAMETERS[name], rel=0.002)
    assert found.weight_bytes == width


@pytest.mark.parametrize(("name", "active"), [("Qwen3-30B-A3B", 3.3e9), ("Qwen3-235B-A22B-FP8", 22e9), ("DeepSeek-V3", 37e9)])
def test_active_parameters_are_those_of_the_models_names(name: str, active: float, tmp_path: Path) -> None:
    found = work(tmp_path, name)
    assert found.working_weights() + 2 * found.head_weights == pytest.approx(active, rel=0.05)


def test_one_token_reads_its_experts_and_many_read_all(tmp_path: Path) -> None:
    found = work(tmp_path, "Qwen3-30B-A3B")
    assert found.read_weights(1) == pytest.approx(found.working_weights() + found.head_weights)
    assert found.read_weights(10_000) == pytest.approx(found.plain_weights + 128 * found.expert_weights)


def test_quantizing_never_widens(tmp_path: Path) -> None:
    assert work(tmp_path).bytes_per_weight("fp8") == 1
    assert work(tmp_path).bytes_per_weight(None) == 2
    assert work(tmp_path, "DeepSeek-V3").bytes_per_weight("unheard_of") == 1


def test_weights_in_four_bits(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, config("Llama-3.1-8B") | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    found = ModelWork.read(folder)
    assert found is not None
    assert found.weight_bytes == 0.5


def test_unknown_models(tmp_path: Path) -> None:
    assert ModelWork.read(tmp_path) is None
    assert ModelWork.read(model_folder(tmp_path, config("Llama-3.1-8B") | {"model_type": "mamba"})) is None
