"""The analytic prior: bytes over bandwidth, operations over peak, and what a step costs besides."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.feasibility.memory import kv_token_bytes
from tuner.prior.gpu_specs import GpuSpec
from tuner.prior.model_work import ModelWork
from tuner.prior.serving import ServingPrior
from tuner.prior.step_times import Layout, StepTimes

# Shares of the data sheet's numbers that are reached, and fixed costs; where they come from stands in docs/prior.md.
WEIGHTS_BANDWIDTH = 0.86
KV_BANDWIDTH = 0.83
MATRIX_FLOPS = 0.77
ATTENTION_FLOPS = 0.545
SHARPNESS = 2.7
"""How sharp the roof's edge is; reading and multiplying overlap ever less towards it."""
LAYER_S = 33e-6
"""Norms, activations and the ends of kernels, for each layer of a step in a CUDA graph."""
TOKEN_LAYER_BYTES = 133
"""Bytes that norms and activations read and write for each token, layer and value of the hidden state."""
NVLINK_S = 7e-6
PCIE_S = 25e-6
"""One all-reduce of next to nothing."""
LINK_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class RooflineSteps:
    """Step times of one model on one kind of GPU in one layout, in closed form."""

    work: ModelWork
    gpu: GpuSpec
    layout: Layout

    def seconds(self, prefills: float, new: float, prefix: float, decoding: float, context: float) -> float:
        """See `StepTimes`."""
        work, gpu, tp = self.work, self.gpu, self.layout.tp
        chunk = prefills * new
        tokens = chunk + decoding
        width = work.bytes_per_weight(self.layout.quantization)
        peak = gpu.fp8_flops if width == 1 else gpu.bf16_flops
        reading = width * work.read_weights(tokens) / (gpu.memory_bytes_per_s * WEIGHTS_BANDWIDTH)
        multiplying = 2 * (work.working_weights() * tokens + work.head_weights * (prefills + decoding)) / (peak * MATRIX_FLOPS)
        value_bytes = work.kv_value_bytes(self.layout.kv_cache_dtype)
        cached = decoding * context * kv_token_bytes(work.shape, tp, 1, value_bytes) / (gpu.memory_bytes_per_s * KV_BANDWIDTH)
        # scores and weighted sums, each two operations for every query head, dimension and pair of tokens
        pairs = chunk * (prefix + new / 2)
        attending = 4 * pairs * work.heads * work.shape.head_dim * work.layers / tp / (gpu.bf16_flops * ATTENTION_FLOPS)
        passing = tokens * work.layers * work.hidden * TOKEN_LAYER_BYTES / (gpu.memory_bytes_per_s * WEIGHTS_BANDWIDTH)
        matrices: float = (reading**SHARPNESS + multiplying**SHARPNESS) ** (1 / SHARPNESS)
        return (matrices + passing) / tp + cached + attending + work.layers * LAYER_S + self._reducing(tokens)

    def _reducing(self, tokens: float) -> float:
        """Two all-reduces of the hidden state in each layer, each sending and receiving 2 (tp - 1) / tp of it (NCCL's ring)."""
        tp = self.layout.tp
        if tp == 1:
            return 0.0
        once = NVLINK_S if self.gpu.nvlink else PCIE_S
        sent = 2 * (tp - 1) / tp * tokens * self.work.hidden * 2 / (self.gpu.link_bytes_per_s * LINK_SHARE)
        return 2 * self.work.layers * (once + sent)


class Roofline(ServingPrior):
    """The prior that needs nothing but the data sheet of the GPU and the shape of the model."""

    name = "roofline"

    def step_times(self, layout: Layout) -> StepTimes:
        """See `ServingPrior`."""
        return RooflineSteps(self.work, self.gpu, layout)
