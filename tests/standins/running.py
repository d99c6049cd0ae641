"""Runs the doubles of SGLang and vLLM for tests, each as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FOLDER = Path(__file__).parent
SGLANG = FOLDER / "sglang_server.py"
VLLM = FOLDER / "vllm_server.py"
MODEL = "meta-llama/Llama-3.2-1B-Instruct"
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a double ended, and what it wrote."""

    code: int
    log: str


@dataclass(frozen=True, slots=True)
class Double:
    """A double that has been started. Its log is a file: a pipe that nobody reads would fill and stop it."""

    url: str
    process: subprocess.Popen[bytes]
    log: IO[str]

    def get(self, path: str) -> Any:
        """The JSON of a route, or its text where it is none."""
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE_S) as reply:
            text = reply.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def post(self, path: str, body: Any = None) -> tuple[int, str]:
        """Status and body of the reply."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def chat(self, words: int = 8, tokens: int = 4, **more: Any) -> tuple[int, str]:
        body = {"messages": [{"role": "user", "content": "word " * words}], "max_tokens": tokens, "ignore_eos": True}
        return self.post("/v1/chat/completions", body | more)

    def status(self, path: str) -> int | None:
        """The status of a GET, or None while nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=DEADLINE_S) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def so_far(self) -> str:
        """The log."""
        self.log.seek(0)
        return self.log.read()

    def end(self) -> Ended:
        """Waits for its end."""
        return Ended(self.process.wait(DEADLINE_S), self.so_far())


@contextmanager
def started(script: Path, *flags: str, **env: str) -> Iterator[Double]:
    """A double from its start to the end of the block. `flags` after its model and address; `env` over this process's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = ("--model-path", MODEL) if script == SGLANG else (MODEL,)
    words = [sys.executable, str(script), *model, "--host", "127.0.0.1", "--port", str(port), *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"STANDIN_SPEED": "10"} | env)
        try:
            yield Double(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.kill()
            process.wait()


@contextmanager
def running(script: Path, *flags: str, **env: str) -> Iterator[Double]:
    """A double from when it answers to the end of the block."""
    with started(script, *flags, **env) as double:
        deadline = time.monotonic() + DEADLINE_S
        while double.status("/v1/models") != 200:
            assert double.process.poll() is None, double.end().log
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.01)
        yield double


def end(script: Path, *flags: str, **env: str) -> Ended:
    """How a double ends that is to end by itself."""
    with started(script, *flags, **env) as double:
        return double.end()
