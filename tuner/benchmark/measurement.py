"""What one load level showed. Units stand in the names: seconds, tokens per second, requests per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import nan
from statistics import NormalDist
from typing import Any

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
TIMINGS = ("ttft", "tpot", "latency")
RATES = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s", "error_rate")

METRICS: tuple[str, ...] = tuple(f"{timing}_{statistic}_s" for timing in TIMINGS for statistic in STATISTICS) + RATES
"""The names that objectives and constraints may use: `ttft_p99_s`, `tpot_mean_s`, `latency_p50_s`, `output_tokens_per_s`, ..."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A distribution over the completed requests of one load level, in seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load level of one deployment.

    Attributes:
        concurrency: Users that each keep one request in flight (closed loop).
        completed: Requests that ended well.
        errors: Failed requests by HTTP status or client code (503 connection refused, 408 timeout, `invalid` for an answer without tokens).
        duration_s: Wall time from the first request to the end of the level.
        window_s: Wall time over which the rates were counted.
        ttft: Time to first token.
        tpot: Time per output token after the first; None where no output had two tokens.
        latency: End-to-end latency.
        output_tokens_per_s: Output tokens of completed requests per second of the window.
        input_tokens_per_s: The same for prompt tokens.
        requests_per_s: Completed requests per second of the window.
        client_cpu_share: CPU seconds that the load generator used per second of the level, 1.0 being one core; None where unknown.
        client_bound: Whether the load generator, not the server, set the pace. Such a level says little about the server.
        warmup_excluded: Requests of the first wave that the times leave out, see `tuner.benchmark.window.slow_start`.
        spread: Relative standard error by metric, from the requests of this one level; see `tuner.benchmark.spread`. It knows nothing of
            what differs between two runs. Metrics of which it says nothing are missing.
        cache_reuse: Share of the prompt tokens that the prompt cache answered though the traffic does not repeat itself so; None where
            there was no such thing, or nobody could tell. See `tuner.benchmark.reuse`.
    """

    concurrency: int
    completed: int
    errors: Mapping[str, int]
    duration_s: float
    window_s: float
    ttft: Timing
    tpot: Timing | None
    latency: Timing
    output_tokens_per_s: float
    input_tokens_per_s: float
    requests_per_s: float
    client_cpu_share: float | None
    client_bound: bool
    warmup_excluded: int = 0
    spread: Mapping[str, float] = field(default_factory=dict)
    cache_reuse: float | None = None

    @property
    def error_rate(self) -> float:
        """Failed requests as a share of all that ended."""
        failed = sum(self.errors.values())
        return failed / max(1, failed + self.completed)

    def metric(self, name: str) -> float:
        """The value of one of `METRICS`; not a number (nan) for a tpot where there is none.

        Raises:
            KeyError: `name` is none of them.
        """
        if name in RATES:
            return float(getattr(self, name))
        timing, _, rest = name.partition("_")
        statistic = rest.removesuffix("_s")
        if timing not in TIMINGS or statistic not in STATISTICS:
            raise KeyError(name)
        distribution: Timing | None = getattr(self, timing)
        return nan if distribution is None else float(getattr(distribution, statistic))

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float] | None:
        """Where the metric would lie if this level had gone on for ever, with this probability; None where `spread` says nothing of it."""
        if name not in self.spread:
            return None
        value, wide = self.metric(name), NormalDist().inv_cdf((1 + confidence) / 2) * self.spread[name]
        return max(0.0, value * (1 - wide)), value * (1 + wide)

    def unresolved(self, name: str) -> bool:
        """Whether the metric is a percentile of too few requests: of fewer than 100 none lies above the 99th, which is then the slowest."""
        if name in RATES or (percent := name.rsplit("_", 2)[1].removeprefix("p")) == "mean":
            return False
        return (self.completed - self.warmup_excluded) * (100 - int(percent)) < 100

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Reads what `to_dict` wrote; what was not yet kept then has its default."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**known | {timing: Timing(**data[timing]) for timing in TIMINGS if data[timing] is not None})


Curve = Mapping[int, Measurement]
"""What one trial has shown, by load level; levels that were not run are missing."""
