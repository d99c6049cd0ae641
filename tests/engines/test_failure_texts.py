from __future__ import annotations

import pytest

from tuner.engines.failure_texts import DETAIL_LINES, FailureText, Mark, diagnose
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import Infeasible, MemoryStage, Systemic, Transient, TrialFailure
from tuner.launch import ExitStatus

MODEL = "meta-llama/Llama-3.2-1B-Instruct"
ENGINES = {"sglang": Sglang(MODEL), "vllm": Vllm(MODEL)}
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
SGLANG_PREFIX = "[2026-01-01 00:00:00 TP0] "
VLLM_PREFIX = "(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1584] "


def of(engine: str, *lines: str, code: int | None = 1) -> TrialFailure:
    return ENGINES[engine].diagnose(ExitStatus(code, log_tail="\n".join(lines)))


def stage(failure: TrialFailure) -> MemoryStage | None:
    assert isinstance(failure, Infeasible)
    return failure.memory


def test_what_somebody_else_did_is_never_the_configurations_fault() -> None:
    status = ExitStatus(137, oom_killed=True, log_tail=OOM, disturbed="Somebody removed the server's container while it ran.")
    failure = ENGINES["sglang"].diagnose(status)
    assert type(failure) is Transient
    assert failure.reason == "Somebody removed the server's container while it ran."


def test_the_least_fraction_is_told_in_tuners_own_name() -> None:
    failure = of(
        "sglang",
        SGLANG_PREFIX + "Scheduler hit an exception: Traceback (most recent call last):",
        "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.2. Raise --mem-fraction-static "
        "above 0.412 (minimum viable = 1 - available/pre = 0.4118). If using speculative decoding, draft weights are now counted.",
        code=137,
    )
    assert "mem_fraction_static above 0.412 needed" in failure.reason
    assert stage(failure) == "load"


@pytest.mark.parametrize(
    ("engine", "before", "expected"),
    [
        ("sglang", [], None),
        ("sglang", ["Load weight begin. avail mem=79.00 GB"], "load"),
        ("sglang", ["Load weight begin. avail mem=79.00 GB", "Load weight end. elapsed=2 s, avail mem=1 GB, mem usage=78 GB."], "capture"),
        ("sglang", ["Load weight end. elapsed", "Load weight begin. avail mem=9.00 GB"], "load"),
        ("sglang", ["Load weight end.", "Memory pool end. avail mem=1 GB", "Capture target decode CUDA graph begin."], "capture"),
        ("sglang", ["Memory pool end. avail mem=1 GB", "The server is fired up and ready to roll!"], "run"),
        ("sglang", ["Decode batch, #running-req: 9, #token: 99"], "run"),
        ("vllm", [], None),
        ("vllm", ["Starting to load model x..."], "load"),
        ("vllm", ["Starting to load model x...", "Model loading took 2 GiB memory and 1 seconds"], "load"),
        ("vllm", ["Model loading took 2 GiB memory", "Available KV cache memory: 9 GiB"], "capture"),
        ("vllm", ["Available KV cache memory: 9 GiB", "INFO:     Application startup complete."], "run"),
        ("vllm", ["Engine 000: Avg prompt throughput: 5.0 tokens/s"], "run"),
    ],
)
def test_the_log_before_it_tells_when_memory_ran_out(engine: str, before: list[str], expected: MemoryStage | None) -> None:
    assert stage(of(engine, *before, OOM, "and so it died")) == expected


def test_what_comes_after_the_failure_says_nothing_of_its_stage() -> None:
    assert stage(of("sglang", "Load weight begin.", OOM, "The server is fired up and ready to roll!")) == "load"


@pytest.mark.parametrize(
    "text", ["Prefill out of memory. Try to lower your batch size.", "Decode out of memory. Try to lower your batch size."]
)
def test_a_full_token_pool_is_no_lack_of_gpu_memory(text: str) -> None:
    failure = of("sglang", "Decode batch, #running-req: 9", f"RuntimeError: {text}", "Try to allocate 64 tokens.", code=137)
    assert stage(failure) is None
    assert "raise mem_fraction_static" in failure.reason


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12020).", Systemic),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported HW",
            Systemic,
        ),
        ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", Systemic),
        ("RuntimeError: No CUDA GPUs are available", Systemic),
        ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", Systemic),
        ("torch.AcceleratorError: CUDA error: invalid device ordinal", Systemic),
        ("torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device", Systemic),
        ("huggingface_hub.errors.GatedRepoError: Cannot access gated repo for url https://huggingface.co/x.", Systemic),
        ("OSError: x/y is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'", Systemic),
        ("Invalid credentials in Authorization header", Systemic),
        ("x:1:2 [0] misc/shmutils.cc:87 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)", Systemic),
        ("x:1:2 [1] include/shm.h:28 NCCL WARN Call to posix_fallocate failed : No space left on device", Systemic),
        ("Bus error (core dumped)", Systemic),
        ("ValueError: The repository x/y contains custom code which must be executed to correctly load the model.", Systemic),
        ("RuntimeError: Cannot find any model weights with `/m`", Systemic),
        ("safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata", Systemic),
        ("PermissionError: [Errno 13] Permission denied: '/m/config.json'", Systemic),
        ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error", Transient),
        ("ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use", Transient),
        ("x: error: unrecognized arguments: --no-such-flag", Systemic),
        ("x: error: ambiguous option: --cuda-graph-max-bs could match --cuda-graph-max-bs-decode, ...", Systemic),
        ("x: error: argument --schedule-policy: invalid choice: 'x'", Infeasible),
        ("AssertionError", Infeasible),
        ("ValueError: heads", Infeasible),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", Transient),
    ],
)
def test_texts_of_the_libraries_below(engine: str, line: str, kind: type[TrialFailure]) -> None:
    prefix = {"sglang": SGLANG_PREFIX, "vllm": VLLM_PREFIX}[engine]
    failure = of(engine, "starting", prefix + line, "RuntimeError: Engine core initialization failed. See root cause above.")
    assert type(failure) is kind
    assert line[:100] in failure.reason
    assert prefix not in failure.reason


