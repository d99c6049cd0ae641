from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.conformance.engine import MODEL_PATH, EngineConformance
from tests.engines.fake_server import FakeServer, Reply
from tuner.engines.base import Engine
from tuner.engines.vllm import Vllm
from tuner.errors import Infeasible, Systemic, Transient
from tuner.launch import Configuration, Endpoint, ExitStatus

MODEL = "meta-llama/Llama-3.2-1B-Instruct"


class TestVllm(EngineConformance):
    refused: ClassVar[Configuration] = {"max_num_seqs": 1024, "max_num_batched_tokens": 512}
    flags: ClassVar[Configuration] = {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.9,
        "max_model_len": "8k",
        "performance_mode": "throughput",
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "cudagraph_capture_sizes": "1 2 8",
        "compilation_config": '{"mode": 0, "pass_config": {}}',
    }

    @pytest.fixture
    def engine(self) -> Engine:
        return Vllm(MODEL)

    @pytest.fixture
    def engine_elsewhere(self, folder: Path) -> Engine:
        return Vllm(str(folder), {"max_num_seqs": 64}, model_path=MODEL_PATH)


def test_configuration_becomes_flags() -> None:
    configuration: Configuration = {
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "tensor_parallel_size": 2,
        "data_parallel_size": 2,
    }
    spec = Vllm(MODEL, executable=["/opt/vllm/bin/vllm", "serve"]).launch(configuration, "t7")
    assert spec.argv == (
        *("/opt/vllm/bin/vllm", "serve", MODEL, "--served-model-name", "Llama-3.2-1B-Instruct-t7", "--host", "{host}", "--port", "{port}"),
        *("--no-enable-prefix-caching", "--enforce-eager", "--tensor-parallel-size", "2", "--data-parallel-size", "2"),
    )
    assert spec.gpus == 4


@pytest.mark.parametrize(
    "configuration",
    [
        {"gpu_memory_utilization": 0.0},
        {"gpu_memory_utilization": 1.1},
        {"tensor_parallel_size": 0},
        {"enable_chunked_prefill": False, "max_num_batched_tokens": 2048, "max_model_len": 4096},
    ],
)
def test_impossible_configurations(configuration: Configuration) -> None:
    with pytest.raises(Infeasible):
        Vllm(MODEL).launch(configuration, "t")


def test_gpus_of_every_kind_of_parallelism() -> None:
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 3, "prefill_context_parallel_size": 2}
    assert Vllm(MODEL).launch(sizes, "t").gpus == 24


def test_effective_values_and_version(fake_server: FakeServer) -> None:
    fake_server.routes["GET /v1/models"] = Reply({"data": [{"id": "m", "object": "model", "max_model_len": 4096}]})
    fake_server.routes["GET /version"] = Reply({"version": "0.33.0"})
    endpoint = Endpoint(fake_server.url, "m")
    assert Vllm(MODEL).effective(endpoint) == {"max_model_len": 4096}
    assert Vllm(MODEL).version(endpoint) == "vllm 0.33.0"


def test_the_cache_can_be_flushed_in_developer_mode_only(fake_server: FakeServer) -> None:
    endpoint = Endpoint(fake_server.url, "m")
    assert not Vllm(MODEL).flush_cache(endpoint)
    answers = iter([False, False, True])
    fake_server.routes["POST /reset_prefix_cache"] = lambda: Reply({"success": next(answers)})
    assert Vllm(MODEL).flush_cache(endpoint)
    assert list(answers) == []


GENERIC = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize(
    ("log", "kind", "said"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
            Infeasible,
            "raise gpu_memory_utilization",
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), 4.0 GiB KV cache is needed, which is larger "
            "than the available KV cache memory (1.2 GiB). Based on the available memory, the estimated maximum model length is 39000.",
            Infeasible,
            "estimated maximum model length is 39000",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory.\nRuntimeError: CUDA out of memory occurred when warming up sampler with 9 dummy",
            Infeasible,
            "lower max_num_seqs",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) is less than desired GPU memory utilization (0.92, 72.9 GiB).",
            Transient,
            "another process",
        ),
        ("ValueError: Total number of attention heads (32) must be divisible by tensor parallel size (3).", Infeasible, "divisible"),
        ("vllm serve: error: unrecognized arguments: --preemption-mode swap", Systemic, "--preemption-mode"),
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig", Infeasible, "SchedulerConfig"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.\n Cannot access gated repo for url", Systemic, "HF_TOKEN"),
    ],
)
def test_the_root_cause_wins_over_the_crash_line(log: str, kind: type[Exception], said: str) -> None:
    failure = Vllm(MODEL).diagnose(ExitStatus(1, log_tail=f"INFO loading\n{log}\n{GENERIC}\n"))
    assert type(failure) is kind
    assert said in failure.reason


def test_an_unknown_crash_is_tried_again() -> None:
    assert type(Vllm(MODEL).diagnose(ExitStatus(1, log_tail=GENERIC))) is Transient
