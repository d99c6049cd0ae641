from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.slow

TETHER = [sys.executable, "-m", "tuner.benchmark.tether"]
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_the_program_ends_with_stdin() -> None:
    tether = subprocess.Popen(
        [*TETHER, sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert tether.stdin
    assert tether.stdout
    program = psutil.Process(int(tether.stdout.readline()))
    tether.stdin.close()
    assert tether.wait(20) == -9
    tether.stdout.read()
    psutil.wait_procs([program], timeout=20)
    assert not program.is_running() or program.status() == psutil.STATUS_ZOMBIE
    tether.stdout.close()


@pytest.mark.parametrize(("code", "seen"), [("raise SystemExit(7)", 7), ("import os; os.abort()", 134)])
def test_the_exit_code_is_the_programs(code: str, seen: int) -> None:
    with subprocess.Popen([*TETHER, sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as tether:
        assert tether.wait(20) == seen
