"""Part of the doubles of SGLang and vLLM: the memory of a GPU that is not there. GiB throughout.

STANDIN_GPU_GIB is its size (80), STANDIN_BUSY_GIB what others hold of it (0), STANDIN_GPUS how many there are, STANDIN_WEIGHTS_GIB the
model's weights where its files do not tell, STANDIN_ACTIVATION_MIB the working memory for each token of a prefill (0.5; SGLang reserves
1.5, which is generous).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 / 1024
CONTEXT = 0.5
"""Taken by CUDA's context before anything is loaded."""

_LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
"""Of Llama-3.2-1B-Instruct, taken for any model that is not here."""


class OutOfMemoryError(RuntimeError):
    """torch's, by its name in a traceback."""

    __module__ = "torch"


@dataclass(frozen=True, slots=True)
class Model:
    """What the memory and the checks depend on."""

    config: dict[str, Any]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    weights: float

    @property
    def architecture(self) -> str:
        return str(self.config.get("architectures", ["LlamaForCausalLM"])[0])

    def token(self, tp: int, pp: int, kv_dtype: str) -> float:
        """KV cache of one token on one GPU."""
        value_bytes = 1.0 if "fp8" in kv_dtype else 0.5 if "fp4" in kv_dtype else 2.0
        return self.layers / pp * max(1, self.kv_heads // tp) * self.head_dim * 2 * value_bytes / 2**30


def read_model(model: str) -> Model:
    """The model in a folder, by its `config.json`; that of a hub id is taken for a Llama of 1B."""
    folder = Path(model)
    file = folder / "config.json"
    config: dict[str, Any] = json.loads(file.read_text()) if file.exists() else _LLAMA_1B
    text = config.get("text_config", config)
    heads = text["num_attention_heads"]
    size = sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)) / 2**30
    return Model(
        config=config,
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads", heads),
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        vocab=text["vocab_size"],
        context=text.get("max_position_embeddings", 2048),
        weights=_number("STANDIN_WEIGHTS_GIB", size or _estimate(text)),
    )


def _estimate(config: dict[str, Any]) -> float:
    """The weights of a Llama in 16 bits."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_share = config.get("num_key_value_heads", heads) / heads
    layer = hidden * hidden * (2 + 2 * kv_share) + 3 * hidden * config.get("intermediate_size", 4 * hidden)
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return float(config["num_hidden_layers"] * layer + embeddings) * 2 / 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    total: float
    busy: float
    activation: float
    """Working memory for each token of a prefill."""

    @property
    def free(self) -> float:
        """Free when the engine has started and nothing is loaded."""
        return self.total - self.busy - CONTEXT

    def allocate(self, wanted: float, free: float) -> None:
        """Raises torch's error where `wanted` exceeds `free`."""
        if wanted > free:
            raise self._out_of_memory(wanted, free)

    def _out_of_memory(self, wanted: float, free: float) -> OutOfMemoryError:
        used = self.total - free
        return OutOfMemoryError(
            f"CUDA out of memory. Tried to allocate {max(wanted, 0.01):.2f} GiB. GPU 0 has a total capacity of {self.total:.2f} GiB of "
            f"which {max(free, 0):.2f} GiB is free. Including non-PyTorch memory, this process has {used:.2f} GiB memory in use. Of the "
            f"allocated memory {max(used - 1, 0):.2f} GiB is allocated by PyTorch, and 212.43 MiB is reserved by PyTorch but unallocated. "
            "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid "
            "fragmentation.  See documentation for Memory Management  "
            "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
        )


def this_gpu() -> Gpu:
    return Gpu(_number("STANDIN_GPU_GIB", 80.0), _number("STANDIN_BUSY_GIB", 0.0), _number("STANDIN_ACTIVATION_MIB", 0.5) * MIB)


def visible_gpus() -> int:
    """How many GPUs the process sees: STANDIN_GPUS, or those of CUDA_VISIBLE_DEVICES, or eight."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return int(_number("STANDIN_GPUS", len(visible.split(",")) if visible else 8))


def _number(name: str, default: float) -> float:
    return float(os.environ.get(name, default))
