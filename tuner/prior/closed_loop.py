"""What users that each keep one request in flight see of an engine whose step times are known, in closed form.

In one cycle each of the n running requests has its prompt processed once and decodes once to its end. Adding up the steps of a cycle gives
its length T whatever their order, so the throughput is n / T, and by Little's law the latency is users / throughput. The order decides only
how the latency divides into the time to the first token and the rest. Two extremes are known, and are mixed by the share of requests that
they hold for: a burst, where all prompts come at once and the last one waits for all others, and the steady state, where a prompt comes
when another request has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, sqrt

from tuner.prior.step_times import StepTimes

STEP_HOST_S = 0.0003
"""What the scheduler of the engine adds to every step."""
REQUEST_HOST_S = 0.000004
"""What it adds for each request of a step."""
EAGER_LAYER_S = 0.00024
"""Least time of a layer that is launched kernel by kernel, without a CUDA graph."""

QUANTILES = {"p50": (0.50, 0.0), "p90": (0.90, 1.28), "p95": (0.95, 1.64), "p99": (0.99, 2.33)}
"""By name, the share of requests below and the deviations of a normal distribution above the mean."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the users ask for.

    Attributes:
        input_tokens: Mean length of the prompts.
        output_tokens: Mean length of the answers.
        same_length: Whether all answers are equally long, so that requests that began together end together.
        requests_per_user: How many requests each user sends; the first ones come as a burst.
    """

    input_tokens: float
    output_tokens: float
    same_length: bool
    requests_per_user: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """How an engine forms its steps.

    Attributes:
        replicas: Independent copies of the model that share the users.
        stages: Pipeline stages.
        running: Most requests that one replica works on at a time, by its own limit and by its KV cache.
        chunk: Most prompt tokens of a step.
        mixes: Whether prompts are processed in the same steps as decoding; if not, decoding stands still while there are prompts.
        shares_chunk: Whether decoding requests count against `chunk` in mixed steps.
        graph_batch: Largest batch that decodes by a CUDA graph.
        layers: Layers of the model.
    """

    replicas: int
    stages: int
    running: float
    chunk: float
    mixes: bool
    shares_chunk: bool
    graph_batch: float
    layers: int


@dataclass(frozen=True, slots=True)
class _Cycle:
    """One cycle of a replica.

    Attributes:
        length_s: From the admission of a request to its end.
        first_s: Time to the first token of a request that finds no other prompt.
        burst_s: The longest time to the first token in a burst.
        steady_s: The mean time to the first token in the steady state.
        stalls: Steps with prompts that a request may meet while it decodes.
        stall_s: How much longer each of them is than a step that only decodes.
    """

    length_s: float
    first_s: float
    burst_s: float
    steady_s: float
    stalls: float
    stall_s: float


def closed_loop(steps: StepTimes, schedule: Schedule, traffic: Traffic, level: int) -> dict[str, float]:
    """The metrics of a load level, by the names of `tuner.benchmark.measurement.METRICS`.

    Args:
        steps: Step times of one replica.
        schedule: How steps are formed.
        traffic: What is asked for.
        level: Concurrent users.
    """
    users = level / min(schedule.replicas, level)
    running = min(users, schedule.running)
    # an engine that decodes in steps of its own ends equal requests together, and so gets their successors together
    burst = 1.0 if traffic.same_length and not schedule.mixes else min(1.0, 1 / traffic.requests_per_user)
    cycle = (_mixing if schedule.mixes else _stalling)(steps, schedule, traffic, running, burst)
    latency = users * cycle.length_s / running
    waiting = latency - cycle.length_s
    in_burst, in_steady = (cycle.first_s + cycle.burst_s) / 2, min(cycle.steady_s, cycle.length_s)
    # with a single token the first one is the last, and users that got theirs queue up again behind the others
    first = latency if traffic.output_tokens <= 1 else waiting + burst * in_burst + (1 - burst) * in_steady
    after = max(1.0, traffic.output_tokens - 1)
    tpot = max(latency - first, 0.0) / after
    metrics = {
        "ttft_mean_s": first,
        "latency_mean_s": latency,
        "requests_per_s": level / latency,
        "input_tokens_per_s": level / latency * traffic.input_tokens,
        "output_tokens_per_s": level / latency * traffic.output_tokens,
    }
    # prompts of others: in a burst the first request decodes through all of them and the last through none; else their number is Poisson's
    uneven = cycle.stall_s * cycle.stalls / 2
    random = cycle.stall_s * sqrt(cycle.stalls)
    first_token = 0.0
    for name, (share, deviations) in QUANTILES.items():
        first_token = max(first_token, latency if traffic.output_tokens <= 1 else waiting + _first_token(cycle, burst, share))
        metrics[f"ttft_{name}_s"] = first_token
        metrics[f"latency_{name}_s"] = latency + (1 - burst) * deviations * random
        if tpot > 0:
            metrics[f"tpot_{name}_s"] = tpot + (burst * (2 * share - 1) * uneven + (1 - burst) * deviations * random) / after
    if tpot > 0:
        metrics["tpot_mean_s"] = tpot
    return metrics


def _first_token(cycle: _Cycle, burst: float, share: float) -> float:
    """The time to the first token that `share` of the requests stay below: of those in a burst, which wait longest, or of the others."""
    if share > 1 - burst:
        return cycle.first_s + (cycle.burst_s - cycle.first_s) * (share - (1 - burst)) / burst
    return cycle.first_s + max(0.0, cycle.steady_s - cycle.first_s) * -log(1 - share / (1 - burst) * 0.999)


def _stalling(steps: StepTimes, schedule: Schedule, traffic: Traffic, running: float, burst: float) -> _Cycle:
    """Prompts first, decoding only when there are none (SGLang's scheduler without mixed chunks)."""
    decode_steps = traffic.output_tokens - 1
    ended_at_once = running / max(1.0, decode_steps)
    together = burst * running + (1 - burst) * max(1.0, ended_at_once)
    requests, pieces, new = _portions(traffic.input_tokens, schedule.chunk, together)
    step = _host(steps.seconds(requests, new, (traffic.input_tokens - new) / 2, 0.0, 0.0), requests)
    prompt = step * pieces / requests
    decode = _decode(steps, schedule, traffic, running)
    # prompts pass the stages of a pipeline one behind the other
    occupied = prompt / min(schedule.stages, max(1.0, running))
    first = step * pieces
    return _Cycle(
        length_s=max(running * occupied, first) + decode_steps * decode,
        first_s=first,
        burst_s=max(first, running * occupied),
        steady_s=prompt * (1 + min(ended_at_once, running - 1) / 2) + decode / 2 * (1 - 1 / running),
        stalls=running - 1,
        stall_s=occupied,
    )


def _mixing(steps: StepTimes, schedule: Schedule, traffic: Traffic, running: float, burst: float) -> _Cycle:
    """Prompts and decoding in the same steps (vLLM's scheduler, and SGLang's with mixed chunks)."""
    decode_steps = traffic.output_tokens - 1
    room = max(schedule.chunk / 16, schedule.chunk - running) if schedule.shares_chunk else schedule.chunk
    together = burst * running + (1 - burst) * max(1.0, running / max(1.0, decode_steps))
    requests, pieces, new = _portions(traffic.input_tokens, room, together)
    mixed_steps = running * pieces / requests
    total_steps = max(mixed_steps, decode_steps + pieces)
    beside = (running - 1) * decode_steps / total_steps
    context = _context(traffic)
    micro = min(schedule.stages, max(1.0, running))
    mixed = _host(steps.seconds(requests, new, (traffic.input_tokens - new) / 2, beside / micro, context), requests + beside)
    occupied = mixed / micro
    plain_steps = total_steps - mixed_steps
    rest = max(1.0, (running * decode_steps - mixed_steps * beside) / max(1.0, plain_steps))
    plain = _decode(steps, schedule, traffic, rest) if plain_steps else occupied
    first = pieces * mixed
    length = max(first, mixed_steps * occupied + plain_steps * plain)
    # what a request does not decode in, it waits in; and it comes while a step is under way, unless it is alone
    steady = max(first, length * (1 - decode_steps / total_steps)) + plain / 2 * (1 - 1 / running)
    return _Cycle(
        length_s=length,
        first_s=first,
        burst_s=max(first, mixed_steps * occupied),
        steady_s=steady,
        stalls=max(0.0, mixed_steps - pieces) * decode_steps / total_steps,
        stall_s=max(0.0, occupied - plain),
    )


def _portions(prompt: float, chunk: float, together: float) -> tuple[float, int, float]:
    """How prompts are cut into steps: requests in one step, steps of one request, and tokens of a request in a step."""
    if prompt > chunk:
        pieces = ceil(prompt / chunk)
        return 1.0, pieces, prompt / pieces
    return max(1.0, min(chunk / prompt, together)), 1, prompt


def _decode(steps: StepTimes, schedule: Schedule, traffic: Traffic, running: float) -> float:
    """Time between two tokens of a request while all decode. In a pipeline each stage works on its share of the requests in turn."""
    batch = max(1.0, running / schedule.stages)
    time = steps.seconds(0.0, 0.0, 0.0, batch, _context(traffic))
    if batch > schedule.graph_batch:
        time = max(time, schedule.layers * EAGER_LAYER_S)
    return _host(time, running)


def _context(traffic: Traffic) -> float:
    """Tokens in the KV cache of a request, half way through its answer."""
    return traffic.input_tokens + traffic.output_tokens / 2


def _host(seconds: float, requests: float) -> float:
    return seconds + STEP_HOST_S + REQUEST_HOST_S * requests
