"""The simulated scheduler: what must hold whatever the step times are, and where its answers are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice, repeat

import pytest

from benchmarks.landscapes.simulator import Host, Server, Trace, Unservable, simulate
from benchmarks.landscapes.steps import StepTimes
from benchmarks.landscapes.traffic import lengths

IDLE = Host(step_s=0.0, eager_s=0.0, tokenize_s=0.0, answer_s=0.0)
AMPLE = Server(max_running=1024, chunk=8192, mixed=False, conservativeness=1.0, graph_batch=512, kv_tokens=10**7)


@dataclass(frozen=True)
class Linear:
    """10 us for a prompt token, 10 ms and 1 us for each token of context for a decode step."""

    def prefill_s(self, tokens: int, context: float) -> float:
        return 1e-5 * tokens

    def decode_s(self, batch: int, context: float) -> float:
        return 0.01 + 1e-6 * batch * context


STEPS = StepTimes(Linear())


def run(
    server: Server, users: int, requests: int, scenario: str = "N(500,200)/(100,40)", host: Host = IDLE, max_time_s: float = 1e9
) -> Trace:
    return simulate(STEPS, server, host, lengths(scenario, 0), users, requests, max_time_s)


def test_one_user_pays_for_the_prompt_and_each_step() -> None:
    trace = simulate(STEPS, AMPLE, IDLE, repeat((1000, 101)), 1, 3, 1e9)
    # the step that makes token n reads the prompt and the tokens before it
    decode_s = sum(0.01 + 1e-6 * (1000 + made) for made in range(100))
    for request in trace.requests:
        assert request.ttft_s == pytest.approx(0.01)
        assert request.latency_s == pytest.approx(0.01 + decode_s)
        assert request.tpot_s == pytest.approx(decode_s / 100)
    assert trace.duration_s == pytest.approx(3 * (0.01 + decode_s))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kv_tokens", [1500, 6000, 10**7])
def test_every_request_ends_with_all_of_its_tokens(mixed: bool, kv_tokens: int) -> None:
    trace = run(replace(AMPLE, mixed=mixed, kv_tokens=kv_tokens, chunk=256, conservativeness=0.0), users=16, requests=160)
    ended = sorted((request.input_tokens, request.output_tokens) for request in trace.requests)
    sent = sorted(islice(lengths("N(500,200)/(100,40)", 0), 160 + 16))
    assert len(ended) == 160
    for request in set(ended):
        assert ended.count(request) <= sent.count(request)
    finished = [request.finished_s for request in trace.requests]
    assert finished == sorted(finished)


def test_users_always_have_one_request_in_flight() -> None:
    trace = run(AMPLE, users=16, requests=480)
    cycles_s = sum(request.latency_s for request in trace.requests)
    assert cycles_s / trace.duration_s == pytest.approx(16, rel=0.05)  # Little's law


def test_a_long_prompt_is_cut_into_chunks() -> None:
    trace = simulate(STEPS, replace(AMPLE, chunk=512), IDLE, repeat((2000, 10)), 4, 8, 1e9)
    assert trace.peak_prefill_tokens == 512


def test_prompts_stall_answers_unless_they_ride() -> None:
    scenario = "N(4000,1500)/(100,40)"
    apart = run(replace(AMPLE, chunk=512), 16, 160, scenario)
    together = run(replace(AMPLE, chunk=512, mixed=True), 16, 160, scenario)
    assert max(request.tpot_s or 0.0 for request in together.requests) < max(request.tpot_s or 0.0 for request in apart.requests)


def test_riders_take_their_share_of_the_chunk() -> None:
    trace = run(replace(AMPLE, chunk=512, mixed=True), users=32, requests=128)
    assert trace.peak_prefill_tokens == 512


def test_no_more_run_than_may() -> None:
    few, many = run(replace(AMPLE, max_running=4), 16, 64), run(AMPLE, 16, 64)
    assert (few.peak_batch, many.peak_batch) == (4, 16)
    assert few.duration_s > many.duration_s


def test_a_bolder_admission_retracts_more_at_first_and_ample_memory_never() -> None:
    def retractions(conservativeness: float, kv_tokens: int) -> int:
        # later on the two are alike: a retraction makes SGLang careful, and the bolder it was told to be the longer it stays so
        server = replace(AMPLE, conservativeness=conservativeness, kv_tokens=kv_tokens)
        return run(server, users=32, requests=48, scenario="N(100,20)/(400,50)").retractions

    assert retractions(0.0, 4000) > retractions(1.3, 4000)
    assert retractions(0.0, 8000) > retractions(1.3, 8000)
    assert retractions(0.0, 20000) == retractions(1.3, 20000) == 0


def test_more_memory_is_never_slower() -> None:
    durations = [run(replace(AMPLE, kv_tokens=kv_tokens), 32, 256).duration_s for kv_tokens in (2000, 4000, 8000, 16000, 32000)]
    assert durations == sorted(durations, reverse=True)


def test_what_was_thrown_out_is_computed_anew() -> None:
    bold = replace(AMPLE, conservativeness=0.0)
    tight, ample = (run(replace(bold, kv_tokens=tokens), 32, 256, "N(100,20)/(400,50)") for tokens in (8000, 10**7))
    assert tight.retractions > 0
    assert max(request.tpot_s or 0.0 for request in tight.requests) > max(request.tpot_s or 0.0 for request in ample.requests)


def test_without_a_graph_a_step_takes_what_the_host_takes() -> None:
    host = replace(IDLE, eager_s=0.05)
    captured, eager = (run(replace(AMPLE, graph_batch=batch), 16, 64, "D(100,101)", host) for batch in (16, 8))
    assert eager.requests[0].tpot_s == pytest.approx(0.05)
    assert (captured.requests[0].tpot_s or 0.0) < 0.02


def test_time_is_up() -> None:
    trace = run(AMPLE, 16, 10_000, max_time_s=5.0)
    assert trace.duration_s == 5.0
    assert 0 < len(trace.requests) < 10_000
    assert (trace.requests[-1].finished_s or 0.0) <= 5.0


def test_a_request_larger_than_the_cache_cannot_be_served() -> None:
    with pytest.raises(Unservable, match="1000 \\+ 100 tokens in a KV cache of 1100"):
        simulate(STEPS, replace(AMPLE, kv_tokens=1100), IDLE, cycle([(10, 10), (1000, 100)]), 1, 4, 1e9)
