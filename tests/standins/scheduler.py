"""Part of the doubles of SGLang and vLLM: continuous batching of requests in simulated time, with a KV cache that can run full.

Each step prefills up to a chunk of tokens and decodes one token for each running request. Its duration grows with both, so that the
limits of a configuration show in latency and throughput. STANDIN_SPEED makes it all faster (1).
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

OVERHEAD_S = 0.0005
"""Of each step, on the host."""
WEIGHTS_S = 0.001
"""Of each step, to read the weights."""
PREFILL_S = 0.00001
"""For each prompt token of a step."""
DECODE_S = 0.00004
"""For each running request of a step."""
EAGER_S = 0.002
"""For a decode step larger than the graphs captured."""
BLOCK = 16
"""Tokens in a unit of the prefix cache."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a configuration allows.

    Attributes:
        running: Requests in the batch.
        kv_tokens: Tokens in the KV cache.
        chunk: Prompt tokens of a step; 0 for no limit.
        mixed: Whether a step that prefills decodes as well.
        graph_batch: The largest decode batch that has a graph.
        reserve: Share of a request's output that must be free in the KV cache when it is let in.
        prefix_cache: Whether prompts are looked up.
        shards: GPUs that share the work of a request.
        replicas: Groups of them that share the requests.
    """

    running: int
    kv_tokens: int
    chunk: int
    mixed: bool
    graph_batch: int
    reserve: float
    prefix_cache: bool
    shards: int
    replicas: int


@dataclass(slots=True)
class Request:
    """One completion; its tokens go into `tokens` one by one, and None at the end."""

    prompt: list[str]
    max_tokens: int
    arrived: float = field(default_factory=time.monotonic)
    tokens: asyncio.Queue[bool | None] = field(default_factory=asyncio.Queue)
    prefilled: int = 0
    cached: int = 0
    generated: int = 0
    first: float | None = None
    last: float | None = None
    entered: float | None = None

    @property
    def held(self) -> int:
        """Tokens that it holds in the KV cache."""
        return self.prefilled + self.generated

    @property
    def rest(self) -> int:
        return self.max_tokens - self.generated


class Histogram:
    """Counts observations as Prometheus does."""

    BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))

    def __init__(self) -> None:
        self.counts = [0] * len(self.BOUNDS)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.sum += value
        for i, bound in enumerate(self.BOUNDS):
            self.counts[i] += value <= bound


@dataclass(slots=True)
class Stats:
    """Totals since the start."""

    requests: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    retracted: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    itl: Histogram = field(default_factory=Histogram)
    e2e: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)


class Scheduler:
    """Serves requests step by step.

    Args:
        limits: What it may do.
        on_step: Told the prompt tokens and the size of the decode batch before each step; what it raises ends the scheduler.
        on_retract: Told how many requests were thrown out of the batch.
    """

    def __init__(self, limits: Limits, on_step: Callable[[int, int], None], on_retract: Callable[[int], None]) -> None:
        self.limits = limits
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.stats = Stats()
        self._on_step = on_step
        self._on_retract = on_retract
        self._arrived = asyncio.Event()
        self._blocks: set[int] = set()
        self._speed = float(os.environ.get("STANDIN_SPEED", "1"))

    @property
    def used(self) -> int:
        return sum(request.held for request in self.running)

    def submit(self, request: Request) -> None:
        self.stats.requests += 1
        self.waiting.append(request)
        self._arrived.set()

    def abort(self, request: Request) -> None:
        """Forgets a request whose client has gone."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def flush(self) -> bool:
        """Empties the prefix cache, unless there are requests."""
        if self.running or self.waiting:
            return False
        self._blocks.clear()
        return True

    async def run(self) -> None:
        while True:
            if not self.running and not self.waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._step()

    async def _step(self) -> None:
        self._admit()
        prefill, decoding = self._plan()
        retracted = 0
        while len(self.running) > 1 and self.used + sum(prefill.values()) + len(decoding) > self.limits.kv_tokens:
            self._retract(self.running.pop())
            retracted += 1
            prefill, decoding = self._plan()
        if retracted:
            self.stats.retracted += retracted
            self._on_retract(retracted)
        tokens = sum(prefill.values())
        self._on_step(tokens, len(decoding))
        await asyncio.sleep(self._duration(prefill, len(decoding)))
        now = time.monotonic()
        # A client may have gone in the meantime, and its request with it.
        for request in list(self.running):
            part = prefill.get(id(request), 0)
            request.prefilled += part
            if id(request) in decoding or (part and request.prefilled == len(request.prompt)):
                self._emit(request, now)

    def _plan(self) -> tuple[dict[int, int], set[int]]:
        """The prompt tokens of each request in the next step, and the requests that decode in it."""
        budget = self.limits.chunk or sum(len(request.prompt) for request in self.running)
        prefill = {}
        for request in self.running:
            if part := min(budget, len(request.prompt) - request.prefilled):
                prefill[id(request)] = part
                budget -= part
        if prefill and not self.limits.mixed:
            return prefill, set()
        return prefill, {id(request) for request in self.running if request.prefilled == len(request.prompt)}

    def _duration(self, prefill: dict[int, int], decode: int) -> float:
        """Seconds of a step. A replica cannot be faster than its longest prompt."""
        replicas = self.limits.replicas
        tokens = max(sum(prefill.values()) / replicas, max(prefill.values(), default=0))
        batch = math.ceil(decode / replicas)
        eager = EAGER_S if batch > self.limits.graph_batch else 0.0
        work = WEIGHTS_S + tokens * PREFILL_S + batch * DECODE_S + eager
        return float(OVERHEAD_S + work / self.limits.shards**0.8) / self._speed

    def _admit(self) -> None:
        free = self.limits.kv_tokens - self.used - sum(self.limits.reserve * request.rest for request in self.running)
        while self.waiting and len(self.running) < self.limits.running:
            request = self.waiting[0]
            need = len(request.prompt) + self.limits.reserve * request.rest
            if need > free and self.running:
                return
            free -= need
            self.waiting.popleft()
            self.running.append(request)
            self._look_up(request)
            if request.entered is None:
                request.entered = time.monotonic()
                self.stats.queue.observe(request.entered - request.arrived)

    def _look_up(self, request: Request) -> None:
        """Takes what the prefix cache holds of a prompt, all but its last token."""
        hits = 0
        if self.limits.prefix_cache:
            chain = list(_chain(request.prompt))
            hits = next((i for i, block in enumerate(chain) if block not in self._blocks), len(chain))
            self._blocks.update(chain)
        request.cached = request.prefilled = min(hits * BLOCK, len(request.prompt) - 1)
        self.stats.prompt_tokens += len(request.prompt)
        self.stats.cached_tokens += request.cached

    def _retract(self, request: Request) -> None:
        """Sends a request back to the queue, where what it has generated counts as part of its prompt."""
        request.prompt = [*request.prompt, *["w"] * request.generated]
        request.max_tokens -= request.generated
        request.prefilled = request.generated = 0
        self.waiting.appendleft(request)

    def _emit(self, request: Request, now: float) -> None:
        request.generated += 1
        self.stats.generated_tokens += 1
        if request.last is None:
            self.stats.ttft.observe(now - request.arrived)
        else:
            self.stats.itl.observe(now - request.last)
        request.last = now
        request.tokens.put_nowait(True)
        if request.rest <= 0:
            self.running.remove(request)
            self.stats.finished += 1
            self.stats.e2e.observe(now - request.arrived)
            request.tokens.put_nowait(None)


def _chain(prompt: list[str]) -> Iterator[int]:
    """A hash for each whole block of a prompt, of the block and all before it."""
    link = 0
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        link = hash((link, *prompt[start : start + BLOCK]))
        yield link
