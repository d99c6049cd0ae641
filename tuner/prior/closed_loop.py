"""What users that each keep one request in flight see of an engine whose step times are known, in closed form.

In one cycle each of the n running requests has its prompt processed once and decodes once to its end. Adding up the steps of a cycle gives
its length T whatever their order, so the throughput is n / T, and by Little's law the latency is users / throughput. The order decides only
how the latency divides into the time to the first token and the rest. Two extremes are known, and are mixed by the share of requests that
they hold for: a burst, where all prompts come at once and the last one waits for all others, and the steady state, where a prompt comes
when another request has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, erf, exp, hypot, log1p, sqrt

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
        requests_per_user: How many requests each user sends; the first ones come as a burst.
        input_sd: Standard deviation of the length of a prompt.
        output_sd: That of an answer; of 0, requests that began together end together.
        first_wave: Whether times are of the first request of each user, too.
    """

    input_tokens: float
    output_tokens: float
    requests_per_user: float
    input_sd: float = 0.0
    output_sd: float = 0.0
    first_wave: bool = False

    @property
    def same_length(self) -> bool:
        """Whether all answers are equally long."""
        return self.output_sd == 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How an engine forms its steps.

    Attributes:
        replicas: Independent copies of the model that share the users.
        stages: Pipeline stages.
        running: Most requests that one replica works on at a time, by its own limit and by its KV cache.
        chunk: Most prompt tokens of a step.
        mixes: Whether prompts are processed in the same steps as decoding; if not, decoding stands still while there are prompts.
        graph_batch: Largest batch that decodes by a CUDA graph.
        layers: Layers of the model.
    """

    replicas: int
    stages: int
    running: float
    chunk: float
    mixes: bool
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
        steady_sd_s: Its standard deviation.
        stalls: Steps with prompts that a request may meet while it decodes.
        stall_s: How much longer each of them is than a step that only decodes.
    """

    length_s: float
    first_s: float
    burst_s: float
    steady_s: float
    steady_sd_s: float
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
    always = traffic.same_length and not schedule.mixes
    burst = 1.0 if always else min(1.0, 1 / traffic.requests_per_user)
    cycle = (_mixing if schedule.mixes else _stalling)(steps, schedule, traffic, running, burst)
    latency = users * cycle.length_s / running
    # those before one in the queue leave one after the other, each after its own answer
    waiting_sd = sqrt(users - running) * cycle.length_s / running * traffic.output_sd / traffic.output_tokens
    metrics = {
        "latency_mean_s": latency,
        "requests_per_s": level / latency,
        "input_tokens_per_s": level / latency * traffic.input_tokens,
        "output_tokens_per_s": level / latency * traffic.output_tokens,
    }
    after = traffic.output_tokens - 1
    if after <= 0:
        # the first token is the last, and users that got theirs queue up again behind the others
        metrics |= {f"ttft_{name}_s": latency for name in ("mean", *QUANTILES)}
        tpot = 0.0
    else:
        metrics |= _first_tokens(cycle, latency - cycle.length_s, waiting_sd, burst if always or traffic.first_wave else 0.0)
        tpot = max(latency - metrics["ttft_mean_s"], 0.0) / after
    # prompts of others: in a burst the first request decodes through all of them and the last through none; else their number is Poisson's,
    # or each user's one where all answers are equally long
    uneven = burst * cycle.stall_s * cycle.stalls / 2
    random = (1 - burst) * cycle.stall_s * (0.0 if traffic.same_length else sqrt(cycle.stalls))
    latency_sd = sqrt(random**2 + waiting_sd**2 + (tpot * traffic.output_sd) ** 2)
    if tpot > 0:
        metrics["tpot_mean_s"] = tpot
    for name, (share, deviations) in QUANTILES.items():
        metrics[f"latency_{name}_s"] = latency + deviations * latency_sd
        if tpot > 0:
            metrics[f"tpot_{name}_s"] = tpot + ((2 * share - 1) * uneven + deviations * random) / after
    return metrics


def _first_tokens(cycle: _Cycle, waiting: float, waiting_sd: float, burst: float) -> dict[str, float]:
    """The times to the first token.

    Args:
        cycle: Of a request.
        waiting: Mean time in the queue before it is admitted, s.
        waiting_sd: Its standard deviation.
        burst: Share of the requests that came in a burst; they wait longest.
    """
    steady = waiting + min(cycle.steady_s, cycle.length_s)
    deviation = hypot(cycle.steady_sd_s, waiting_sd)
    found = {"ttft_mean_s": burst * (waiting + (cycle.first_s + cycle.burst_s) / 2) + (1 - burst) * steady}
    longest = 0.0
    for name, (share, deviations) in QUANTILES.items():
        if share > 1 - burst:
            at = waiting + cycle.first_s + (cycle.burst_s - cycle.first_s) * (share - (1 - burst)) / burst
        else:
            at = _quantile(steady, deviation, deviations)
        found[f"ttft_{name}_s"] = longest = max(longest, at)
    return found


def _quantile(mean: float, sd: float, deviations: float) -> float:
    """Of a lognormal distribution: times to the first token have a long tail above and none below."""
    variance = log1p((sd / mean) ** 2)
    return mean * exp(deviations * sqrt(variance) - variance / 2)


