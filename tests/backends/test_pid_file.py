from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tuner.backends.pid_file import PidFile, default_folder
from tuner.owner import Owner, process_started

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A running process without a mark."""
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_reads_back_what_it_wrote(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    written = PidFile.create(tmp_path / "a" / "run", "some-study", 3).started_as(bystander.pid)
    assert list(PidFile.read_all(tmp_path / "a" / "run")) == [written]
    assert written.started == process_started(bystander.pid)
    assert written.owned()


def test_a_recycled_pid_is_never_touched(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    pid_file = PidFile.create(tmp_path, "some-study", 3).started_as(bystander.pid)
    assert pid_file.started is not None
    earlier = replace(pid_file, started=pid_file.started - 1.0)  # the server had this number before the bystander did
    assert earlier.processes() == []
    assert earlier.remove() == []
    assert bystander.poll() is None
    assert list(tmp_path.iterdir()) == []


def test_recorded_server_is_found_without_its_mark(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    pid_file = PidFile.create(tmp_path, "some-study", 3).started_as(bystander.pid)
    assert pid_file.remove() == [bystander.pid]
    assert bystander.wait() == -9


def test_marked_process_is_found_without_record(tmp_path: Path) -> None:
    pid_file = PidFile.create(tmp_path, "some-study", 3)
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE, env=pid_file.environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert PidFile.create(tmp_path, "some-study", 4).remove() == []
        assert pid_file.remove() == [process.pid]


def test_owner_of_another_boot_is_dead_and_of_another_host_unknown(tmp_path: Path) -> None:
    pid_file = PidFile.create(tmp_path, "some-study", 3)
    owner = Owner.current()
    assert not replace(pid_file, owner=replace(owner, boot="another").to_str()).owned()
    assert replace(pid_file, owner=replace(owner, host="another").to_str()).owned()
    assert replace(pid_file, owner="nonsense").owned()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"study": "s"}', json.dumps({"surprise": 1})])
def test_unreadable_files_are_left_alone(tmp_path: Path, content: str) -> None:
    broken = tmp_path / "0.json"
    broken.write_text(content)
    good = PidFile.create(tmp_path, "some-study", 3)
    assert list(PidFile.read_all(tmp_path)) == [good]
    assert broken.exists()


def test_no_folder_is_no_files(tmp_path: Path) -> None:
    assert list(PidFile.read_all(tmp_path / "missing")) == []


def test_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/state")
    assert default_folder() == Path("/some/state/tuner/run")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_folder() == Path.home() / ".local/state/tuner/run"
