"""What a running server tells about itself beside its answers: memory at start, and its own metrics under load."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Startup:
    """What a server logged about the memory of one GPU when it started; None where it said nothing.

    Attributes:
        free_before_gib: Free before the weights were loaded, GiB.
        weights_gib: Taken by the weights, GiB.
        kv_gib: Given to the KV cache, GiB.
        kv_tokens: Tokens that the KV cache holds.
        graph_gib: Taken by captured CUDA graphs, GiB.
        free_gib: Still free when all of this was allocated, GiB.
    """

    free_before_gib: float | None = None
    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    graph_gib: float | None = None
    free_gib: float | None = None

    def to_dict(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """One look at a server's metrics endpoint; None where it does not tell.

    Attributes:
        running: Requests in the running batch now.
        queued: Requests that wait now.
        kv_usage: Share of the KV cache in use now, 0 to 1.
        preemptions: Requests thrown out of the batch for want of KV cache (vLLM: preempted, SGLang: retracted) since the start.
        prompt_tokens: Prompt tokens looked up in the prefix cache since the start.
        cached_tokens: Those of them that were found there.
        cache_hit_rate: Share of prompt tokens found in the cache lately, where the server reckons it itself.
    """

    running: float | None = None
    queued: float | None = None
    kv_usage: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    cache_hit_rate: float | None = None

    def to_dict(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}
