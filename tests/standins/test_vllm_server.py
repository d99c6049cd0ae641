from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.standins.failures import VLLM as FAILURES
from tests.standins.running import MODEL, VLLM, Double, end, running, started

pytestmark = pytest.mark.slow

EARLY = ("device", "model", "load", "capture", "bind")


@pytest.fixture(scope="module")
def server() -> Iterator[Double]:
    with running(VLLM, "--served-model-name", "mine", "--max-num-seqs", "2", VLLM_SERVER_DEV_MODE="1") as server:
        yield server


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--no-such-flag"], "vllm: error: unrecognized arguments: --no-such-flag"),
        (["--swap-space", "4"], "vllm: error: unrecognized arguments: --swap-space 4"),
        (["--max-num", "8"], "vllm serve: error: ambiguous option: --max-num could match"),
        (["--dtype", "int3"], "vllm serve: error: argument --dtype: invalid choice: 'int3'"),
        (["--tensor-parallel-size", "two"], "argument --tensor-parallel-size/-tp: invalid int value: 'two'"),
    ],
)
def test_flags_are_refused_as_argparse_does(flags: list[str], text: str) -> None:
    ended = end(VLLM, *flags)
    assert ended.code == 2
    assert text in ended.log


def test_the_many_ways_to_write_a_flag() -> None:
    flags = ("--max_model_len", "8k", "--no-enable-prefix-caching", "-O0", "--compilation-config.mode", "3", "-tp", "2")
    with running(VLLM, *flags) as server:
        assert server.get("/v1/models")["data"][0]["max_model_len"] == 8000
        server.process.terminate()
        asked = server.end().log
    for said in (
        "'enable_prefix_caching': False",
        "'optimization_level': '0'",
        "'compilation_config': '{\"mode\": 3}'",
        "'tensor_parallel_size': 2",
    ):
        assert said in asked


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--max-num-batched-tokens", "64", "--max-num-seqs", "128"],
            "ValueError: max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128).",
        ),
        (
            ["--max-num-batched-tokens", "64", "--max-num-seqs", "8", "--no-enable-chunked-prefill"],
            "ValueError: max_num_batched_tokens (64) is smaller than max_model_len (131072).",
        ),
        (["-tp", "3"], "ValueError: Total number of attention heads (32) must be divisible by tensor parallel size (3)."),
        (["-tp", "16"], "ValueError: World size (16) is larger than the number of available GPUs (8) in this node."),
        (["--gpu-memory-utilization", "1.5"], "Input should be less than or equal to 1"),
        (["--max-model-len", "200000"], "User-specified max_model_len (200000) is greater than the derived max_model_len"),
    ],
)
def test_contradictions_are_refused_as_vllm_does(flags: list[str], text: str) -> None:
    ended = end(VLLM, *flags)
    assert ended.code == 1
    assert text in ended.log
    assert "EngineCore" not in ended.log


