"""Watches a server's own metrics while it is under load."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tuner.server_facts import ServerMetrics

INTERVAL_S = 1.0
"""Often enough to see a queue, seldom enough not to disturb: SGLang and vLLM renew their gauges about once a second."""

GAUGES = ("running", "queued", "kv_usage")
COUNTERS = ("preemptions", "prompt_tokens", "cached_tokens")


class Watch:
    """Looks at the metrics before a load level, every second while it runs, and after it. A context manager around the level.

    Args:
        look: One look at the server's metrics; see `Engine.metrics`. A server that answers None at first is not asked again.
    """

    def __init__(self, look: Callable[[], ServerMetrics | None]) -> None:
        self._look = look
        self._seen: list[ServerMetrics] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if (first := self._look()) is not None:
            self._seen.append(first)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._seen:
            self._thread.join()
        if self._seen and error is None and (last := self._look()) is not None:
            self._seen.append(last)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL_S):
            if (now := self._look()) is not None:
                self._seen.append(now)

    @property
    def summary(self) -> dict[str, float]:
        """What the level showed, by name; empty where the server has no metrics.

        `running_max`, `queued_max` and `kv_usage_max` are the highest values seen; `preemptions`, `prompt_tokens` and `cached_tokens`
        count this level alone; `cache_hit_rate` is the share of its prompt tokens that were found in the prefix cache.
        """
        if len(self._seen) < 2:
            return {}
        first, last = self._seen[0], self._seen[-1]
        found: dict[str, float | None] = {f"{name}_max": _highest(name, self._seen) for name in GAUGES}
        found |= {name: _difference(getattr(first, name), getattr(last, name)) for name in COUNTERS}
        found["cache_hit_rate"] = last.cache_hit_rate
        if found["prompt_tokens"] and found["cached_tokens"] is not None:
            found["cache_hit_rate"] = found["cached_tokens"] / found["prompt_tokens"]
        return {name: round(value, 4) for name, value in found.items() if value is not None}


def _highest(name: str, seen: list[ServerMetrics]) -> float | None:
    values = [value for metrics in seen if (value := getattr(metrics, name)) is not None]
    return max(values, default=None)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
