"""Continuous batching as SGLang does it, in a closed loop of users: one replica of a server at one load level.

What is modelled is SGLang's scheduler (managers/scheduler.py `get_next_batch_to_run`, managers/schedule_policy.py `PrefillAdder`,
managers/schedule_batch.py `retract_decode`) with policy fcfs, page size 1 and prompts that share no prefix; constants were
compared with its sources, not each line. A run of decode steps between
two events is one step of the simulation: its time is that of its middle step times their number, exact where times are linear in context.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from benchmarks.landscapes.steps import StepTimes
from tuner.benchmark.results import Request

MAX_PREFILL_TOKENS = 16384
CLIP_NEW_TOKENS = 4096
INITIAL_RATIO, LEAST_SHARE, DECAY_STEPS = 0.7, 0.14, 600
RETRACT_STEPS = 20
"""SGLang's defaults: `max_prefill_tokens`, and from its environment variables the output tokens that admission counts with at most, the
share of them that is kept free for running requests (first, least, steps between), and the steps to make room for in a retraction."""


@dataclass(frozen=True, slots=True)
class Server:
    """Settings of one replica.

    Attributes:
        max_running: `max_running_requests`.
        chunk: `chunked_prefill_size`.
        mixed: `enable_mixed_chunk`.
        conservativeness: `schedule_conservativeness`.
        graph_batch: `cuda_graph_max_bs_decode`; larger batches run without a CUDA graph.
        kv_tokens: Capacity of the KV cache.
    """

    max_running: int
    chunk: int
    mixed: bool
    conservativeness: float
    graph_batch: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Host:
    """What the processor takes, in seconds.

    Attributes:
        step_s: Of each step, not hidden behind the GPU.
        eager_s: To launch one pass through the model without a CUDA graph: no pass without one is shorter.
        tokenize_s: To read and tokenize a request; one at a time.
        answer_s: From the last token to the user's next request at the server.
    """

    step_s: float = 0.0003
    eager_s: float = 0.0
    tokenize_s: float = 0.0005
    answer_s: float = 0.004


class Unservable(Exception):
    """A request needs more tokens than the KV cache has."""


@dataclass(slots=True)
class _Request:
    submitted_s: float
    arrived_s: float
    prompt: int
    output: int
    produced: int = 0
    prefilled: int = 0
    first_s: float = math.nan

    @property
    def to_prefill(self) -> int:
        """Prompt tokens, and after a retraction also the output so far, that are not in the KV cache."""
        return self.prompt + self.produced - self.prefilled


@dataclass(slots=True)
class Trace:
    """What happened.

    Attributes:
        requests: Those that ended well, in the order in which they ended.
        duration_s: Until the last of them.
        peak_prefill_tokens: Most prompt tokens in one step.
        peak_batch: Most requests that decoded at once.
        retractions: Requests that were thrown out and started anew.
    """

    requests: list[Request] = field(default_factory=list)
    duration_s: float = 0.0
    peak_prefill_tokens: int = 0
    peak_batch: int = 0
    retractions: int = 0


def simulate(
    steps: StepTimes, server: Server, host: Host, lengths: Iterator[tuple[int, int]], users: int, requests: int, max_time_s: float
) -> Trace:
    """Runs `users`, each with one request in flight, until `requests` have ended or `max_time_s` are over.

    Args:
        steps: Times of the model on the GPUs of one replica.
        server: Settings.
        host: Times of the processor.
        lengths: Prompt and output tokens of one request after the other; never exhausted.
        users: Requests in flight, at least one.
        requests: Completed requests after which it ends.
        max_time_s: Seconds after which it ends in any case.

    Raises:
        Unservable: one request alone does not fit.
    """
    run = _Run(steps, server, host, lengths)
    for _ in range(users):
        run.submit()
    while len(run.trace.requests) < requests and run.now_s < max_time_s:
        run.advance()
    trace = run.trace
    while trace.requests and (trace.requests[-1].finished_s or 0.0) > max_time_s:
        trace.requests.pop()
    del trace.requests[requests:]
    trace.duration_s = (trace.requests[-1].finished_s or 0.0) if len(trace.requests) == requests else max_time_s
    return trace


class _Run:
    def __init__(self, steps: StepTimes, server: Server, host: Host, lengths: Iterator[tuple[int, int]]) -> None:
        self.now_s = 0.0
        self.trace = Trace()
        self._steps, self._server, self._host, self._lengths = steps, server, host, lengths
        self._first_ratio = min(INITIAL_RATIO * server.conservativeness, 1.0)
        self._least_ratio = self._first_ratio * LEAST_SHARE
        self._ratio = self._first_ratio
        self._last_arrival_s = 0.0
        self._arriving: deque[_Request] = deque()
        self._waiting: deque[_Request] = deque()
        self._chunked: _Request | None = None
        # running requests by the decode step at which they end; all else about them is kept as sums
        self._running: list[tuple[int, int, _Request]] = []
        self._ends = 0
        self._order = 0
        self._step = 0
        self._used = 0
        self._running_tokens = 0
        self._full = False

    def submit(self) -> None:
        """A user sends a request now."""
        prompt, output = next(self._lengths)
        if prompt + output >= self._server.kv_tokens:
            raise Unservable(f"a request of {prompt} + {output} tokens in a KV cache of {self._server.kv_tokens}")
        submitted_s = self.now_s + (self._host.answer_s if self.now_s else 0.0)
        self._last_arrival_s = max(self._last_arrival_s, submitted_s) + self._host.tokenize_s
        self._arriving.append(_Request(submitted_s, self._last_arrival_s, prompt, output))

    def advance(self) -> None:
        """One step of prefill, or all decode steps until the next event."""
        while self._arriving and self._arriving[0].arrived_s <= self.now_s:
            self._waiting.append(self._arriving.popleft())
        if batch := self._admit():
            self._prefill(batch)
        elif self._running:
            self._decode()
        else:
            self._ratio, self._full = self._first_ratio, False
            if not self._waiting:
                self.now_s = max(self.now_s, self._arriving[0].arrived_s)

    def _admit(self) -> list[tuple[_Request, int]]:
        """The requests that the next prefill step works on, and with how many tokens."""
        if self._chunked is None and (self._full or not self._waiting):
            return []
        server, running = self._server, len(self._running)
        riding = running if server.mixed else 0
        left = self._ends - running * self._step
        room = server.kv_tokens - self._used - left * self._ratio - riding
        chunk, prompts = server.chunk - riding, MAX_PREFILL_TOKENS - riding
        batch: list[tuple[_Request, int]] = []
        if (request := self._chunked) is not None:
            tokens = min(request.to_prefill, max(chunk, 1))
            batch.append((request, tokens))
            chunk -= tokens
            prompts -= tokens
            room -= tokens
            if tokens == request.to_prefill:
                self._chunked = None
                room -= min(request.output - request.produced, CLIP_NEW_TOKENS)
        while self._waiting and chunk > 0 and prompts > 0 and self._chunked is None:
            request = self._waiting[0]
            total = request.to_prefill + min(request.output - request.produced, CLIP_NEW_TOKENS)
            if running + len(batch) >= server.max_running or total >= room:
                self._full = running + len(batch) > 0
                break
            self._waiting.popleft()
            tokens = min(request.to_prefill, chunk)
            batch.append((request, tokens))
            chunk -= tokens
            prompts -= tokens
            room -= total
            if tokens < request.to_prefill:
                self._chunked = request
        return batch

    def _prefill(self, batch: list[tuple[_Request, int]]) -> None:
        tokens, pairs = 0, 0.0
        for request, part in batch:
            tokens += part
            pairs += part * (request.prefilled + part / 2)
            request.prefilled += part
        riders = len(self._running) if self._server.mixed else 0
        if riders > self._server.kv_tokens - self._used - tokens:
            riders = 0
        seconds = self._steps.prefill(tokens + riders, pairs / (tokens + riders))
        if riders:
            seconds += self._steps.attention(riders, self._running_tokens / riders)
        self.now_s += max(seconds, self._host.eager_s) + self._host.step_s
        self._used += tokens
        self.trace.peak_prefill_tokens = max(self.trace.peak_prefill_tokens, tokens + riders)
        if riders:
            self._tick(1)
        for request, _ in batch:
            if request is not self._chunked:
                self._start(request)

    def _start(self, request: _Request) -> None:
        """Its prompt is in: the first token, or after a retraction the next one."""
        if math.isnan(request.first_s):
            request.first_s = self.now_s
        self._running_tokens += request.prefilled
        request.produced += 1
        if request.produced == request.output:
            self._running_tokens -= request.prefilled
            self._finish(request)
            return
        end = self._step + request.output - request.produced
        heappush(self._running, (end, self._order, request))
        self._ends += end
        self._order += 1
        self.trace.peak_batch = max(self.trace.peak_batch, len(self._running))

    def _decode(self) -> None:
        batch = len(self._running)
        fitting = (self._server.kv_tokens - self._used) // batch
        if fitting < 1:
            self._retract()
            return
        count = min(self._running[0][0] - self._step, fitting)
        if self._arriving and not self._full:
            one_s = self._decode_s(batch, 0)
            count = min(count, max(1, math.ceil((self._arriving[0].arrived_s - self.now_s) / one_s)))
        self.now_s += count * self._decode_s(batch, (count - 1) / 2)
        self._ratio = max(self._ratio - count * (self._first_ratio - self._least_ratio) / DECAY_STEPS, self._least_ratio)
        self._tick(count)

    def _decode_s(self, batch: int, later: float) -> float:
        """Seconds of the decode step that comes after `later` others."""
        seconds = self._steps.decode(batch, self._running_tokens / batch + later)
        if batch > self._server.graph_batch:
            seconds = max(seconds, self._host.eager_s)
        return seconds + self._host.step_s

    def _tick(self, count: int) -> None:
        """`count` decode steps are done: every running request has as many more tokens."""
        self._step += count
        self._used += count * len(self._running)
        self._running_tokens += count * len(self._running)
        while self._running and self._running[0][0] == self._step:
            end, _, request = heappop(self._running)
            self._ends -= end
            request.produced = request.output
            self._running_tokens -= request.prompt + request.output - 1
            self._finish(request)

    def _finish(self, request: _Request) -> None:
        self._used -= request.prompt + request.output - 1
        self._full = False
        latency_s = self.now_s - request.submitted_s
        ttft_s = request.first_s - request.submitted_s
        tpot_s = (latency_s - ttft_s) / (request.output - 1) if request.output > 1 else None
        self.trace.requests.append(Request(self.now_s, ttft_s, tpot_s, latency_s, request.prompt, request.output))
        self.submit()

    def _retract(self) -> None:
        """Throws out those with the fewest output tokens until the others have room for `RETRACT_STEPS` steps."""
        for end, _, request in self._running:
            request.produced = request.output - (end - self._step)
        kept = sorted(self._running, key=lambda entry: (entry[2].produced, -entry[2].prompt), reverse=True)
        while len(kept) > 1 and self._server.kv_tokens - self._used < len(kept) * RETRACT_STEPS:
            end, _, request = kept.pop()
            held = request.prompt + request.produced - 1
            self._used -= held
            self._running_tokens -= held
            self._ends -= end
            request.prefilled = 0
            self._waiting.append(request)
            self.trace.retractions += 1
        kept.sort()
        self._running = kept
        produced = sum(request.produced for _, _, request in kept)
        wanted = sum(request.output for _, _, request in kept)
        self._ratio = min(1.0, (produced + RETRACT_STEPS * len(kept)) / wanted)
        self._full = False
