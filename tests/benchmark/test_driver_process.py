from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tuner.benchmark import driver_process
from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.client import Client
from tuner.benchmark.driver_process import DriverProcess
from tuner.errors import Systemic, Transient

DOUBLE = """# A double of the driver: the real one cannot be made to crash, hang or chatter at will.
import json, os, sys, time
def read(): return json.loads(sys.stdin.readline())
def say(event, **fields): print(json.dumps({"event": event, **fields}), flush=True)
settings = read()
print("starting with " + settings["api_key"], file=sys.stderr, flush=True)
"""

READY = "say('ready')\nlevel = read()\n"
LEVEL = {"url": "http://127.0.0.1:1", "concurrency": 2}


@contextmanager
def driver(body: str) -> Iterator[DriverProcess]:
    process = DriverProcess(Client("tokenizer", "sk-secret"), (sys.executable, "-c", DOUBLE + body))
    try:
        yield process
    finally:
        process.kill()
    assert not psutil.pid_exists(process.pid)


def run(process: DriverProcess, alive: Callable[[], bool] = lambda: True, on_progress: Callable[[int], None] | None = None) -> object:
    return process.level(LEVEL, 5.0, alive, on_progress)


def test_passes_the_level_on_and_tells_progress() -> None:
    seen: list[int] = []
    body = READY + "say('progress', finished=3)\nsay('level', got=level)\nread()"
    with driver(body) as process:
        assert run(process, on_progress=seen.append) == {"event": "level", "got": {"command": "level", **LEVEL}}
        assert process.alive
    assert seen == [3]


def test_a_crash_is_transient_and_comes_with_the_log_but_not_the_key() -> None:
    body = READY + "print('boom', file=sys.stderr)\nsys.exit(9)"
    with driver(body) as process, pytest.raises(Transient, match="exit code 9") as caught:
        run(process)
    assert "boom" in caught.value.detail
    assert "starting with <secret>" in caught.value.detail
    assert not process.alive


def test_a_crash_at_the_start_is_transient() -> None:
    with driver("sys.exit(3)") as process, pytest.raises(Transient, match="exit code 3"):
        run(process)


def test_a_driver_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_process, "GRACE_S", 0.2)
    with driver(READY + "time.sleep(600)") as process:
        with pytest.raises(Transient, match="did not end its load level"):
            process.level(LEVEL, 0.1, lambda: True, None)
        assert not process.alive


def test_a_driver_that_never_gets_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_process, "READY_S", 0.2)
    with driver("time.sleep(600)") as process:
        with pytest.raises(Transient, match="not ready"):
            run(process)
        assert not process.alive


def test_refused_settings_are_systemic() -> None:
    body = "say('refused', reason='no tokenizer ' + settings['tokenizer'] + ' ' + settings['api_key'])"
    with driver(body) as process, pytest.raises(Systemic, match="no tokenizer tokenizer <secret>"):
        run(process)


def test_a_refused_level_leaves_the_driver_running() -> None:
    with driver(READY + "say('refused', reason='bad scenario')\nread()") as process:
        with pytest.raises(Systemic, match="bad scenario"):
            run(process)
        assert process.alive


def test_a_dead_server_stops_the_level_in_order() -> None:
    body = READY + "assert read() == {'command': 'stop'}\nsay('level', stop='stopped')\nread()"
    with driver(body) as process:
        assert run(process, alive=lambda: not process._ready) == {"event": "level", "stop": "stopped"}
        assert process.alive


def test_a_dead_server_and_a_deaf_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_process, "STOP_S", 0.2)
    with driver(READY + "time.sleep(600)") as process:
        with pytest.raises(ServerUnusable, match="the server ended"):
            run(process, alive=lambda: not process._ready)
        assert not process.alive


def test_a_server_that_dies_before_the_driver_is_ready() -> None:
    with driver("time.sleep(600)") as process:
        with pytest.raises(ServerUnusable, match="before the load level"):
            run(process, alive=lambda: False)
        assert process.alive


def test_an_interrupt_leaves_no_level_running() -> None:
    with driver(READY + "time.sleep(600)") as process:

        def interrupt() -> bool:
            if process._ready:
                raise KeyboardInterrupt
            return True

        with pytest.raises(KeyboardInterrupt):
            run(process, alive=interrupt)
        assert not process.alive


def test_kill_may_be_repeated() -> None:
    with driver("time.sleep(600)") as process:
        process.kill()
        process.kill()


def test_offline_only_for_a_local_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "internal")
    assert Client(str(tmp_path)).environment()["HF_HUB_OFFLINE"] == "1"
    environment = Client("org/model", "sk-secret").environment()
    assert "HF_HUB_OFFLINE" not in environment
    assert "sk-secret" not in environment.values()
    assert environment["NO_PROXY"] == "internal,127.0.0.1,localhost"
    assert environment["ENABLE_UI"] == "false"


def test_settings_do_not_show_the_key() -> None:
    assert "sk-secret" not in repr(Client("tokenizer", "sk-secret"))
