"""How long one step of a server takes: the two surfaces that the simulator reads, tabulated once from a source of step times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Protocol

TOKENS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 20480)
"""Prompt tokens of one step at which a source is asked; between them times are interpolated."""

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
CONTEXTS = (1, 256, 512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)


class Source(Protocol):
    """Time of one pass through the model, for one model on one number of GPUs."""

    def prefill_s(self, tokens: int, context: float) -> float:
        """Seconds to process `tokens` prompt tokens that attend to `context` tokens each on average, themselves included."""

    def decode_s(self, batch: int, context: float) -> float:
        """Seconds to make one token for each of `batch` requests with `context` tokens each on average."""


class StepTimes:
    """A source, tabulated: linear between the nodes above, so that a step costs microseconds to look up.

    Args:
        source: Where the times come from.
    """

    def __init__(self, source: Source) -> None:
        self._prefill = [[source.prefill_s(tokens, context) for context in CONTEXTS] for tokens in TOKENS]
        self._decode = [[source.decode_s(batch, context) for context in CONTEXTS] for batch in BATCHES]
        self._decode_row = cache(self._row)

    def prefill(self, tokens: int, context: float) -> float:
        """As `Source.prefill_s`."""
        low, share = _position(TOKENS, tokens)
        left, within = _position(CONTEXTS, context)
        row, above = self._prefill[low], self._prefill[low + 1]
        here, there = (each[left] + within * (each[left + 1] - each[left]) for each in (row, above))
        return here + share * (there - here)

    def decode(self, batch: int, context: float) -> float:
        """As `Source.decode_s`, in a CUDA graph: the batch is padded to the next one that was captured."""
        return _at(self._decode_row(captured(batch)), context)

    def attention(self, batch: int, context: float) -> float:
        """Seconds of `decode` that depend on the context: what requests add to a step that they share with prompt tokens."""
        row = self._decode_row(captured(batch))
        return _at(row, context) - row[0]

    def _row(self, batch: int) -> Sequence[float]:
        low, share = _position(BATCHES, batch)
        return [here + share * (there - here) for here, there in zip(self._decode[low], self._decode[low + 1], strict=True)]


@cache
def captured(batch: int) -> int:
    """The batch that SGLang pads `batch` to: 1, 2, 4, and multiples of 8 up to 256, of 16 above [sglang, cuda graph batch sizes]."""
    if batch <= 4:
        return (1, 1, 2, 4, 4)[batch]
    step = 8 if batch <= 256 else 16
    return -(-batch // step) * step


def captures(largest: int) -> int:
    """How many graphs SGLang captures up to batch `largest`."""
    sizes = [captured(batch) for batch in range(1, largest + 1)]
    return 1 + sum(here != there for here, there in pairwise(sizes))


def _position(nodes: Sequence[int], value: float) -> tuple[int, float]:
    """The interval of `nodes` that holds `value`, and where in it; beyond the last node the last interval goes on."""
    low = bisect_right(nodes, value, 1, len(nodes) - 1) - 1
    return low, (value - nodes[low]) / (nodes[low + 1] - nodes[low])


def _at(row: Sequence[float], context: float) -> float:
    low, share = _position(CONTEXTS, context)
    return row[low] + share * (row[low + 1] - row[low])
