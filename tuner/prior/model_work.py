"""What the files of a model say about the work of a step: weights to read, operations and bytes for each token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tuner.feasibility.memory import KV_VALUE_BYTES
from tuner.feasibility.model_shape import ModelShape, attention_weights, expert_count, positive_int, read_json, sparse_layers

_NARROW = {"fp8": 1.0}
"""Bytes of a weight by the engines' parameter `quantization`, for those that quantize a model while they load it."""


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of one whole model, on one GPU.

    Attributes:
        shape: What decides about memory.
        layers: Transformer layers.
        hidden: Values that pass from layer to layer for each token.
        heads: Heads of queries.
        vocabulary: Tokens that the output layer tells apart.
        plain_weights: Weights that every step reads, those of the output layer too; not the table of embeddings, of which it reads rows.
        head_weights: Those of the output layer, which works only for tokens that are sampled.
        expert_weights: Weights of one expert over all layers; 0 in a dense model.
        experts: Experts of a layer; 1 in a dense model.
        experts_per_token: How many of them work for one token; 0 in a dense model.
        weight_bytes: Bytes of one weight in a matrix.
    """

    shape: ModelShape
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    plain_weights: int
    head_weights: int
    expert_weights: int
    experts: int
    experts_per_token: int
    weight_bytes: float

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The work that `config.json` in `folder` describes; None where `ModelShape.read` tells nothing, or no size of the weights."""
        shape = ModelShape.read(folder)
        if shape is None or shape.weight_bytes is None:
            return None
        whole = read_json(folder / "config.json")
        text = whole.get("text_config", whole)
        hidden, heads, vocabulary = (positive_int(text, name) for name in ("hidden_size", "num_attention_heads", "vocab_size"))
        attention, width = attention_weights(text), positive_int(text, "intermediate_size", "moe_intermediate_size")
        if hidden is None or heads is None or vocabulary is None or attention is None or width is None:
            return None
        head = hidden * vocabulary
        plain = shape.layers * attention + head
        experts, per_token, expert = expert_count(text), 0, 0
        dense_layers = shape.layers
        if experts is not None:
            expert_width = positive_int(text, "moe_intermediate_size", "intermediate_size") or width
            sparse = sparse_layers(text, shape.layers) or shape.layers
            per_token = positive_int(text, "num_experts_per_tok", "moe_k", "moe_topk") or 1
            shared = positive_int(text, "shared_expert_intermediate_size") or expert_width * (
                positive_int(text, "n_shared_experts", "moe_num_shared_experts") or 0
            )
            expert = sparse * 3 * hidden * expert_width
            plain += sparse * 3 * hidden * shared
            dense_layers -= sparse
        plain += dense_layers * 3 * hidden * width
        matrices = plain - head + expert * (experts or 0)
        # what is stored, less the embeddings that are stored wide beside it, over the weights: 2, 1 or about a half
        stored = shape.weight_bytes - 2 * head
        bytes_each = min((0.5, 1.0, 2.0), key=lambda width_bytes: abs(stored / matrices - width_bytes))
        return cls(shape, shape.layers, hidden, heads, vocabulary, plain, head, expert, experts or 1, per_token, bytes_each)

    def bytes_per_weight(self, quantization: str | None) -> float:
        """Bytes of one weight in a matrix when the engine is told `quantization`; as stored where it is told nothing."""
        return min(self.weight_bytes, _NARROW.get(str(quantization), self.weight_bytes))

    def read_weights(self, tokens: float) -> float:
        """How many weights a step with `tokens` reads: each expert that at least one token is sent to, were they all as likely."""
        if not self.expert_weights:
            return self.plain_weights
        missed: float = (1 - self.experts_per_token / self.experts) ** tokens
        return self.plain_weights + self.expert_weights * self.experts * (1 - missed)

    def working_weights(self) -> int:
        """Weights that one token is multiplied with, but for the output layer."""
        return self.plain_weights - self.head_weights + self.expert_weights * self.experts_per_token

    def kv_value_bytes(self, kind: str) -> int:
        """Bytes of one stored value with `kv_cache_dtype=kind`."""
        return KV_VALUE_BYTES.get(kind, self.shape.kv_value_bytes or 2)
