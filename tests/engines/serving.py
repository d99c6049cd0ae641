"""Runs what an engine wants launched, for tests of the engine that need a real server but no backend."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.engines.base import Engine
from tuner.launch import Configuration, Endpoint, ExitStatus, LaunchSpec

PATIENCE_S = 60.0


@contextmanager
def running(engine: Engine, configuration: Configuration, log: Path, extra: Sequence[str] = ()) -> Iterator[Endpoint]:
    """A ready server, which chose its port itself; `extra` words are added to its command line."""
    spec = engine.launch(configuration, "test")
    process = start(spec, log, extra)
    try:
        endpoint = Endpoint(address(process, log), spec.served_model)
        deadline = time.monotonic() + PATIENCE_S
        while not engine.ready(endpoint):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield endpoint
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def start(spec: LaunchSpec, log: Path, extra: Sequence[str] = (), port: int = 0) -> subprocess.Popen[str]:
    with log.open("w") as errors:
        command = [*spec.bound("127.0.0.1", port), *extra]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **spec.env})


def exit_of(spec: LaunchSpec, log: Path, extra: Sequence[str] = (), port: int = 0, memory_bytes: int | None = None) -> ExitStatus:
    """How a server ends that cannot start; with `memory_bytes` its address space is limited so."""
    process = start(spec, log, extra, port)
    if memory_bytes is not None:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    code = process.returncode
    return ExitStatus(code if code >= 0 else 128 - code, log_tail=log.read_text())


def complete(endpoint: Endpoint, prompt: str, max_tokens: int = 4) -> dict[str, Any]:
    body = {"model": endpoint.model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
    return post_json(endpoint, "/v1/completions", body)


def post_json(endpoint: Endpoint, path: str, body: object) -> dict[str, Any]:
    with post(endpoint, path, body) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def post(endpoint: Endpoint, path: str, body: object) -> Any:
    """The reply, to be read and closed."""
    request = urllib.request.Request(endpoint.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE_S)


def address(process: subprocess.Popen[str], log: Path) -> str:
    """Where a server answers, as soon as it does; read once."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, log.read_text()
    return str(json.loads(line)["ready"])
