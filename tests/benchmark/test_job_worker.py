"""What the load generator in a pod says, and that it ends when it is told to. Its measuring is tested in test_job.py."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import NoReturn

import psutil
import pytest

from tests.benchmark.paced_server import PacedServer
from tests.conformance.backend import eventually
from tests.conformance.benchmark import load
from tuner.benchmark import job_worker
from tuner.benchmark.client import genai_bench_version
from tuner.benchmark.job_messages import OUTCOME, Message, Transcript, of_outcome
from tuner.benchmark.job_request import LevelRequest
from tuner.benchmark.job_worker import Worker
from tuner.errors import Systemic


def heard(out: io.BytesIO) -> tuple[Transcript, list[Message]]:
    transcript = Transcript()
    told = [transcript.take(line) for line in out.getvalue().decode().splitlines()]
    return transcript, [message for message in told if message is not None]


def test_another_version_of_tuner_is_told_so() -> None:
    out = io.BytesIO()
    Worker(out).work('{"protocol": 99}')
    transcript, messages = heard(out)
    assert messages[0].body["version"] == genai_bench_version()
    assert transcript.complete
    with pytest.raises(Systemic, match="does not understand this tuner"):
        of_outcome(transcript.parcels()[OUTCOME])


def test_a_refusal_of_the_load_generator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise Systemic("genai-bench refuses its settings: no tokenizer", "a log")

    monkeypatch.setattr(job_worker, "GenaiBench", refuse)
    out = io.BytesIO()
    Worker(out).work(LevelRequest("http://127.0.0.1:9", "fake", load(), "nowhere", None, None, {}).to_str())
    transcript, _ = heard(out)
    with pytest.raises(Systemic, match="no tokenizer") as caught:
        of_outcome(transcript.parcels()[OUTCOME])
    assert caught.value.detail == "a log"


def test_the_log_is_never_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    worker = Worker(out)
    assert worker._alive()
    assert heard(out)[1] == []
    monkeypatch.setattr(job_worker, "BEAT_S", 0.0)
    assert worker._alive()
    assert [message.kind for message in heard(out)[1]] == ["alive"]


def test_progress_does_not_flood_the_log() -> None:
    out = io.BytesIO()
    worker = Worker(out)
    for finished in range(1000):
        worker._progress(finished)
    assert len(heard(out)[1]) < 100


@pytest.mark.slow
def test_it_ends_when_it_is_told_to(tokenizer: str) -> None:
    with PacedServer(lambda _: "hang") as server:
        request = LevelRequest(server.endpoint.url, "fake", load(), tokenizer, None, None, {})
        argv = [sys.executable, "-m", "tuner.benchmark.job_worker", request.to_str()]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            eventually(lambda: server.bodies, "load on the server")
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            process.terminate()
            assert process.wait(30) == 143
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
