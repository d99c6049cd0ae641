from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conformance.engine import MODEL_PATH, EngineConformance, ServedEngineConformance
from tests.engines.serving import address, complete, exit_of, post, running, start
from tuner.engines.base import Engine
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.llamacpp_flags import FLAGS, MAX_SLOTS
from tuner.errors import ConfigError, Infeasible, NotReadyError, Systemic, Transient
from tuner.launch import Configuration, Endpoint, LaunchSpec, Value

LONG_PROMPT = "the quick brown fox jumps over the lazy dog " * 12


class TestLlamaCpp(EngineConformance):
    refused: ClassVar[Configuration] = {"n_parallel": 16, "n_batch": 15}
    flags: ClassVar[Configuration] = {"n_parallel": 8, "n_ctx": 4096, "cache_type_k": "q8_0", "cache_prompt": True, "kv_unified": False}

    @pytest.fixture
    def engine(self, nano_engine: LlamaCpp) -> Engine:
        return nano_engine

    @pytest.fixture
    def engine_elsewhere(self, nano_engine: LlamaCpp) -> Engine:
        return LlamaCpp(
            nano_engine.launch({}, "t").mounts[0].target, {"n_batch": 1024}, tokenizer=nano_engine.tokenizer, model_path=MODEL_PATH
        )


class TestServedLlamaCpp(ServedEngineConformance):
    @pytest.fixture
    def engine(self, nano_engine: LlamaCpp) -> Engine:
        return nano_engine


def test_configuration_becomes_flags(nano_engine: LlamaCpp) -> None:
    argv = nano_engine.launch({"n_parallel": 8, "kv_unified": False, "cache_prompt": True, "flash_attn": "off"}, "t").argv
    assert argv[-6:] == ("--parallel", "8", "--no-kv-unified", "--cache-prompt", "--flash-attn", "off")


def test_fixed_arguments_are_in_every_launch_and_in_the_defaults(nano_engine: LlamaCpp) -> None:
    gguf = nano_engine.describe()["model_file"]
    engine = LlamaCpp(model=gguf, args={"n_parallel": 2, "n_threads": 2}, tokenizer="any")
    assert engine.launch({"n_parallel": 8}, "t").argv[-4:] == ("--parallel", "8", "--threads", "2")
    assert (engine.defaults["n_parallel"], engine.defaults["n_threads"]) == (2, 2)


def test_a_model_that_only_the_servers_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = LlamaCpp("nano", model_path="$(MODEL_PATH)")
    spec = engine.launch({"n_parallel": 8}, "t")
    assert not list(tmp_path.iterdir())
    assert spec.argv[:7] == ("python3", "-m", "tuner.engines.llamacpp_server", "--model", "$(MODEL_PATH)", "--alias", "nano-t")
    assert (spec.mounts, spec.env) == ((), {})
    assert Path(engine.tokenizer).is_relative_to(tmp_path)
    assert engine.describe() == {"model": "nano", "model_path": "$(MODEL_PATH)"}


@pytest.mark.parametrize(
    ("configuration", "named"),
    [
        ({"n_parallel": 0}, "n_parallel=0"),
        ({"n_parallel": MAX_SLOTS + 1}, "n_parallel"),
        ({"n_parallel": 2.5}, "n_parallel=2.5"),
        ({"n_parallel": True}, "n_parallel=True"),
        ({"n_parallel": "4"}, "n_parallel='4'"),
        ({"n_ctx": 2**31}, "n_ctx"),
        ({"cont_batching": 1}, "cont_batching=1"),
        ({"flash_attn": "maybe"}, "on, off, auto"),
        ({"cache_type_k": "q8"}, "q8_0"),
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, "flash_attn"),
        ({"n_slots": 4}, "n_slots"),
    ],
)
def test_impossible_values_are_infeasible(nano_engine: LlamaCpp, configuration: Configuration, named: str) -> None:
    with pytest.raises(Infeasible, match=re.escape(named)):
        nano_engine.launch(configuration, "t")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n_paralel": 4}, r"engine.args.n_paralel: llamacpp has no such parameter \(did you mean n_parallel\?\); known: n_parallel"),
        ({"xyz": 4}, "engine.args.xyz: .* known: n_parallel, "),
        ({"n_ctx": "many"}, "engine.args.n_ctx='many': must be an integer"),
    ],
)
def test_wrong_fixed_arguments_are_the_users_error(args: dict[str, Value], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlamaCpp(model="nano", args=args)


def test_a_missing_model_is_systemic() -> None:
    with pytest.raises(Systemic, match=r"engine\.model=micr0: no such file"):
        LlamaCpp(model="micr0").prepare()


def test_a_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(NotReadyError, match=r"needs xllamacpp .*pip install 'tuner\[llamacpp\]'"):
        LlamaCpp(model="nano").prepare()


def test_an_unwritable_cache_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NotReadyError, match="XDG_CACHE_HOME"):
        LlamaCpp(model="nano").prepare()


