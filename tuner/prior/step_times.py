"""How long one iteration of an engine takes: the only thing in which priors differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides about the time of a step besides the step itself.

    Attributes:
        tp: GPUs that share every layer.
        quantization: Quantization that the engine is told; None serves the weights as they are stored.
        kv_cache_dtype: Format of the KV cache, `auto` being the model's own.
    """

    tp: int
    quantization: str | None
    kv_cache_dtype: str


class StepTimes(Protocol):
    """The times of steps in one layout. Numbers of requests and tokens are means, so they need not be whole."""

    def seconds(self, prefills: float, new: float, prefix: float, decoding: float, context: float) -> float:
        """Time of one iteration.

        Args:
            prefills: Requests of which the step processes a piece of the prompt; 0 for a step that only decodes.
            new: Prompt tokens of each of them.
            prefix: Tokens of each that are in the KV cache already.
            decoding: Requests that get one token each.
            context: Tokens in the KV cache of each.
        """
