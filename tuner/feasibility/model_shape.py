"""What the files of a model say about memory: the least that its weights take, and what a token takes in the KV cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_DENSE = {"granite", "llama", "ministral3", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3"}
_EXPERTS = {"deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "kimi_k2", "minimax_m2", "mixtral", "qwen2_moe", "qwen3_moe"}
_SLIDING = {"gemma2", "gemma3_text", "gpt_oss"}
_KNOWN_TYPES = _DENSE | _EXPERTS | _SLIDING
"""Model types whose weights `_count` counts: never more than there are, and at least 99.9 % of them. Each was checked against the model
that transformers 5.24 builds (kimi_k2 is deepseek_v3 under another name)."""

_WIDTH = 2
"""Bytes of a weight that is not quantized. Checkpoints in float32 too: both engines make `dtype=auto` 16 bits of them [sglang
server_args.py, vllm config/model.py]."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The part of a model's shape that decides about memory. Everything here errs, if it does, on the small side.

    Attributes:
        weight_bytes: The least that all weights together take when they are served as they are stored; None where it cannot be told.
        quantization: `quant_method` of the checkpoint; None where it declares none.
        experts: Whether most weights are those of experts.
        layers: Transformer layers.
        kv_heads: Heads of keys and values of one layer, where they are stored one by one.
        head_dim: Values of one head.
        latent: Values that a token stores per layer in place of keys and values, with multi-head latent attention; None without.
        full_attention: Whether every layer keeps every token, so that a request's KV cache is its tokens times that of one.
        kv_value_bytes: Bytes of one stored value with `kv_cache_dtype=auto`; None where the checkpoint may decide otherwise.
    """

    weight_bytes: int | None
    quantization: str | None
    experts: bool
    layers: int
    kv_heads: int
    head_dim: int
    latent: int | None
    full_attention: bool
    kv_value_bytes: int | None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The shape that `config.json` in `folder` describes; None where it is missing, unreadable or of a model type not known here.

        The files with the weights may be missing; where they or their index are there, their size counts as well.
        """
        whole = read_json(folder / "config.json")
        text = whole.get("text_config", whole)  # of a multimodal model only the part that generates: the other may be left unloaded
        if not isinstance(text, dict) or text.get("model_type") not in _KNOWN_TYPES:
            return None
        layers, hidden, heads = (positive_int(text, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
        count = _count(text)
        if layers is None or hidden is None or heads is None or count is None:
            return None
        matrices, embeddings = count
        declared = whole.get("quantization_config", text.get("quantization_config"))
        stored = _stored_bytes(folder)
        plain = _WIDTH * (matrices + embeddings)
        if isinstance(declared, dict):
            bits = _bits(declared)
            quantization = str(declared.get("quant_method", "")) or None
            auto = None if _decides_on_kv_cache(declared) else _WIDTH
        else:
            # ModelOpt declares it in a file of its own, which need not have been fetched: only the full size shows that there is none
            whole_width = stored is not None and stored >= 0.9 * plain
            bits = 16 if whole_width else 4
            quantization = None
            auto = _WIDTH if whole_width else None
        weights = None if bits is None else matrices * bits // 8 + _WIDTH * embeddings
        return cls(
            weight_bytes=weights if weights is None or stored is None else min(weights, stored),
            quantization=quantization,
            experts=expert_count(text) is not None,
            layers=layers,
            kv_heads=positive_int(text, "num_key_value_heads") or heads,
            head_dim=positive_int(text, "head_dim") or hidden // heads,
            latent=_latent(text),
            full_attention=_full_attention(text),
            kv_value_bytes=auto,
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where it is missing, unreadable or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def positive_int(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` that holds a positive integer."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)


def _count(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Weights in matrices, which a quantization makes smaller, and in the table of embeddings, which none does; not norms and biases."""
    hidden, layers, vocabulary = (positive_int(config, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    attention = attention_weights(config)
    if hidden is None or layers is None or vocabulary is None or attention is None:
        return None
    embeddings = hidden * vocabulary
    matrices = layers * attention + (0 if config.get("tie_word_embeddings", True) else embeddings)
    dense_layers, gated = layers, 3 * hidden
    if (experts := expert_count(config)) is not None:
        width = positive_int(config, "moe_intermediate_size", "intermediate_size")
        sparse = sparse_layers(config, layers)
        if width is None or sparse is None:
            return None
        shared = positive_int(config, "shared_expert_intermediate_size") or width * (
            positive_int(config, "n_shared_experts", "moe_num_shared_experts") or 0
        )
        matrices += sparse * gated * (experts * width + shared)
        dense_layers = layers - sparse
    if dense_layers:
        width = positive_int(config, "intermediate_size")
        if width is None:
            return None
        matrices += dense_layers * gated * width
    return matrices, embeddings


def attention_weights(config: Mapping[str, Any]) -> int | None:
    """Weights of the attention of one layer; None where the configuration does not say."""
    hidden, heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    if hidden is None or heads is None:
        return None
    if (latent := _latent(config)) is not None:
        names = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
        plain, rotary, value, rank = (positive_int(config, name) for name in names)
        if plain is None or rotary is None or value is None or rank is None:
            return None
        query = heads * (plain + rotary)
        query_rank = positive_int(config, "q_lora_rank")
        queries = hidden * query if query_rank is None else query_rank * (hidden + query)
        return queries + hidden * latent + rank * heads * (plain + value) + heads * value * hidden
    kv_heads = positive_int(config, "num_key_value_heads")
    return None if kv_heads is None else 2 * hidden * (positive_int(config, "head_dim") or hidden // heads) * (heads + kv_heads)


def _latent(config: Mapping[str, Any]) -> int | None:
    rank, rotary = positive_int(config, "kv_lora_rank"), positive_int(config, "qk_rope_head_dim")
    return None if rank is None or rotary is None else rank + rotary


def expert_count(config: Mapping[str, Any]) -> int | None:
    """Experts of a layer to which tokens are sent; None in a dense model."""
    return positive_int(config, "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")


def sparse_layers(config: Mapping[str, Any], layers: int) -> int | None:
    """How many layers have experts; None where they follow a pattern that is not counted here."""
    for name in ("decoder_sparse_step", "moe_layer_freq", "moe_layer_interval"):
        if config.get(name, 1) != 1:
            return None
    dense = positive_int(config, "first_k_dense_replace", "moe_layer_start_index") or len(config.get("mlp_only_layers") or ())
    return max(0, layers - dense)


def _full_attention(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types") or ()
    sliding = bool(config.get("sliding_window")) and config.get("use_sliding_window") is not False
    return config["model_type"] not in _SLIDING and not sliding and set(kinds) <= {"full_attention"}


def _bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of the narrowest weights; None for a method not known here."""
    match quantization.get("quant_method"):
        case "fp8" | "fbgemm_fp8":
            return 8
        case "mxfp4":
            return 4
        case "gptq" | "awq":
            return positive_int(quantization, "bits", "w_bit")
        case "compressed-tensors":
            groups = quantization.get("config_groups")
            weights = [group.get("weights") or {} for group in groups.values()] if isinstance(groups, dict) else []
            bits = [positive_int(weight, "num_bits") for weight in weights]
            return min((each or 4 for each in bits), default=None)
        case "modelopt":
            algorithm = str(quantization.get("quant_algo"))
            return 8 if algorithm == "FP8" else 4 if "FP4" in algorithm or "W4" in algorithm else None
        case _:
            return None


def _decides_on_kv_cache(quantization: Mapping[str, Any]) -> bool:
    """Whether it names a format for the KV cache too (`kv_cache_scheme`, `kv_cache_quant_algo`)."""
    return any(name.startswith("kv_cache") and value for name, value in quantization.items())


def _stored_bytes(folder: Path) -> int | None:
    """Size of the checkpoint. It may hold more than is served (draft layers, encoders, duplicates, float32), but never less."""
    metadata = read_json(folder / "model.safetensors.index.json").get("metadata")
    total = positive_int(metadata, "total_size") if isinstance(metadata, dict) else None
    return total or sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file()) or None
