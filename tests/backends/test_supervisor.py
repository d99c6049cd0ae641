from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuner.backends import supervisor

pytestmark = pytest.mark.slow

IGNORE_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@contextmanager
def supervised(*command: str, grace_s: float = 60.0, owner: int | None = None) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """A supervisor of `command`, and its report."""
    reader, writer = os.pipe()
    argv = [sys.executable, "-I", "-S", supervisor.__file__, str(owner or os.getpid()), str(writer), str(grace_s), *command]
    with subprocess.Popen(argv, pass_fds=(writer,), stdout=subprocess.PIPE, text=True) as process, os.fdopen(reader) as report:
        os.close(writer)
        yield process, json.loads(report.readline() or "{}")
        if process.poll() is None:
            process.kill()


def python(program: str) -> tuple[str, str, str]:
    return sys.executable, "-c", program


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_exit_code_is_the_servers(program: str, code: int) -> None:
    with supervised(*python(program)) as (process, report):
        assert isinstance(report["pid"], int)
        assert process.wait() == code


def test_term_is_passed_on() -> None:
    with supervised("sleep", "600") as (process, _):
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM


def test_server_that_ignores_term_is_killed_after_the_grace() -> None:
    with supervised(*python(IGNORE_TERM), grace_s=0.2) as (process, _):
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait() == 128 + signal.SIGKILL  # positive: the supervisor lived to say so


def test_term_again_does_not_prolong_the_grace() -> None:
    with supervised(*python(IGNORE_TERM), grace_s=0.5) as (process, _):
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            process.terminate()
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 128 + signal.SIGKILL


def test_report_says_why_a_program_cannot_start() -> None:
    with supervised("/no/such/program") as (process, report):
        assert report == {"errno": 2, "strerror": "No such file or directory"}
        assert process.wait() == 127


def test_nothing_starts_for_an_owner_that_is_gone(tmp_path: Path) -> None:
    with supervised("touch", str(tmp_path / "started"), owner=1 if os.getppid() != 1 else 2) as (process, report):
        assert report == {}
        assert process.wait() == 128 + signal.SIGKILL
    assert not (tmp_path / "started").exists()
