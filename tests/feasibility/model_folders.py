"""Folders that look like downloaded models: a published `config.json`, and an index with the size of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.feasibility.memory import GIB
from tuner.feasibility.model_shape import ModelShape
from tuner.gpus import Gpu

MODELS = Path(__file__).parent / "models"

# Parameters, as published on the models' pages; DeepSeek-V3 without the 14e9 of its draft layer, which is stored too but not served.
PARAMETERS = {
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B-FP8": 235_093_634_560,
    "DeepSeek-V3": 671_026_419_200,
}


def config(name: str) -> dict[str, Any]:
    """The published `config.json` of a model."""
    content: dict[str, Any] = json.loads((MODELS / f"{name}.json").read_text())
    return content


def model_folder(folder: Path, content: dict[str, Any], stored_bytes: int | None = None) -> Path:
    """Writes a model's `config.json`, and the index of its checkpoint where its size is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    if stored_bytes is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": stored_bytes}, "weight_map": {}}))
    return folder


def downloaded(folder: Path, name: str) -> Path:
    """The folder of one of `PARAMETERS`, with its checkpoint's size."""
    content = config(name)
    width = 1 if "quantization_config" in content else 2
    return model_folder(folder / name, content, PARAMETERS[name] * width)


def shape(folder: Path, name: str) -> ModelShape:
    """The shape of one of `PARAMETERS`."""
    found = ModelShape.read(downloaded(folder, name))
    assert found is not None
    return found


def gpus(count: int, memory_gib: float = 79.1, taken_gib: float = 0.6) -> tuple[Gpu, ...]:
    """GPUs of which the driver and others hold `taken_gib`."""
    memory, free = int(memory_gib * GIB), int((memory_gib - taken_gib) * GIB)
    return tuple(Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", memory, free, (9, 0)) for index in range(count))
