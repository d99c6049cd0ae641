"""The model's shape: weights and KV cache as read from its files, and silence where they tell too little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.feasibility.model_folders import PARAMETERS, config, downloaded, model_folder, shape
from tuner.feasibility.model_shape import ModelShape


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_those_published(tmp_path: Path, name: str) -> None:
    content = config(name)
    weights = shape(tmp_path, name).weight_bytes
    embeddings = content["vocab_size"] * content["hidden_size"]
    expected = PARAMETERS[name] + embeddings if "quantization_config" in content else 2 * PARAMETERS[name]
    stored = PARAMETERS[name] * (1 if "quantization_config" in content else 2)
    assert weights == pytest.approx(min(expected, stored), rel=0.001)


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_never_more_than_stored(tmp_path: Path, name: str) -> None:
    read = ModelShape.read(model_folder(tmp_path, config(name), 1000))
    assert read is not None
    assert read.weight_bytes == 1000


def test_a_size_without_declared_quantization_is_not_believed_from_config_alone(tmp_path: Path) -> None:
    """ModelOpt's checkpoints declare their quantization in another file."""
    read = ModelShape.read(model_folder(tmp_path, config("Llama-3.1-70B")))
    assert read is not None
    assert read.weight_bytes == pytest.approx(PARAMETERS["Llama-3.1-70B"] / 2, rel=0.05)
    assert read.kv_value_bytes is None


def test_what_is_stored_but_not_served_does_not_count(tmp_path: Path) -> None:
    """DeepSeek stores its draft layer as well, and float32 checkpoints are served in 16 bits."""
    deepseek = ModelShape.read(model_folder(tmp_path / "a", config("DeepSeek-V3"), 688_586_727_753))
    assert deepseek is not None
    assert deepseek.weight_bytes == pytest.approx(671_845_646_336)
    llama = config("Llama-3.1-8B") | {"torch_dtype": "float32"}
    read = ModelShape.read(model_folder(tmp_path / "b", llama, 4 * PARAMETERS["Llama-3.1-8B"]))
    assert read is not None
    assert read.weight_bytes == pytest.approx(2 * PARAMETERS["Llama-3.1-8B"], rel=0.001)


def test_files_count_where_there_is_no_index(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, config("Llama-3.2-1B"))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(2_471_645_608)
    (folder / "lost.safetensors").symlink_to(folder / "gone")
    read = ModelShape.read(folder)
    assert read is not None
    assert read.weight_bytes == 2 * 1_235_746_816
    assert read.kv_value_bytes == 2


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "gptq", "bits": 4}, 4),
        ({"quant_method": "awq", "bits": 4}, 4),
        ({"quant_method": "mxfp4"}, 4),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 8}}, "b": {"weights": {"num_bits": 4}}}},
            4,
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, None),
        ({"quant_method": "gptq"}, None),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, None),
        ({"quant_method": "some-new-thing"}, None),
        ({}, None),
    ],
)
def test_declared_quantization(tmp_path: Path, quantization: dict[str, Any], bits: int | None) -> None:
    content = config("Llama-3.1-8B") | {"quantization_config": quantization}
    read = ModelShape.read(model_folder(tmp_path, content))
    assert read is not None
    assert read.quantization == quantization.get("quant_method")
    embeddings = 128256 * 4096
    expected = None if bits is None else pytest.approx((PARAMETERS["Llama-3.1-8B"] - embeddings) * bits / 8 + 2 * embeddings, rel=0.001)
    assert read.weight_bytes == expected


@pytest.mark.parametrize("name", ["kv_cache_scheme", "kv_cache_quant_algo"])
def test_a_checkpoint_may_decide_on_the_kv_cache(tmp_path: Path, name: str) -> None:
    content = config("Llama-3.1-8B") | {"quantization_config": {"quant_method": "fp8", name: "FP8"}}
    read = ModelShape.read(model_folder(tmp_path / "a", content))
    assert read is not None
    assert read.kv_value_bytes is None
    content["quantization_config"][name] = None
    read = ModelShape.read(model_folder(tmp_path / "b", content))
    assert read is not None
    assert read.kv_value_bytes == 2


def test_multimodal_models_count_the_part_that_generates(tmp_path: Path) -> None:
    content = {"model_type": "llava", "vision_config": {"hidden_size": 1024}, "text_config": config("Llama-3.1-8B")}
    read = ModelShape.read(model_folder(tmp_path, content, 17 * 10**9))
    assert read is not None
    assert read.weight_bytes == pytest.approx(2 * PARAMETERS["Llama-3.1-8B"], rel=0.001)


def test_multi_head_latent_attention(tmp_path: Path) -> None:
    deepseek = shape(tmp_path, "DeepSeek-V3")
    assert deepseek.latent == 576
    assert deepseek.full_attention
    assert deepseek.experts


@pytest.mark.parametrize(
    ("change", "full"),
    [
        ({}, True),
        ({"sliding_window": None}, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, True),
        ({"sliding_window": 4096}, False),
        ({"layer_types": ["full_attention"] * 32}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"layer_types": ["linear_attention"]}, False),
        ({"model_type": "gemma2"}, False),
    ],
)
def test_layers_that_do_not_keep_every_token(tmp_path: Path, change: dict[str, Any], full: bool) -> None:
    read = ModelShape.read(model_folder(tmp_path, config("Llama-3.1-8B") | change))
    assert read is not None
    assert read.full_attention is full


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "jamba"},
        {"model_type": None},
        {"num_hidden_layers": None},
        {"hidden_size": "4096"},
        {"num_attention_heads": True},
        {"num_key_value_heads": None},
        {"vocab_size": 0},
        {"intermediate_size": None},
        {"text_config": []},
        {"model_type": "qwen3_moe", "num_experts": 8, "decoder_sparse_step": 2},
        {"model_type": "deepseek_v3", "kv_lora_rank": 512, "qk_rope_head_dim": 64},
    ],
)
def test_unknown_where_config_tells_too_little(tmp_path: Path, change: dict[str, Any]) -> None:
    assert ModelShape.read(model_folder(tmp_path, config("Llama-3.1-8B") | change)) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_unknown_where_config_is_broken(tmp_path: Path, text: str) -> None:
    assert ModelShape.read(tmp_path / "nowhere") is None
    (tmp_path / "config.json").write_text(text)
    assert ModelShape.read(tmp_path) is None


def test_a_broken_index_is_no_size(tmp_path: Path) -> None:
    folder = downloaded(tmp_path, "Llama-3.1-8B")
    (folder / "model.safetensors.index.json").write_text('{"metadata": []}')
    read = ModelShape.read(folder)
    assert read is not None
    assert read.weight_bytes == pytest.approx(PARAMETERS["Llama-3.1-8B"] / 2, rel=0.25)
