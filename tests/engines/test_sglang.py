from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.conformance.engine import MODEL_PATH, EngineConformance
from tests.engines.fake_server import FakeServer, Reply
from tuner.engines.base import Engine
from tuner.engines.sglang import Sglang
from tuner.errors import ConfigError, Infeasible, Systemic, Transient
from tuner.launch import Configuration, Endpoint, ExitStatus, Mount

MODEL = "meta-llama/Llama-3.2-1B-Instruct"

# As /server_info of SGLang 0.5 answers, shortened: resolved arguments, capacity, and the state of each data parallel rank.
SERVER_INFO = {
    "model_path": MODEL,
    "api_key": "secret",
    "tp_size": 1,
    "mem_fraction_static": 0.832,
    "max_running_requests": 4096,
    "chunked_prefill_size": 8192,
    "schedule_policy": "fcfs",
    "enable_mixed_chunk": False,
    "quantization": None,
    "cuda_graph_bs": [1, 2, 4],
    "max_total_num_tokens": 524288,
    "internal_states": [{"effective_max_running_requests_per_dp": 2048}, {"effective_max_running_requests_per_dp": 2048}],
    "version": "0.5.23",
}


class TestSglang(EngineConformance):
    refused: ClassVar[Configuration] = {"chunked_prefill_size": 1000, "page_size": 64}
    flags: ClassVar[Configuration] = {
        "tp_size": 2,
        "mem_fraction_static": 0.85,
        "chunked_prefill_size": -1,
        "schedule_policy": "lpm",
        "enable_mixed_chunk": True,
        "mm_enable_dp_encoder": False,
        "cuda_graph_bs_decode": "1 2 8",
        "json_model_override_args": '{"a": {"b c": 1}}',
    }

    @pytest.fixture
    def engine(self) -> Engine:
        return Sglang(MODEL)

    @pytest.fixture
    def engine_elsewhere(self, folder: Path) -> Engine:
        return Sglang(str(folder), {"context_length": 8192}, model_path=MODEL_PATH)


def test_configuration_becomes_flags() -> None:
    engine = Sglang(MODEL, args={"context_length": 8192}, image="lmsysorg/sglang:v0.5.23")
    spec = engine.launch({"mem_fraction_static": 0.85, "enable_mixed_chunk": True, "disable_radix_cache": False}, "t7")
    assert spec.argv == (
        *("python3", "-m", "sglang.launch_server", "--model-path", MODEL, "--served-model-name", "Llama-3.2-1B-Instruct-t7"),
        *("--host", "{host}", "--port", "{port}", "--enable-metrics"),
        *("--context-length", "8192", "--mem-fraction-static", "0.85", "--enable-mixed-chunk"),
    )
    assert spec.image == "lmsysorg/sglang:v0.5.23"
    assert spec.mounts == ()


def test_command_to_paste_names_the_model_as_it_is() -> None:
    command = " ".join(Sglang(MODEL).launch({}, "").bound("127.0.0.1", 8000))
    assert "--served-model-name meta-llama/Llama-3.2-1B-Instruct --host 127.0.0.1" in command


def test_a_local_model_is_mounted(tmp_path: Path) -> None:
    engine = Sglang(str(tmp_path))
    spec = engine.launch({}, "t7")
    assert spec.mounts == (Mount(tmp_path, str(tmp_path)),)
    assert str(tmp_path) in spec.argv
    assert spec.served_model == f"{tmp_path.name}-t7"
    assert engine.tokenizer == str(tmp_path)


@pytest.mark.parametrize(
    ("configuration", "gpus"),
    [
        ({}, 1),
        ({"tp_size": 4}, 4),
        ({"tp_size": 2, "dp_size": 2, "pp_size": 2}, 8),
        ({"tensor_parallel_size": 2}, 2),
        ({"tp_size": 4, "attn_dp_size": 4}, 4),
    ],
)
def test_gpus(configuration: Configuration, gpus: int) -> None:
    assert Sglang(MODEL).launch(configuration, "t").gpus == gpus


@pytest.mark.parametrize(
    "configuration",
    [
        {"dp_size": 2, "attn_dp_size": 2},
        {"tp_size": 4, "attn_dp_size": 3},
        {"tp_size": 4, "attn_dp_size": 2, "attn_cp_size": 4},
        {"enable_torch_compile": True, "disable_cuda_graph_padding": True},
        {"enable_priority_scheduling": True, "schedule_policy": "lpm"},
        {"schedule_conservativeness": -0.1},
        {"tp_size": 0},
        {"tp_size": 1.5},
        {"port": 80},
        {"api_key": "x"},
    ],
)
def test_impossible_configurations(configuration: Configuration) -> None:
    with pytest.raises(Infeasible):
        Sglang(MODEL).launch(configuration, "t")


@pytest.mark.parametrize(
    "configuration",
    [
        {"chunked_prefill_size": -1, "page_size": 64},
        {"chunked_prefill_size": 4096, "page_size": 64},
        {"chunked_prefill_size": 1000, "page_size": 64, "disaggregation_mode": "decode"},
        {"enable_priority_scheduling": True},
        {"enable_priority_scheduling": True, "schedule_policy": "lof"},
    ],
)
def test_possible_configurations(configuration: Configuration) -> None:
    Sglang(MODEL).launch(configuration, "t")


