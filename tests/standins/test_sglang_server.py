from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.standins.failures import SGLANG as FAILURES
from tests.standins.running import MODEL, SGLANG, Double, end, running, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Double]:
    with running(SGLANG, "--enable-metrics", "--served-model-name", "mine", "--max-running-requests", "2") as server:
        yield server


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--cuda-graph-max-bs", "8"],
            "ambiguous option: --cuda-graph-max-bs could match --cuda-graph-max-bs-decode, --cuda-graph-max-bs-prefill",
        ),
        (["--no-such-flag"], "error: unrecognized arguments: --no-such-flag"),
        (["--schedule-policy", "best"], "error: argument --schedule-policy: invalid choice: 'best'"),
        (["--tp-size", "two"], "argument --tp-size/--tensor-parallel-size: invalid int value: 'two'"),
    ],
)
def test_flags_are_refused_as_argparse_does(flags: list[str], text: str) -> None:
    ended = end(SGLANG, *flags)
    assert ended.code == 2
    assert text in ended.log


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--chunked-prefill-size", "1000", "--page-size", "64"], 1, "AssertionError: chunked_prefill_size must be divisible by page_size"),
        (["--dp-size", "2", "--attn-dp-size", "2"], 1, "ValueError: --dp-size 2 with --attn-dp-size 2: data-parallel replicas combined"),
        (["--schedule-conservativeness", "-1"], 1, "AssertionError: schedule_conservativeness must be non-negative"),
        (
            ["--enable-priority-scheduling", "--schedule-policy", "lpm"],
            1,
            "schedule_policy must be 'fcfs' or 'lof'. 'lpm' is not supported.",
        ),
        (["--tp-size", "3"], -signal.SIGKILL, "AssertionError"),
        (["--tp-size", "16"], -signal.SIGKILL, "CUDA error: invalid device ordinal"),
    ],
)
def test_contradictions_are_refused_as_sglang_does(flags: list[str], code: int, text: str) -> None:
    ended = end(SGLANG, *flags)
    assert ended.code == code
    assert text in ended.log


def test_a_static_budget_below_the_weights_names_the_least_fraction() -> None:
    ended = end(SGLANG, "--mem-fraction-static", "0.2", STANDIN_GPU_GIB="40", STANDIN_WEIGHTS_GIB="20")
    assert ended.code == -signal.SIGKILL
    assert (
        "under --mem-fraction-static=0.2. Raise --mem-fraction-static above 0.507 (minimum viable = 1 - available/pre = 0.5063)"
        in ended.log
    )
    with running(SGLANG, "--mem-fraction-static", "0.51", STANDIN_GPU_GIB="40", STANDIN_WEIGHTS_GIB="20") as server:
        assert server.get("/server_info")["max_total_num_tokens"] > 0


def test_the_published_kv_cache_of_a_1b_model_on_95_gib() -> None:
    with running(SGLANG, "--mem-fraction-static", "0.7", STANDIN_GPU_GIB="95.2") as server:
        assert server.get("/server_info")["internal_states"][0]["memory_usage"]["kvcache"] == pytest.approx(64, rel=0.01)


def test_no_room_for_the_graphs() -> None:
    ended = end(SGLANG, "--mem-fraction-static", "0.99")
    assert ended.code == -signal.SIGKILL
    assert "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate" in ended.log
    assert "1. set --mem-fraction-static to a smaller value" in ended.log


def test_no_room_for_a_large_prefill_at_run_time() -> None:
    with running(SGLANG, "--mem-fraction-static", "0.97", STANDIN_ACTIVATION_MIB="1") as server:
        assert server.chat(words=100)[0] == 200
        with pytest.raises(OSError):
            server.chat(words=4000)
        ended = server.end()
    assert ended.code == -signal.SIGKILL
    assert "torch.OutOfMemoryError: CUDA out of memory." in ended.log
    assert "SIGQUIT received. " in ended.log


def test_a_number_of_requests_beyond_the_cache_is_cut() -> None:
    with running(SGLANG, "--max-running-requests", "1000", "--max-total-tokens", "200") as server:
        info = server.get("/server_info")
        assert info["max_running_requests"] == 1000
        assert info["internal_states"][0]["effective_max_running_requests_per_dp"] == 100
        server.process.terminate()
        assert "max_running_requests was reduced from the requested 1000 to 100" in server.end().log


@pytest.mark.parametrize(
    "name", [name for name, failure in FAILURES.items() if failure.stage in ("device", "model", "load", "capture", "child", "bind")]
)
def test_it_fails_at_start_as_told(name: str) -> None:
    ended = end(SGLANG, STANDIN_FAIL=name)
    assert ended.code == FAILURES[name].code
    assert FAILURES[name].text.replace("{model}", MODEL) in ended.log or name == "port_in_use"
    assert ("Received sigquit from a child process." in ended.log) == (ended.code == -signal.SIGKILL)


@pytest.mark.parametrize("name", [name for name, failure in FAILURES.items() if failure.stage == "serve"])
def test_it_dies_under_load_as_told(name: str) -> None:
    with running(SGLANG, STANDIN_FAIL=name, STANDIN_FAIL_AFTER="2") as server:
        assert server.chat()[0] == 200
        with pytest.raises(OSError):
            server.chat()
        ended = server.end()
    assert ended.code == FAILURES[name].code
    assert FAILURES[name].text in ended.log


