"""The prior of a case that is not known: directions of the knobs, taken from one that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tuner.feasibility.model_shape import ModelShape
from tuner.feasibility.rules import EngineRules
from tuner.launch import Value
from tuner.prior import gpu_specs
from tuner.prior.closed_loop import Traffic
from tuner.prior.gpu_specs import GpuSpec
from tuner.prior.model_work import ModelWork
from tuner.prior.roofline import Roofline

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCABULARY = 32, 4096, 32, 8, 128, 14336, 128256
MODEL = ModelWork(
    shape=ModelShape(None, None, False, LAYERS, KV_HEADS, HEAD_DIM, None, True, 2),
    layers=LAYERS,
    hidden=HIDDEN,
    heads=HEADS,
    vocabulary=VOCABULARY,
    plain_weights=LAYERS * HIDDEN * (2 * HEAD_DIM * (HEADS + KV_HEADS) + 3 * WIDTH) + HIDDEN * VOCABULARY,
    head_weights=HIDDEN * VOCABULARY,
    expert_weights=0,
    experts=1,
    experts_per_token=0,
    weight_bytes=2.0,
)
"""Llama-3.1-8B in bf16 [its config.json]."""
GPU = "NVIDIA H100 80GB HBM3"
MEMORY_GIB = 79.6
"""Of that GPU, as NVML tells it."""


class NominalRoofline(Roofline):
    """The roofline of Llama-3.1-8B on an H100, for a model or a GPU that is not known; what is known of the two stays.

    The weights take no memory, so that the KV cache grows with the memory fraction, and what fits on a GPU or a model of another size is
    not refused. The sampler learns scale and offset, so that only directions count.

    Args:
        rules: The engine's.
        fixed: Values of parameters that a configuration does not give.
        work: The model's; None where it is not known.
        gpu: The data sheet of the GPUs; None where they are not known.
        traffic: What is asked for.
    """

    name = "nominal roofline"
    trust = 0.3

    def __init__(
        self, rules: EngineRules, fixed: Mapping[str, Value], work: ModelWork | None, gpu: GpuSpec | None, traffic: Traffic
    ) -> None:
        model, spec = work or MODEL, gpu or gpu_specs.find(GPU)
        assert spec is not None, "it is listed"
        weightless = replace(model, shape=replace(model.shape, weight_bytes=None))
        super().__init__(rules, fixed, weightless, spec, MEMORY_GIB, traffic)