def _stalling(steps: StepTimes, schedule: Schedule, traffic: Traffic, running: float, burst: float) -> _Cycle:
    """Prompts first, decoding only when there are none (SGLang's scheduler without mixed chunks)."""
    decode_steps = traffic.output_tokens - 1
    ended_at_once = running / max(1.0, decode_steps)
    together = burst * running + (1 - burst) * max(1.0, ended_at_once)
    requests = _in_a_step(traffic, schedule.chunk, together)
    pieces = _pieces(traffic, schedule.chunk)
    new = traffic.input_tokens / pieces
    step = _host(steps.seconds(requests, new, (traffic.input_tokens - new) / 2, 0.0, 0.0), requests)
    prompt = step * pieces / requests
    decode = _decode(steps, schedule, traffic, running)
    # prompts pass the stages of a pipeline one behind the other
    occupied = prompt / min(schedule.stages, max(1.0, running))
    first = step * pieces
    # others whose place became free in the same step; they come while the next one is under way
    others = min(ended_at_once, running - 1)
    residual = decode * (1 - 1 / running)
    varied = prompt * traffic.input_sd / traffic.input_tokens
    return _Cycle(
        length_s=max(running * occupied, first) + decode_steps * decode,
        first_s=first,
        burst_s=max(first, running * occupied),
        steady_s=prompt * (1 + others) + residual / 2,
        steady_sd_s=sqrt(others * prompt**2 + (1 + others) * varied**2 + residual**2 / 12),
        stalls=running - 1,
        stall_s=occupied,
    )


def _mixing(steps: StepTimes, schedule: Schedule, traffic: Traffic, running: float, burst: float) -> _Cycle:
    """Prompts and decoding in the same steps (vLLM's scheduler, and SGLang's with mixed chunks)."""
    decode_steps = traffic.output_tokens - 1
    # requests that decode count against the chunk (SGLang's PrefillAdder, vLLM's token budget)
    room = max(schedule.chunk / 16, schedule.chunk - running)
    at_once = max(1.0, running / max(1.0, decode_steps))
    # equal requests that begin in one step end in one step, and come together again; others come as answers end
    usual = running if traffic.same_length else at_once
    requests, few = _in_a_step(traffic, room, burst * running + (1 - burst) * usual), _in_a_step(traffic, room, usual)
    pieces = _pieces(traffic, room)
    new = traffic.input_tokens / pieces
    mixed_steps = running * pieces / requests
    total_steps = max(mixed_steps, decode_steps + pieces)
    beside = (running - 1) * decode_steps / total_steps
    context = _context(traffic)
    micro = min(schedule.stages, max(1.0, running))
    mixed = _host(steps.seconds(requests, new, (traffic.input_tokens - new) / 2, beside / micro, context), requests + beside)
    occupied = mixed / micro
    plain_steps = total_steps - mixed_steps
    rest = min(running, max(1.0, (running * decode_steps - mixed_steps * beside) / max(1.0, plain_steps)))
    plain = _decode(steps, schedule, traffic, rest) if plain_steps else occupied
    length = max(pieces * mixed, mixed_steps * occupied + plain_steps * plain)
    # after the first wave
    alone = _host(steps.seconds(few, new, (traffic.input_tokens - new) / 2, beside / micro, context), few + beside)
    first = pieces * alone
    # mean value analysis of a closed queue: who comes finds as many steps with prompts as others have on the mean, the first one half done
    varied = min(1.0, (traffic.input_sd / traffic.input_tokens) ** 2)
    busy = min(running * pieces / few / total_steps, 1.0)
    queue = first * (1 / (1 - busy * (1 - few / running) * (1 + varied) / 2) - 1)
    # a request comes while a step is under way, unless it is alone; what it does not decode in, it waits in
    residual = (busy * alone + (1 - busy) * plain) * (1 - 1 / running)
    waits = length * (1 - decode_steps / total_steps)
    steady = max(waits, min(first + queue, length - decode_steps * plain)) + residual / 2
    return _Cycle(
        length_s=length,
        first_s=first,
        burst_s=max(pieces * mixed, mixed_steps * occupied),
        steady_s=steady,
        steady_sd_s=sqrt(first**2 * varied + queue**2 * (2 / busy - 1) + residual**2 / 12),
        stalls=max(0.0, mixed_steps - pieces) * decode_steps / total_steps,
        stall_s=max(0.0, occupied - plain),
    )


def _in_a_step(traffic: Traffic, chunk: float, together: float) -> float:
    """Requests whose prompts share a step, of those that are there `together`."""
    return max(1.0, min(chunk / traffic.input_tokens, together))


def _pieces(traffic: Traffic, chunk: float) -> float:
    """Steps of a prompt."""
    prompt, most = traffic.input_tokens, 3 * traffic.input_sd
    # the expected value of a normal length over the chunk, rounded up
    sure = max(0, ceil((prompt - most) / chunk) - 1)
    pieces, bound = 1.0 + sure, (sure + 1) * chunk
    while bound < prompt + most:
        pieces += _share_above(bound, prompt, traffic.input_sd)
        bound += chunk
    return pieces


def _share_above(bound: float, mean: float, deviation: float) -> float:
    """Of a normal distribution."""
    return 0.5 * (1 + erf((mean - bound) / deviation / sqrt(2)))


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