@pytest.mark.slow
@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"n_parallel": 16, "kv_unified": False, "n_threads": 2, "n_threads_batch": 1},
        {"n_ctx": 1000, "kv_unified": False},
        {"n_ctx": 1000, "n_batch": 4096, "n_ubatch": 2048},
        {"n_batch": 100, "n_ubatch": 512, "flash_attn": "on", "cache_type_v": "q8_0", "cache_type_k": "bf16"},
    ],
    ids=str,
)
def test_effective_is_what_llama_cpp_logs(nano_engine: LlamaCpp, tmp_path: Path, configuration: Configuration) -> None:
    log = tmp_path / "log"
    with running(nano_engine, configuration, log, ["--verbose"]) as endpoint:
        effective = nano_engine.effective(endpoint)
    logged = dict(re.findall(r"llama_context: (\w+) += (\w+)", log.read_text()))
    names = {"n_ctx": "n_ctx", "n_batch": "n_batch", "n_ubatch": "n_ubatch", "n_parallel": "n_seq_max", "kv_unified": "kv_unified"}
    assert {name: str(effective[name]).lower() for name in names} == {name: logged[line] for name, line in names.items()}
    threads = re.search(r"n_threads = (\d+) \(n_threads_batch = (\d+)\)", log.read_text())
    assert threads is not None
    assert (effective["n_threads"], effective["n_threads_batch"]) == tuple(map(int, threads.groups()))
    kv = re.search(r"K \((\w+)\):.*V \((\w+)\):", log.read_text())
    assert kv is not None
    assert (effective["cache_type_k"], effective["cache_type_v"]) == kv.groups()


