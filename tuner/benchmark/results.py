"""From the requests of one load level to its measurement: the same arithmetic, however genai-bench was run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

from tuner.benchmark.base import Load, ServerUnusable
from tuner.benchmark.measurement import Measurement, Timing
from tuner.benchmark.window import MIN_WAVES, Window, departures, slow_start

CPU_SHARE_LIMIT = 0.8
"""Share of one core above which genai-bench, being one thread, delays its own timestamps. From measurements of genai-bench 0.0.5 against a
fake server that is never the limit (one core drives 350 to 480 requests per second at best); not calibrated further."""

CHUNKS_PER_S_LIMIT = 3000.0
"""Streamed chunks per second above which one genai-bench process shows its own delay instead of the server's: with paced streams the time
to first token was 5 to 13 times the true one at 256 to 512 users, who got 6,700 to 12,200 chunks/s; at 64 users and 2,700 chunks/s its
median was 1.4 to 1.5 times. One token is one chunk."""

REFUSALS = frozenset({"400", "413", "422"})
"""HTTP statuses by which a server says that it cannot serve such a request at all: bad request (in llama.cpp, vLLM and SGLang: a prompt
beyond the context), content too large, unprocessable."""

OVERFLOW = re.compile(r"context size has been exceeded", re.IGNORECASE)
"""How llama.cpp says the same as a server error, in mid-stream, when the output has run out of context (tools/server, `send_error`)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that ended well.

    Attributes:
        finished_s: Seconds from the start of the level to its end; None where the load generator does not tell.
        ttft_s: Time to first token.
        tpot_s: Time per output token after the first; None for a single token, or where genai-bench calls it unreliable (all tokens within
            1 ms after the first).
        latency_s: End-to-end latency.
        input_tokens: Prompt tokens as the server counts them, chat template included.
        output_tokens: Output tokens as the server counts them.
    """

    finished_s: float | None
    ttft_s: float
    tpot_s: float | None
    latency_s: float
    input_tokens: int
    output_tokens: int

    @classmethod
    def from_genai_bench(cls, metrics: Mapping[str, Any], finished_s: float | None = None) -> Request:
        """Reads one entry of `individual_request_metrics` whose `error_code` is null."""
        return cls(
            finished_s,
            metrics["ttft"],
            metrics["tpot"],
            metrics["e2e_latency"],
            metrics["num_input_tokens"],
            metrics["num_output_tokens"],
        )


@dataclass(frozen=True, slots=True)
class Level:
    """What the load generator brought back from one level.

    Attributes:
        stop: Why it ended: `requests`, `time`, `stall`, `errors` (every user's requests all failed) or `stopped` (it was told to).
        duration_s: Wall time of the level, its dropped in-flight tail included.
        requests: Those that ended well, in the order in which they ended.
        errors: Failed requests by HTTP status or client code.
        messages: Error texts of the first failed requests, secrets redacted.
        client_cpu_s: CPU seconds of the load generator during the level; None where unknown.
    """

    stop: str
    duration_s: float
    requests: Sequence[Request]
    errors: Mapping[str, int] = field(default_factory=dict)
    messages: Sequence[str] = ()
    client_cpu_s: float | None = None

    def save(self, path: Path, load: Load, load_generator: str) -> None:
        """Writes all of it as JSON, with the load and the load generator's name and version."""
        record = {"load_generator": load_generator, "load": asdict(load)} | asdict(self)
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def measure(level: Level, load: Load) -> Measurement:
    """The measurement that `level` amounts to.

    Latency statistics are over all completed requests, as genai-bench's are, but without a first wave that was slower than the rest
    (`slow_start`). Rates are over the window of departures where completion times are known, and otherwise over the whole duration, which
    understates them: the requests in flight at the end take up time and count nothing, up to `concurrency / (2 * requests)` of the rate.

    Raises:
        ServerUnusable: no request ended well, or the level ended because the server hung.
    """
    if level.stop in ("stall", "errors", "stopped") or not level.requests:
        raise unusable(level, load)
    requests = level.requests
    finished_s = [request.finished_s for request in requests if request.finished_s is not None]
    timed = len(finished_s) == len(requests)
    window = departures(finished_s, load.concurrency) if timed else Window(0, len(requests), level.duration_s)
    counted = requests[window.first : window.end]
    flows = _flows(counted)
    output_tokens_per_s = flows["output_tokens_per_s"] / window.seconds
    cpu_share = None if level.client_cpu_s is None else level.client_cpu_s / level.duration_s
    sent = sorted(requests, key=_sent_s) if timed else requests
    whole = timed and len(sent) >= MIN_WAVES * load.concurrency
    settled = sent[load.concurrency :] if whole else sent
    lasting = settled if whole and _starts_slowly(sent, load.concurrency) else sent
    times = _times(lasting)
    return Measurement(
        concurrency=load.concurrency,
        completed=len(requests),
        errors=dict(level.errors),
        duration_s=level.duration_s,
        window_s=window.seconds,
        ttft=timing(times["ttft"]),
        tpot=timing(times["tpot"]) if times["tpot"] else None,
        latency=timing(times["latency"]),
        output_tokens_per_s=output_tokens_per_s,
        input_tokens_per_s=flows["input_tokens_per_s"] / window.seconds,
        requests_per_s=flows["requests_per_s"] / window.seconds,
        client_cpu_share=cpu_share,
        client_bound=(cpu_share or 0.0) > CPU_SHARE_LIMIT or output_tokens_per_s > CHUNKS_PER_S_LIMIT,
        warmup_excluded=len(sent) - len(lasting),
        spread=_spread(settled, counted, window, load.concurrency if timed else len(counted)),
    )


def _flows(requests: Sequence[Request]) -> dict[str, float]:
    """What requests brought, by the name of the rate that it is divided into."""
    return {
        "output_tokens_per_s": sum(request.output_tokens for request in requests),
        "input_tokens_per_s": sum(request.input_tokens for request in requests),
        "requests_per_s": len(requests),
    }


def _times(requests: Sequence[Request]) -> dict[str, list[float]]:
    return {
        "ttft": [request.ttft_s for request in requests],
        "tpot": [request.tpot_s for request in requests if request.tpot_s is not None],
        "latency": [request.latency_s for request in requests],
    }


def _sent_s(request: Request) -> float:
    """Seconds from the start of the level to when it was sent."""
    return (request.finished_s or 0.0) - request.latency_s


def _starts_slowly(sent: Sequence[Request], concurrency: int) -> bool:
    waves = _waves(sent, concurrency)
    return any(slow_start([[getattr(request, name) for request in wave] for wave in waves]) for name in ("ttft_s", "latency_s"))


def _waves(requests: Sequence[Request], size: int) -> list[Sequence[Request]]:
    """The whole waves of them."""
    return [requests[first : first + size] for first in range(0, len(requests) - size + 1, size)]


def _spread(settled: Sequence[Request], counted: Sequence[Request], window: Window, wave: int) -> dict[str, float]:
    """The standard errors of all metrics, relative to them.

    Args:
        settled: Requests without the first wave where others follow: that queues build up in it is the same each time, and no noise.
        counted: Those that the rates count.
        window: Over which they do.
        wave: Number of completions that belong together.
    """
    from tuner.benchmark.spread import spread_of_rates, spread_of_times  # here, so that a start without a measurement needs no numpy

    times = {name: spread_of_times(values) for name, values in _times(settled).items()}
    found = {f"{name}_{statistic}_s": error for name, errors in times.items() for statistic, error in errors.items()}
    waves = _waves(counted, wave)
    edges = [(counted[-1].finished_s or 0.0) - window.seconds, *(wave[-1].finished_s or 0.0 for wave in waves)]
    return found | spread_of_rates([_flows(wave) for wave in waves], [end - start for start, end in pairwise(edges)])


def unusable(level: Level, load: Load) -> ServerUnusable:
    """Says in one line why `level` is no measurement of the server."""
    failed = sum(level.errors.values())
    seconds = f"after {level.duration_s:.0f} s at concurrency {load.concurrency}"
    if level.stop == "stopped":
        return ServerUnusable(f"the server ended {seconds}, with {len(level.requests)} requests completed")
    if not level.requests and failed:
        counts = ", ".join(f"{count} x {code}" for code, count in level.errors.items())
        cause = f" ({level.messages[0]})" if level.messages else ""
        return ServerUnusable(f"all of {failed} requests failed: {counts}{cause}", rejected=refuses(level.errors, level.messages))
    if level.stop == "stall":
        return ServerUnusable(f"the server hangs: no request ended well for {load.stall_s:g} s, {seconds}")
    return ServerUnusable(f"no request finished {seconds}")


def refuses(codes: Iterable[str], messages: Sequence[str]) -> bool:
    """Whether the errors of all failed requests say that the server will never serve such requests."""
    return REFUSALS.issuperset(codes) or (bool(messages) and all(OVERFLOW.search(message) for message in messages))


def timing(values: Sequence[float]) -> Timing:
    """Mean and percentiles, with linear interpolation as numpy and so genai-bench have it."""
    ordered = sorted(values)
    p50, p90, p95, p99 = (_quantile(ordered, share) for share in (0.50, 0.90, 0.95, 0.99))
    return Timing(sum(ordered) / len(ordered), p50, p90, p95, p99)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
