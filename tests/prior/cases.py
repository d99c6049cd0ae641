"""Priors of models that look like downloaded ones."""

from __future__ import annotations

from pathlib import Path

from tests.feasibility.model_folders import downloaded
from tuner.feasibility.rules import RULES
from tuner.launch import Value
from tuner.prior import gpu_specs
from tuner.prior.closed_loop import Traffic
from tuner.prior.gpu_specs import GpuSpec
from tuner.prior.model_work import ModelWork
from tuner.prior.roofline import Roofline

H100 = "NVIDIA H100 80GB HBM3"
CHAT = Traffic(input_tokens=1024, output_tokens=256, requests_per_user=3, output_sd=100)


def work(folder: Path, name: str = "Llama-3.1-8B") -> ModelWork:
    """The work of one of `model_folders.PARAMETERS`."""
    found = ModelWork.read(downloaded(folder, name))
    assert found is not None
    return found


def spec(product: str = H100) -> GpuSpec:
    """A data sheet that is known."""
    found = gpu_specs.find(product)
    assert found is not None
    return found


def roofline(folder: Path, engine: str = "sglang", traffic: Traffic = CHAT, model: str = "Llama-3.1-8B", **fixed: Value) -> Roofline:
    """The roofline of one H100 or several."""
    return Roofline(RULES[engine], fixed, work(folder, model), spec(), 79.1, traffic)
