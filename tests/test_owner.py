from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tuner.owner import Owner, process_started

TELL = "from tuner.owner import Owner; print(Owner.current().to_str(), flush=True); input()"


def test_current_process_is_alive_and_survives_a_round_trip() -> None:
    owner = Owner.current()
    assert owner.pid == os.getpid()
    assert owner.alive()
    assert Owner.parse(owner.to_str()) == owner == Owner.current()


def test_other_process_is_alive_until_killed_even_before_it_is_collected() -> None:
    with subprocess.Popen([sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = Owner.parse(process.stdout.readline().strip())
        assert owner.pid == process.pid
        assert owner.alive()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert not owner.alive()
    assert not owner.alive()


def test_recycled_pid_is_another_owner() -> None:
    owner = Owner.current()
    assert not replace(owner, started=owner.started - 0.01).alive()


def test_same_pid_and_time_of_another_boot_is_dead() -> None:
    assert not replace(Owner.current(), boot="another").alive()


def test_unknown_boot_is_no_proof() -> None:
    assert replace(Owner.current(), boot="").alive()


def test_other_host_counts_as_alive() -> None:
    assert Owner("another", 1, 0.0).alive()


@pytest.mark.parametrize("text", ["", "host", "host:1:2", "host:x:1.0:b", "host:1:y:b"])
def test_nonsense_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Owner.parse(text)
    assert Owner.living(text)


def test_only_a_certain_death_counts_as_one() -> None:
    current = Owner.current()
    assert Owner.living(current.to_str())
    assert not Owner.living(Owner(current.host, current.pid, current.started + 1, current.boot).to_str())


def test_host_may_hold_colons() -> None:
    owner = Owner("box/pid:[4026532000]", 12, 0.25, "b")
    assert Owner.parse(owner.to_str()) == owner


def test_start_time_of_a_process_that_is_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert process_started(process.pid) is None