@pytest.mark.parametrize(
    ("flags", "env", "text"),
    [
        (["--gpu-memory-utilization", "0.3"], {"STANDIN_WEIGHTS_GIB": "30"}, "No available memory for the cache blocks."),
        (["--gpu-memory-utilization", "0.13"], {}, "the estimated maximum model length is "),
        (["--gpu-memory-utilization", "0.999"], {}, "is less than desired GPU memory utilization (0.999, 79.92 GiB)."),
        (["--gpu-memory-utilization", "0.99"], {}, "warming up sampler with 1024 dummy requests."),
        ([], {"STANDIN_BUSY_GIB": "20"}, "Free memory on device cuda:0 (59.50/80.00 GiB) on startup is less than desired"),
        ([], {"STANDIN_WEIGHTS_GIB": "90"}, "torch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_memory_runs_out_at_both_ends(flags: list[str], env: dict[str, str], text: str) -> None:
    ended = end(VLLM, *flags, **env)
    assert ended.code == 1
    assert text in ended.log
    assert "[core.py:1584] EngineCore failed to start." in ended.log
    assert ended.log.endswith(
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}\n"
    )


@pytest.mark.parametrize("name", [name for name, failure in FAILURES.items() if failure.stage in EARLY])
def test_it_fails_at_start_as_told(name: str) -> None:
    ended = end(VLLM, STANDIN_FAIL=name)
    assert ended.code == FAILURES[name].code == 1
    assert FAILURES[name].text.replace("{model}", MODEL).splitlines()[0] in ended.log
    assert ("Engine core initialization failed." in ended.log) == (FAILURES[name].stage in ("load", "capture"))


def test_an_engine_killed_by_the_host_is_told_by_its_exit_code_alone() -> None:
    ended = end(VLLM, STANDIN_FAIL="oom_host")
    assert ended.code == 1
    assert "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': -9}" in ended.log


@pytest.mark.parametrize("name", [name for name, failure in FAILURES.items() if failure.stage == "serve"])
def test_it_dies_under_load_as_told(name: str) -> None:
    with running(VLLM, STANDIN_FAIL=name, STANDIN_FAIL_AFTER="2") as server:
        assert server.chat()[0] == 200
        with pytest.raises(OSError):
            server.chat()
        ended = server.end()
    assert ended.code == FAILURES[name].code
    assert FAILURES[name].text in ended.log
    assert "EngineCore encountered a fatal error." in ended.log


def test_it_refuses_from_a_request_on() -> None:
    with running(VLLM, STANDIN_FAIL="overload_503", STANDIN_FAIL_AFTER="2") as server:
        assert [server.chat()[0] for _ in range(3)] == [200, 503, 503]


def test_a_taken_port() -> None:
    with running(VLLM) as server:
        ended = end(VLLM, "--port", server.url.rpartition(":")[2])
    assert ended.code == 1
    assert "OSError: [Errno 98] Address already in use" in ended.log


def test_nobody_listens_until_it_is_ready() -> None:
    with started(VLLM, STANDIN_FAIL="hang") as double:
        while "Initializing a V1 LLM engine" not in double.so_far():
            assert double.status("/health") is None
            time.sleep(0.01)
        assert double.status("/health") is None


def test_a_stream_is_well_formed(server: Double) -> None:
    status, text = server.chat(words=9, tokens=5, stream=True, stream_options={"include_usage": True})
    assert status == 200
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]] == ["", *[" word"] * 5, None]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_errors_are_wrapped(server: Double) -> None:
    status, text = server.chat(model="other")
    assert status == 404
    assert json.loads(text)["error"]["message"] == "The model `other` does not exist."
    status, text = server.chat(words=200_000)
    assert status == 400
    assert "This model's maximum context length is 131072 tokens." in json.loads(text)["error"]["message"]


def test_what_it_tells_about_itself(server: Double) -> None:
    assert server.get("/version") == {"version": "0.33.0"}
    assert server.get("/load") == {"server_load": 0}
    card = server.get("/v1/models")["data"][0]
    assert (card["id"], card["root"], card["max_model_len"]) == ("mine", MODEL, 131072)


def test_metrics_follow_the_load(server: Double) -> None:
    def metric(name: str) -> float:
        families = text_string_to_metric_families(server.get("/metrics"))
        return next(sample.value for family in families for sample in family.samples if sample.name == name)

    seen: list[tuple[float, float]] = []
    clients = [threading.Thread(target=server.chat, kwargs={"tokens": 400, "words": 40}) for _ in range(5)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        seen.append((metric("vllm:num_requests_running"), metric("vllm:num_requests_waiting")))
    assert max(running for running, _ in seen) == 2
    assert max(waiting for _, waiting in seen) == 3
    assert metric("vllm:generation_tokens_total") >= 2000
    assert metric("vllm:prefix_cache_hits_total") > 0
    assert metric("vllm:e2e_request_latency_seconds_count") >= 5
    assert json.loads(server.post("/reset_prefix_cache")[1]) == {"success": True}


def test_a_full_cache_preempts() -> None:
    flags = ("--max-model-len", "128", "--kv-cache-memory-bytes", str(20 * 16 * 32768))
    with running(VLLM, *flags) as server:
        clients = [threading.Thread(target=server.chat, kwargs={"tokens": 100}) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        families = text_string_to_metric_families(server.get("/metrics"))
        assert next(s.value for family in families for s in family.samples if s.name == "vllm:num_preemptions_total") > 0


def test_the_cache_is_reset_in_development_mode_only() -> None:
    with running(VLLM) as server:
        assert server.post("/reset_prefix_cache")[0] == 404
