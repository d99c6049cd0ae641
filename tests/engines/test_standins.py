"""The engines `sglang` and `vllm` against the doubles of their servers, which stand in for what needs a GPU, as processes of this host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.serving import complete
from tests.standins import failures
from tests.standins.running import SGLANG, VLLM
from tuner.backends.base import DIAGNOSIS_LINES
from tuner.backends.log_file import tail
from tuner.backends.port import reserve_port
from tuner.engines.openai_cli import OpenAICli
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import Infeasible, MemoryStage, Systemic, Transient, TrialFailure
from tuner.launch import Configuration, Endpoint, ExitStatus

pytestmark = pytest.mark.slow

MODEL = "meta-llama/Llama-3.2-1B-Instruct"
PATIENCE_S = 30.0

Expected = tuple[type[TrialFailure], MemoryStage | None, str]

COMMON: Mapping[str, Expected] = {
    "gated": (Systemic, None, "HF_TOKEN"),
    "not_found": (Systemic, None, "engine.model"),
    "missing_package": (Systemic, None, "flashinfer"),
    "disk_full": (Systemic, None, "disk space"),
    "driver_too_old": (Systemic, None, "NVIDIA driver"),
    "no_gpu": (Systemic, None, "sees no GPU"),
    "nccl": (Transient, None, "NCCL"),
    "crash_serving": (Transient, None, "illegal memory access"),
    "oom_host": (Infeasible, None, "backend.memory"),
    "port_in_use": (Transient, None, "took the port"),
    "oom_load": (Infeasible, "load", "out of memory"),
    "oom_capture": (Infeasible, "capture", "out of memory"),
    "oom_serving": (Infeasible, "run", "out of memory"),
}
OF_SGLANG: Mapping[str, Expected] = {
    **COMMON,
    "oom_static": (Infeasible, "load", "mem_fraction_static above 0.412 needed"),
    "no_kv": (Infeasible, "load", "raise mem_fraction_static"),
    "oom_prefill": (Infeasible, None, "lower max_running_requests"),
    "oom_decode": (Infeasible, None, "lower max_running_requests"),
}
OF_VLLM: Mapping[str, Expected] = {
    **COMMON,
    "gpu_busy": (Transient, None, "another process"),
    "oom_load": (Infeasible, "load", "tensor_parallel_size"),
    "oom_static": (Infeasible, "load", "raise gpu_memory_utilization"),
    "oom_model_len": (Infeasible, "load", "estimated maximum model length is 40960"),
    "oom_sampler": (Infeasible, "capture", "max_num_seqs"),
}
# These end by no failure of their own: the backend, the deadline or the load generator sees them.
ALIVE = {"hang", "unready", "slow", "refuse", "hog"}


@dataclass(frozen=True, slots=True)
class Server:
    engine: OpenAICli
    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    log: Path

    def exit(self) -> ExitStatus:
        code = self.process.wait(PATIENCE_S)
        return ExitStatus(code if code >= 0 else 128 - code, log_tail=tail(self.log, DIAGNOSIS_LINES))

    def ready(self) -> None:
        eventually(lambda: self.engine.ready(self.endpoint) or self.process.poll() is not None, "readiness")
        assert self.process.poll() is None, self.log.read_text()


def sglang() -> Sglang:
    return Sglang(MODEL, executable=(sys.executable, str(SGLANG)))


def vllm() -> Vllm:
    return Vllm(MODEL, executable=(sys.executable, str(VLLM), "serve"))


@contextmanager
def started(engine: OpenAICli, folder: Path, configuration: Configuration | None = None, **env: str) -> Iterator[Server]:
    spec = engine.launch(configuration or {}, "test")
    log = folder / "server.log"
    with reserve_port("127.0.0.1") as held, log.open("wb") as output:
        environment = os.environ | {"STANDIN_SPEED": "10"} | spec.env | env
        port = held.getsockname()[1]
        command = spec.bound("127.0.0.1", port)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield Server(engine, process, Endpoint(f"http://127.0.0.1:{port}", spec.served_model), log)
        finally:
            process.kill()
            process.wait()


def eventually(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def test_sglang_from_launch_to_flush(tmp_path: Path) -> None:
    configuration: Configuration = {"mem_fraction_static": 0.8, "max_running_requests": 4, "chunked_prefill_size": 2048}
    with started(sglang(), tmp_path, configuration, STANDIN_SPEED="1") as server:
        server.ready()
        effective = server.engine.effective(server.endpoint)
        assert {name: effective[name] for name in configuration} == dict(configuration)
        assert server.engine.version(server.endpoint) == "sglang 0.5.23"
        watch_a_load(server)
        startup = server.engine.startup(server.log.read_text())
    assert startup.free_before_gib == pytest.approx(79.5, abs=0.02)
    assert startup.kv_tokens == effective["max_total_num_tokens"]
    assert all(startup.to_dict().get(name) for name in ("weights_gib", "kv_gib", "graph_gib", "free_gib"))


def test_vllm_from_launch_to_flush(tmp_path: Path) -> None:
    with started(vllm(), tmp_path, {"max_num_seqs": 4, "max_model_len": 4096}, VLLM_SERVER_DEV_MODE="1", STANDIN_SPEED="1") as server:
        server.ready()
        assert server.engine.effective(server.endpoint)["max_model_len"] == 4096
        assert server.engine.version(server.endpoint) == "vllm 0.33.0"
        watch_a_load(server)
        startup = server.engine.startup(server.log.read_text())
    assert all(startup.to_dict().get(name) for name in ("weights_gib", "kv_gib", "kv_tokens", "graph_gib"))


def watch_a_load(server: Server) -> None:
    """Eight requests where four fit, seen in the metrics and gone from them; then an empty cache."""
    engine, endpoint = server.engine, server.endpoint
    with ThreadPoolExecutor(8) as users:
        answers = [users.submit(complete, endpoint, "word " * 200, 400) for _ in range(8)]
        eventually(
            lambda: (seen := engine.metrics(endpoint)) and seen.running == 4 and seen.queued and seen.kv_usage, "load in the metrics"
        )
        assert all(answer.result()["usage"]["completion_tokens"] == 400 for answer in answers)
    after = engine.metrics(endpoint)
    assert after is not None
    assert (after.running, after.queued, after.preemptions) == (0, 0, 0)
    assert after.prompt_tokens
    assert after.cached_tokens is not None
    assert engine.flush_cache(endpoint)


def test_vllm_keeps_its_cache_outside_the_developer_mode(tmp_path: Path) -> None:
    with started(vllm(), tmp_path) as server:
        server.ready()
        assert not server.engine.flush_cache(server.endpoint)


@pytest.mark.parametrize("name", OF_SGLANG)
def test_failures_of_sglang(name: str, tmp_path: Path) -> None:
    check(sglang(), failures.SGLANG[name], name, OF_SGLANG[name], tmp_path)


@pytest.mark.parametrize("name", OF_VLLM)
def test_failures_of_vllm(name: str, tmp_path: Path) -> None:
    check(vllm(), failures.VLLM[name], name, OF_VLLM[name], tmp_path)


def check(engine: OpenAICli, failure: failures.Failure, name: str, expected: Expected, folder: Path) -> None:
    with started(engine, folder, STANDIN_FAIL=name, STANDIN_FAIL_AFTER="1") as server:
        if failure.stage == "serve":
            server.ready()
            with pytest.raises(OSError):
                complete(server.endpoint, "word")
        diagnosed = engine.diagnose(server.exit())
    kind, memory, said = expected
    assert type(diagnosed) is kind, diagnosed.reason
    assert said in diagnosed.reason
    assert "\n" not in diagnosed.reason
    assert "pid=" not in diagnosed.reason
    assert (diagnosed.memory if isinstance(diagnosed, Infeasible) else None) == memory


@pytest.mark.parametrize(("known", "all_"), [(OF_SGLANG, failures.SGLANG), (OF_VLLM, failures.VLLM)])
def test_every_way_to_fail_is_tried(known: Mapping[str, Expected], all_: Mapping[str, failures.Failure]) -> None:
    assert set(known) == {name for name, failure in all_.items() if failure.stage not in ALIVE}


@pytest.mark.parametrize(
    ("engine", "configuration", "kind"),
    [
        (sglang, {"attention_backend": "no-such"}, Infeasible),
        (vllm, {"scheduling_policy": "no-such"}, Infeasible),
    ],
)
def test_refused_values(engine: Callable[[], OpenAICli], configuration: Configuration, kind: type[TrialFailure], tmp_path: Path) -> None:
    try:
        with started(engine(), tmp_path, configuration) as server:
            failure: TrialFailure = server.engine.diagnose(server.exit())
    except Infeasible as known:  # a table of flags may know it without a launch
        failure = known
    assert type(failure) is kind
    assert "no-such" in failure.reason
