"""Step times from a data sheet: bytes over bandwidth, operations over peak, whichever takes longer, and what comes on top."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.landscapes.model import Model


@dataclass(frozen=True, slots=True)
class Chip:
    """One kind of GPU, by its data sheet.

    Attributes:
        bytes_per_s: Memory bandwidth.
        flops: Dense 16-bit tensor operations per second.
        link_bytes_per_s: Bandwidth to its neighbours, one direction.
        link_s: Latency of one all-reduce.
    """

    bytes_per_s: float
    flops: float
    link_bytes_per_s: float
    link_s: float


H100 = Chip(bytes_per_s=3.35e12, flops=989e12, link_bytes_per_s=450e9, link_s=8e-6)
"""H100 SXM5 [NVIDIA data sheet]; the latency is what custom all-reduce kernels take on NVLink, as an order of magnitude."""

BANDWIDTH_SHARE = 0.8
COMPUTE_SHARE = 0.7
"""What good kernels reach of the data sheet."""

HALF_TOKENS = 96
"""Tokens at which matrix products reach half of `COMPUTE_SHARE`: tiles are not full below."""

LAYER_S = 12e-6
"""Seconds of a layer that neither bytes nor operations explain: launches, norms, gaps."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A source of step times, by a formula."""

    model: Model
    chip: Chip
    tp: int

    def prefill_s(self, tokens: int, context: float) -> float:
        """As `Source.prefill_s`."""
        attention = 4 * self.model.layers * self.model.heads * self.model.head_dim * tokens * context / self.tp
        return self._pass_s(tokens) + attention / (COMPUTE_SHARE * self.chip.flops)

    def decode_s(self, batch: int, context: float) -> float:
        """As `Source.decode_s`."""
        return self._pass_s(batch) + batch * context * self.model.kv_token_bytes(self.tp) / (BANDWIDTH_SHARE * self.chip.bytes_per_s)

    def _pass_s(self, tokens: int) -> float:
        """All but the attention."""
        weights = self.model.weight_bytes / self.tp / (BANDWIDTH_SHARE * self.chip.bytes_per_s)
        efficiency = COMPUTE_SHARE * tokens / (tokens + HALF_TOKENS)
        operations = 2 * self.model.matrix_weights * tokens / self.tp / (efficiency * self.chip.flops)
        return max(weights, operations) + self.model.layers * LAYER_S + self._all_reduce_s(tokens)

    def _all_reduce_s(self, tokens: int) -> float:
        """Two of them in each layer."""
        if self.tp == 1:
            return 0.0
        sent = 2 * (self.tp - 1) / self.tp * tokens * self.model.hidden * 2
        return 2 * self.model.layers * (self.chip.link_s + sent / self.chip.link_bytes_per_s)