def test_a_rule_that_older_versions_do_not_have() -> None:
    Sglang(MODEL, version="0.5.10").launch({"enable_torch_compile": True, "disable_cuda_graph_padding": True}, "t")


@pytest.mark.parametrize("name", ["port", "served_model_name", "api_key"])
def test_arguments_that_are_not_the_users(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.args\.{name}: "):
        Sglang(MODEL, args={name: "x"})


def test_a_missing_directory_is_systemic() -> None:
    with pytest.raises(Systemic, match=r"engine\.model=/no/such: no such directory"):
        Sglang("/no/such").prepare()


def test_credentials_reach_the_server_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert Sglang(MODEL).launch({}, "t").env["HF_TOKEN"] == "hf_x"
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" not in Sglang(MODEL).launch({}, "t").env


def test_effective_values_and_version(fake_server: FakeServer) -> None:
    fake_server.routes["GET /server_info"] = Reply(SERVER_INFO)
    endpoint, engine = Endpoint(fake_server.url, "m"), Sglang(MODEL)
    assert engine.effective(endpoint) == {
        "tp_size": 1,
        "mem_fraction_static": 0.832,
        "max_running_requests": 4096,
        "chunked_prefill_size": 8192,
        "schedule_policy": "fcfs",
        "enable_mixed_chunk": False,
        "max_total_num_tokens": 524288,
    }
    assert engine.version(endpoint) == "sglang 0.5.23"


def test_an_older_version_answers_on_another_route(fake_server: FakeServer) -> None:
    fake_server.routes["GET /get_server_info"] = Reply({"tp_size": 2, "version": "0.5.5.post3"})
    endpoint = Endpoint(fake_server.url, "m")
    assert Sglang(MODEL).effective(endpoint) == {"tp_size": 2}
    assert Sglang(MODEL).version(endpoint) == "sglang 0.5.5.post3"


def test_a_cut_number_of_requests_is_read_back(fake_server: FakeServer) -> None:
    fake_server.routes["GET /server_info"] = Reply({**SERVER_INFO, "internal_states": [{"effective_max_running_requests_per_dp": 52}]})
    assert Sglang(MODEL).effective(Endpoint(fake_server.url, "m"))["max_running_requests"] == 52


@pytest.mark.parametrize(("status", "flushed"), [(200, True), (400, False)])
def test_flush(fake_server: FakeServer, status: int, flushed: bool) -> None:
    fake_server.routes["POST /flush_cache"] = Reply("", status)
    assert Sglang(MODEL).flush_cache(Endpoint(fake_server.url, "m")) is flushed


def test_flush_waits_until_the_server_is_idle(fake_server: FakeServer) -> None:
    fake_server.routes["GET /v1/models"] = Reply({"data": [{"id": "m"}]})
    answers = iter([400, 400, 200])
    fake_server.routes["POST /flush_cache"] = lambda: Reply("", next(answers))
    assert Sglang(MODEL).flush_cache(Endpoint(fake_server.url, "m"))
    assert list(answers) == []


def test_readiness_costs_no_generation(fake_server: FakeServer) -> None:
    fake_server.routes["GET /v1/models"] = Reply({"data": [{"id": "m"}]})
    assert Sglang(MODEL).ready(Endpoint(fake_server.url, "m"))
    assert fake_server.asked == ["GET /v1/models"]


GENERIC = "[2026-01-01 00:00:00] Received sigquit from a child process. It usually means the child failed."


@pytest.mark.parametrize(
    ("log", "kind", "said"),
    [
        (
            "RuntimeError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.3. Raise "
            "--mem-fraction-static above 0.412 (minimum viable = 1 - available/pre = 0.407)",
            Infeasible,
            "above 0.412",
        ),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", Infeasible, "raise mem_fraction_static"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. \nException: Capture cuda graph failed: CUDA out of memory",
            Infeasible,
            "lower mem_fraction_static",
        ),
        ("Rank 0 scheduler died during initialization (exit code: -9). If you see -9, ...", Infeasible, "host ran out of memory"),
        ("AssertionError: chunked_prefill_size must be divisible by page_size", Infeasible, "divisible by page_size"),
        ("launch_server.py: error: unrecognized arguments: --num-foo 3", Systemic, "--num-foo"),
        ("launch_server.py: error: ambiguous option: --cuda-graph-max-bs could match ...", Systemic, "--cuda-graph-max-bs"),
        ("launch_server.py: error: argument --schedule-policy: invalid choice: 'x'", Infeasible, "--schedule-policy"),
        ("OSError: no/model is not a local folder and is not a valid model identifier listed on 'https://hf.co'", Systemic, "engine.model"),
        ("/usr/bin/python3: No module named sglang", Systemic, "sglang"),
    ],
)
def test_the_root_cause_wins_over_the_crash_line(log: str, kind: type[Exception], said: str) -> None:
    failure = Sglang(MODEL).diagnose(ExitStatus(137, log_tail=f"INFO loading\n{log}\n{GENERIC}\n"))
    assert type(failure) is kind
    assert said in failure.reason


def test_an_unknown_crash_is_tried_again() -> None:
    assert type(Sglang(MODEL).diagnose(ExitStatus(1, log_tail=GENERIC))) is Transient
