"""Where GPU memory goes and at which stage it runs out, as SGLang divides it. Sizes in GiB and of one GPU."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.landscapes.model import Model
from tuner.feasibility.memory import GIB, kv_budget, weights_per_gpu

CONTEXT_GIB = 0.5
NCCL_GIB = 0.4
"""What a CUDA context and, with more than one GPU, the communication buffers take before the load."""


@dataclass(frozen=True, slots=True)
class Appetite:
    """What a deployment needs beside weights and KV cache. A tuner cannot know it beforehand, and it differs by model, GPU and kernels.

    Attributes:
        workspace: Of attention and matrix kernels.
        graph_mib: MiB of the CUDA graphs for each request of the largest captured batch; 2 in SGLang's own reserve.
        activations: How often the activations of a step are held at once: fragments, copies, temporaries.
    """

    workspace: float
    graph_mib: float
    activations: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one GPU of a replica.

    Attributes:
        model: The model.
        memory: All memory of the GPU.
        tp: GPUs of the replica.
        fraction: `mem_fraction_static`.
        graph_batch: `cuda_graph_max_bs_decode`.
        appetite: What else is needed.
    """

    model: Model
    memory: float
    tp: int
    fraction: float
    graph_batch: int
    appetite: Appetite

    @property
    def _free(self) -> float:
        """Before the load: SGLang's fraction is of this."""
        return self.memory - CONTEXT_GIB - (NCCL_GIB if self.tp > 1 else 0.0)

    @property
    def kv_tokens(self) -> int:
        """Capacity of the KV cache, negative where the weights alone do not fit."""
        weights = weights_per_gpu(self.model.shape, self.tp) or 0.0
        return int(kv_budget(self._free, self.fraction, weights) * GIB // self.model.kv_token_bytes(self.tp))

    @property
    def captures(self) -> bool:
        """Whether there is room for the CUDA graphs and for a first small batch."""
        return self._graphs + self._logits(self.graph_batch) <= self._slack

    def runs(self, tokens: int, batch: int) -> bool:
        """Whether there is room for steps of up to `tokens` prompt tokens and up to `batch` requests."""
        activations = tokens * (6 * self.model.hidden + 3 * self.model.intermediate / self.tp) * 2 / GIB
        return self._graphs + self._logits(batch) + self.appetite.activations * activations <= self._slack

    @property
    def _slack(self) -> float:
        return self._free * (1 - self.fraction)

    @property
    def _graphs(self) -> float:
        return self.appetite.workspace + self.graph_batch * self.appetite.graph_mib / 1024

    def _logits(self, batch: int) -> float:
        """In 32 bits, twice: logits and probabilities of SGLang."""
        return batch * self.model.vocabulary * 8 / GIB