def test_it_refuses_from_a_request_on() -> None:
    with running(SGLANG, STANDIN_FAIL="overload_503", STANDIN_FAIL_AFTER="2") as server:
        assert [server.chat()[0] for _ in range(3)] == [200, 503, 503]


def test_it_may_take_long_or_never_come() -> None:
    with started(SGLANG, STANDIN_FAIL="hang") as hanging, running(SGLANG, STANDIN_FAIL="slow_start", STANDIN_SLOW_S="0.2"):
        assert hanging.process.poll() is None
        assert hanging.status("/v1/models") is None


def test_a_taken_port() -> None:
    with running(SGLANG) as server:
        ended = end(SGLANG, "--port", server.url.rpartition(":")[2])
    assert ended.code == 1
    assert "error while attempting to bind on address ('127.0.0.1', " in ended.log
    assert "address already in use" in ended.log


def test_an_unknown_way_to_fail_is_refused() -> None:
    assert "STANDIN_FAIL=fire: one of crash_serving, " in end(SGLANG, STANDIN_FAIL="fire").log


def test_a_stream_is_well_formed(server: Double) -> None:
    status, text = server.chat(words=9, tokens=5, stream=True, stream_options={"include_usage": True})
    assert status == 200
    events = text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["model"] for chunk in chunks} == {"mine"}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]] == ["", *[" word"] * 5, None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 6 + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert chunks[-1]["usage"]["prompt_tokens"] >= 9


def test_the_end_of_an_answer(server: Double) -> None:
    def finish(**more: object) -> tuple[str, int]:
        answer = json.loads(server.chat(tokens=50, **more)[1])
        return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]

    assert finish() == ("length", 50)
    assert finish(ignore_eos=False) == ("stop", 24)
    assert finish(ignore_eos=False, min_tokens=30) == ("stop", 30)


def test_plain_completions(server: Double) -> None:
    status, text = server.post("/v1/completions", {"prompt": "a b c", "max_tokens": 2, "ignore_eos": True})
    assert status == 200
    assert json.loads(text)["choices"][0]["text"] == " word word"


def test_a_request_beyond_the_context_is_refused(server: Double) -> None:
    status, text = server.chat(tokens=200_000)
    assert status == 400
    assert "exceeds the model's maximum context length of 131072 tokens" in json.loads(text)["message"]


def test_what_it_tells_about_itself(server: Double) -> None:
    info = server.get("/server_info")
    assert info["version"] == "0.5.23"
    assert info["max_running_requests"] == 2
    assert info["chunked_prefill_size"] == 8192
    assert info["mem_fraction_static"] == 0.836
    assert server.get("/v1/models")["data"][0]["id"] == "mine"
    assert server.get("/model_info")["served_model_name"] == "mine"


def test_metrics_follow_the_load(server: Double) -> None:
    def metric(name: str) -> float:
        families = text_string_to_metric_families(server.get("/metrics"))
        return next(sample.value for family in families for sample in family.samples if sample.name == name)

    seen: list[tuple[float, float, float]] = []
    clients = [threading.Thread(target=server.chat, kwargs={"tokens": 400, "words": 40}) for _ in range(5)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        seen.append((metric("sglang:num_running_reqs"), metric("sglang:num_queue_reqs"), metric("sglang:token_usage")))
    assert max(running for running, _, _ in seen) == 2
    assert max(queued for _, queued, _ in seen) == 3
    assert 0 < max(usage for _, _, usage in seen) < 1
    assert metric("sglang:num_running_reqs") == metric("sglang:num_queue_reqs") == 0
    assert metric("sglang:generation_tokens_total") >= 2000
    assert metric("sglang:cached_tokens_total") > 0
    assert metric("sglang:time_to_first_token_seconds_count") >= 5


def test_the_cache_is_flushed_only_at_rest(server: Double) -> None:
    busy = threading.Thread(target=server.chat, kwargs={"tokens": 500})
    busy.start()
    while server.post("/flush_cache")[0] == 200:
        assert busy.is_alive()
    busy.join()
    assert server.post("/flush_cache")[0] == 200


def test_a_full_cache_sends_requests_back() -> None:
    with running(SGLANG, "--max-total-tokens", "300", "--schedule-conservativeness", "0", "--enable-metrics") as server:
        clients = [threading.Thread(target=server.chat, kwargs={"tokens": 100}) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        server.process.terminate()
        assert "KV cache pool is full. Retract requests. #retracted_reqs: " in server.end().log


def test_metrics_are_off_unless_asked_for() -> None:
    with running(SGLANG) as server:
        assert server.status("/metrics") == 404


def test_never_ready() -> None:
    with started(SGLANG, STANDIN_FAIL="never_ready") as double:
        while double.status("/health") is None:
            time.sleep(0.01)
        assert double.status("/health") == double.status("/v1/models") == 503
        double.process.terminate()
        assert "ready to roll" not in double.end().log