@pytest.mark.slow
def test_a_slot_holds_its_part_of_the_context(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    with running(nano_engine, {"n_ctx": 2048, "n_parallel": 4, "kv_unified": False}, tmp_path / "log") as endpoint:
        assert nano_engine.effective(endpoint)["n_ctx_slot"] == 512


@pytest.mark.slow
@pytest.mark.parametrize("kv_unified", [True, False])
def test_after_a_flush_a_repeated_prompt_is_processed_anew(nano_engine: LlamaCpp, tmp_path: Path, kv_unified: bool) -> None:
    with running(nano_engine, {"n_parallel": 2, "kv_unified": kv_unified}, tmp_path / "log") as endpoint:

        def processed(prompt: str) -> int:
            return int(complete(endpoint, prompt)["timings"]["prompt_n"])

        # Three prompts in two slots: what left a slot must not come back from elsewhere either.
        prompts = [f"{i} {LONG_PROMPT}" for i in ("alpha", "beta", "gamma")]
        first = [processed(prompt) for prompt in prompts]
        assert min(first) > 100
        assert processed(prompts[-1]) == 1
        assert nano_engine.flush_cache(endpoint)
        assert [processed(prompt) for prompt in prompts] == first


@pytest.mark.slow
def test_metrics_tell_how_much_of_the_prompts_was_cached(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    with running(nano_engine, {}, tmp_path / "log") as endpoint:
        lengths = [complete(endpoint, LONG_PROMPT)["usage"]["prompt_tokens"] for _ in range(2)]
        metrics = nano_engine.metrics(endpoint)
    assert metrics is not None
    assert metrics.prompt_tokens == sum(lengths)
    assert metrics.cached_tokens == lengths[1] - 1


@pytest.mark.slow
def test_without_prompt_cache_a_repeated_prompt_is_processed_anew(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    with running(nano_engine, {"cache_prompt": False}, tmp_path / "log") as endpoint:
        assert complete(endpoint, LONG_PROMPT)["timings"]["prompt_n"] == complete(endpoint, LONG_PROMPT)["timings"]["prompt_n"]


@pytest.mark.slow
class TestDiagnosisOfRealFailures:
    """What the server really writes when it cannot start."""

    @pytest.fixture
    def spec(self, nano_engine: LlamaCpp) -> LaunchSpec:
        return nano_engine.launch({}, "t")

    def test_port_in_use(self, nano_engine: LlamaCpp, spec: LaunchSpec, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            failure = nano_engine.diagnose(exit_of(spec, tmp_path / "log", port=taken.getsockname()[1]))
        assert isinstance(failure, Transient)
        assert "Address already in use" in failure.reason

    @pytest.mark.parametrize(
        ("words", "kind", "cause"),
        [
            (["--model", "/nowhere.gguf"], Systemic, "model /nowhere.gguf: No such file"),
            (["--model", __file__], Systemic, "not a GGUF file"),
            (["--parallel", "0"], Infeasible, "n_parallel=0: must be an integer"),
            (["--batch-size", "2"], Infeasible, "n_batch=2 must be at least n_parallel=4"),
            (["--cache-type-k", "q9"], Infeasible, "argument -ctk/--cache-type-k: invalid choice"),
            (["--sorcery"], Systemic, "unrecognized arguments: --sorcery"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_cause(
        self,
        nano_engine: LlamaCpp,
        spec: LaunchSpec,
        tmp_path: Path,
        words: list[str],
        kind: type[Exception],
        cause: str,
    ) -> None:
        status = exit_of(spec, tmp_path / "log", words)
        failure = nano_engine.diagnose(status)
        assert isinstance(failure, kind), failure.reason
        assert cause in failure.reason
        assert "Traceback" not in status.log_tail

    def test_too_little_memory(self, nano_engine: LlamaCpp, tmp_path: Path) -> None:
        # 2 KiB of KV cache for each token: 4 GB under a limit of 3 GB.
        spec = nano_engine.launch({"n_ctx": 2_000_000}, "t")
        failure = nano_engine.diagnose(exit_of(spec, tmp_path / "log", memory_bytes=3 << 30))
        assert isinstance(failure, Infeasible)
        assert "lower n_ctx" in failure.reason

    def test_damaged_model(self, nano_engine: LlamaCpp, spec: LaunchSpec, tmp_path: Path) -> None:
        whole = Path(spec.argv[spec.argv.index("--model") + 1]).read_bytes()
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(whole[: len(whole) // 2])
        failure = nano_engine.diagnose(exit_of(spec, tmp_path / "log", ["--model", str(damaged)]))
        assert isinstance(failure, Systemic), failure.reason


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(nano_engine: LlamaCpp, tmp_path: Path, number: signal.Signals) -> None:
    process = start(nano_engine.launch({}, "t"), tmp_path / "log")
    try:
        assert process.stdout is not None
        assert '"ready": "http://127.0.0.1:' in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_signal_ends_the_server_amid_a_request(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    process = start(nano_engine.launch({}, "t"), tmp_path / "log")
    try:
        endpoint = Endpoint(address(process, tmp_path / "log"), "t")
        body = {"model": "t", "prompt": "Hello", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
        with post(endpoint, "/v1/completions", body) as reply:
            assert reply.readline().startswith(b"data: ")
            process.terminate()
            assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


WRITE_AND_END = """
import ctypes, os, xllamacpp
from tuner.engines.llamacpp_server import flush_log
library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
library._Z15common_log_mainv.restype = ctypes.c_void_p
log = ctypes.c_void_p(library._Z15common_log_mainv())
for _ in range(5000):
    library._Z14common_log_addP10common_log14ggml_log_levelPKcz(log, 0, b"a line\\n")
flush_log(xllamacpp)
os._exit(0)
"""


def test_what_was_logged_before_the_end_is_written() -> None:
    pytest.importorskip("xllamacpp")
    ended = subprocess.run([sys.executable, "-c", WRITE_AND_END], capture_output=True, text=True, check=True)
    assert (ended.stdout + ended.stderr).count("a line\n") == 5000


@pytest.mark.slow
def test_idle_openmp_threads_sleep(nano_engine: LlamaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")
    with running(nano_engine, {}, tmp_path / "log"):
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in (tmp_path / "log").read_text()


def test_help_names_every_flag() -> None:
    command = [sys.executable, "-m", "tuner.engines.llamacpp_server", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(flag.flags[-1] in text for flag in FLAGS)