def test_shared_memory_is_not_the_disk() -> None:
    failure = of("vllm", "NCCL WARN Call to posix_fallocate failed : No space left on device", "DistBackendError: NCCL error in: x")
    assert "backend.shm_size" in failure.reason


@pytest.mark.parametrize("code", [-7, -9])
@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("sglang", "RuntimeError: Rank 0 scheduler died during initialization (exit code: {}). If exit code is -9 (SIGKILL), a common"),
        ("vllm", "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore_0': {}}}"),
    ],
)
def test_a_child_that_was_killed(engine: str, line: str, code: int) -> None:
    failure = of(engine, line.format(code))
    assert type(failure) is (Infeasible if code == -9 else Systemic)
    assert ("backend.memory" if code == -9 else "backend.shm_size") in failure.reason


@pytest.mark.parametrize(
    "line",
    [
        "server_args=ServerArgs(model_path='x', env={'PYTORCH_HINT': 'raise OutOfMemoryError early'})",
        "model.py:1: UserWarning: ignored ValueError: odd rope scaling",
        "INFO 01-01 00:00:00 [x.py:1] see --help to avoid CUDA out of memory",
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_harmless_lines_are_no_causes(engine: str, line: str) -> None:
    failure = of(engine, line, "RuntimeError: the real cause")
    assert type(failure) is Transient
    assert "the real cause" in failure.reason


def test_a_specific_text_wins_wherever_it_stands() -> None:
    failure = of("vllm", OOM, "RuntimeError: CUDA out of memory occurred when warming up sampler with 9 dummy requests.")
    assert "max_num_seqs" in failure.reason
    assert stage(failure) == "capture"


def test_a_suicide_of_sglang_is_told_by_its_cause() -> None:
    obituaries = (
        SGLANG_PREFIX + "Scheduler hit an exception: Traceback (most recent call last):",
        "RuntimeError: something new",
        "[2026-01-01 00:00:00] Received sigquit from a child process. It usually means the child failed.",
        "[2026-01-01 00:00:00] kill_process_tree called: parent_pid=1, include_parent=True, pid=1",
    )
    failure = of("sglang", *obituaries, code=137)
    assert type(failure) is Transient
    assert failure.reason == "the server ended with code 137: RuntimeError: something new"


@pytest.mark.parametrize(
    ("code", "said"),
    [(137, "killed by SIGKILL"), (135, "backend.shm_size"), (0, "ended by itself with code 0"), (None, "an unknown code"), (3, "code 3")],
)
def test_an_end_without_a_cause_is_tried_again(code: int | None, said: str) -> None:
    failure = of("sglang", "loading", code=code)
    assert type(failure) is Transient
    assert said in failure.reason


def test_people_are_shown_the_end_of_the_log() -> None:
    log = "\n".join(["ValueError: the cause", *(f"line {number}" for number in range(399))])
    failure = ENGINES["vllm"].diagnose(ExitStatus(1, log_tail=log))
    assert "the cause" in failure.reason
    assert len(failure.detail.splitlines()) == DETAIL_LINES
    assert failure.detail.endswith("line 398")


def test_a_gap_stands_for_anything() -> None:
    table = [FailureText("x", "needs … more than …, at", Infeasible, "give it {0} or {1}", "here")]
    assert diagnose(ExitStatus(1, log_tail="it Needs 3 GiB more than 5, at least"), table).reason.endswith(": give it 3 GiB or 5")
    assert type(diagnose(ExitStatus(1, log_tail="needs 3 GiB"), table)) is Transient


def test_the_mark_of_a_stage_is_in_no_failure_text() -> None:
    for engine in (Sglang, Vllm):
        assert all(isinstance(mark, Mark) for mark in engine.memory_marks)
        assert not [row for row in engine.failure_texts for mark in engine.memory_marks if mark.text in row.text]


@pytest.mark.parametrize("engine", [Sglang, Vllm, LlamaCpp])
def test_rows_make_a_table(engine: type[Sglang] | type[Vllm] | type[LlamaCpp]) -> None:
    for row in engine.failure_texts:
        assert row.kind.replace("_", "").isalpha()
        assert row.text.strip()
        assert row.source
        assert not row.remedy.endswith(".")
        assert row.memory is None or row.failure is Infeasible
