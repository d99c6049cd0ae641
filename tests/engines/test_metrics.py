from __future__ import annotations

import pytest

from tests.engines.fake_server import FakeServer, Reply
from tuner.engines.metrics import info, samples, server_metrics
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.launch import Endpoint
from tuner.server_facts import ServerMetrics

MODEL = "meta-llama/Llama-3.2-1B-Instruct"

# Two data parallel replicas of two pipeline stages each: both stages tell of the same requests.
SGLANG_PAGE = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",pp_rank="0",tp_rank="0",priority=""} 3.0
sglang:num_running_reqs{dp_rank="0",pp_rank="1",tp_rank="0",priority=""} 3.0
sglang:num_running_reqs{dp_rank="0",pp_rank="0",tp_rank="0",priority="5"} 2.0
sglang:num_running_reqs{dp_rank="1",pp_rank="0",tp_rank="1",priority=""} 4.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{dp_rank="0"} 1.0
# TYPE sglang:token_usage gauge
sglang:token_usage{dp_rank="0",pp_rank="0"} 0.2
sglang:token_usage{dp_rank="1",pp_rank="0"} 0.6
# TYPE sglang:num_retracted_reqs gauge
sglang:num_retracted_reqs{dp_rank="0",pid="7"} 1.0
# TYPE sglang:num_retracted_requests_total counter
sglang:num_retracted_requests_total{dp_rank="0",pp_rank="0"} 5.0
sglang:num_retracted_requests_total{dp_rank="1",pp_rank="0"} 1.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{is_streaming="true"} 100.0
sglang:prompt_tokens_total{is_streaming="false"} 50.0
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device"} 30.0
sglang:cached_tokens_total{cache_source="host"} 10.0
# TYPE sglang:cache_hit_rate gauge
sglang:cache_hit_rate{dp_rank="0"} 0.25
"""

VLLM_PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.7
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 9.0
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 250.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.85",\
kv_cache_memory_bytes="None",num_gpu_blocks="4096",prefix_caching_hash_algo="sha256"} 1.0
"""


def test_sglang(fake_server: FakeServer) -> None:
    fake_server.routes["GET /metrics"] = Reply(SGLANG_PAGE.encode())
    assert Sglang(MODEL).metrics(Endpoint(fake_server.url, "m")) == ServerMetrics(
        running=7.0, queued=1.0, kv_usage=0.4, preemptions=6.0, prompt_tokens=150.0, cached_tokens=40.0, cache_hit_rate=0.25
    )


def test_vllm(fake_server: FakeServer) -> None:
    fake_server.routes["GET /metrics"] = Reply(VLLM_PAGE.encode())
    found = Vllm(MODEL).metrics(Endpoint(fake_server.url, "m"))
    assert found == ServerMetrics(running=7.0, queued=2.0, kv_usage=0.6, preemptions=9.0, prompt_tokens=1000.0, cached_tokens=250.0)


def test_vllm_tells_its_effective_values_there(fake_server: FakeServer) -> None:
    fake_server.routes["GET /v1/models"] = Reply({"data": [{"id": "m", "max_model_len": 8192}]})
    fake_server.routes["GET /metrics"] = Reply(VLLM_PAGE.encode())
    assert Vllm(MODEL).effective(Endpoint(fake_server.url, "m")) == {
        "max_model_len": 8192,
        "block_size": 16,
        "gpu_memory_utilization": 0.85,
        "kv_cache_dtype": "auto",
        "enable_prefix_caching": True,
        "num_gpu_blocks": 4096,
    }


def test_a_page_without_any_of_the_metrics() -> None:
    assert server_metrics("# TYPE a gauge\na 1\n", {"running": "b"}) is None
    assert info("a 1\n", "b", {"c": "c"}) == {}


def test_counters_are_found_with_and_without_total() -> None:
    for page in ("# TYPE a_total counter\na_total 3\n", "# TYPE a counter\na_total 3\n", "# TYPE a counter\na 3\n", "a_total 3\n"):
        assert server_metrics(page, {"preemptions": "a"}) == ServerMetrics(preemptions=3.0), page


def test_what_is_no_number_is_not_counted() -> None:
    assert server_metrics("a NaN\n", {"running": "a"}) is None
    assert server_metrics('a{b="1"} +Inf\na{b="2"} 2\n', {"running": "a"}) == ServerMetrics(running=2.0)


@pytest.mark.parametrize(
    "page",
    [
        "",
        "not metrics",
        "<html>x</html>",
        "a{",
        'a{b="c',
        "a{b} 1",
        "a{} x",
        "# TYPE",
        "# TYPE a",
        "# HELP",
        "a 1 2 3 4",
        "\x00",
        "{}",
        "}{ 1",
        'a{b="\\',
    ],
)
def test_garbage_is_no_page(page: str) -> None:
    assert server_metrics(page, {"running": "b"}) is None
    assert all(isinstance(name, str) for name in samples(page))
