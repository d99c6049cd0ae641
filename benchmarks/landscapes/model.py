"""What simulator and memory model need of a model: its shape as tuner reads it, and the widths that tuner has no use for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tuner.feasibility.memory import GIB, kv_token_bytes
from tuner.feasibility.model_shape import ModelShape

FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Model:
    """A dense model in 16 bits.

    Attributes:
        shape: As tuner reads it.
        hidden: Width of the residual stream.
        intermediate: Width of the gated layers.
        heads: Query heads.
        vocabulary: Tokens.
    """

    shape: ModelShape
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int

    @classmethod
    def read(cls, name: str) -> Self:
        """The model in `models/<name>`: config.json and the index of its weights."""
        shape = ModelShape.read(FOLDER / name)
        config = json.loads((FOLDER / name / "config.json").read_text())
        if shape is None:
            raise ValueError(f"models/{name}/config.json: not a model that tuner.feasibility.model_shape knows")
        return cls(shape, config["hidden_size"], config["intermediate_size"], config["num_attention_heads"], config["vocab_size"])

    @property
    def layers(self) -> int:
        return self.shape.layers

    @property
    def head_dim(self) -> int:
        return self.shape.head_dim

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return self.shape.weight_bytes or 0

    @property
    def weights_gib(self) -> float:
        """All weights."""
        return self.weight_bytes / GIB

    @property
    def matrix_weights(self) -> float:
        """Weights that every token is multiplied with: all but the table of embeddings."""
        return self.weight_bytes / 2 - self.vocabulary * self.hidden

    def kv_token_bytes(self, tp: int) -> int:
        """Bytes of one token in the KV cache of one GPU."""
        return kv_token_bytes(self.shape, tp, 1, 2)
