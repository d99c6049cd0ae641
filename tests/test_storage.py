"""The storage: opened by many processes at once, and what is wrong with a URL in one line without its password."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from tuner.errors import ConfigError, NotReadyError, TunerError
from tuner.storage import BUSY_TIMEOUT_S, open_storage, shown

PROCESSES = 8


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(url: str, kind: type[TunerError]) -> str:
    with pytest.raises(kind) as caught:
        open_storage(url)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert message.startswith("storage.url: ")
    return message


class TestSqlite:
    def test_new_relative_folder_is_made(self, work: Path) -> None:
        storage = open_storage("sqlite:///studies/deep/tuner.db")
        optuna.create_study(storage=storage, study_name="a")
        assert (work / "studies/deep/tuner.db").is_file()
        assert optuna.get_all_study_names(open_storage("sqlite:///studies/deep/tuner.db")) == ["a"]

    def test_write_ahead_log_is_on_in_every_connection(self, work: Path) -> None:
        storage = open_storage("sqlite:///tuner.db")
        with storage.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1, "NORMAL"
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == BUSY_TIMEOUT_S * 1000
        with sqlite3.connect(work / "tuner.db") as stranger:
            assert stranger.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_in_memory(self) -> None:
        assert optuna.get_all_study_names(open_storage("sqlite://")) == []

    @pytest.mark.slow
    def test_many_processes_open_a_new_file_at_once(self, work: Path) -> None:
        """Most of them would die of `table already exists` or `database is locked` if Optuna were left to itself."""
        code = """
import sys
import optuna
from tuner.storage import open_storage

print("ready", flush=True)
sys.stdin.readline()
storage = open_storage("sqlite:///new/folder/tuner.db")
study = optuna.create_study(storage=storage, study_name="shared", load_if_exists=True)
study.tell(study.ask(), 1.0)
"""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code], cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for _ in range(PROCESSES)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                _, errors = process.communicate(timeout=120)
                assert process.returncode == 0, errors
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        study = optuna.load_study(storage=open_storage("sqlite:///new/folder/tuner.db"), study_name="shared")
        assert sorted(trial.number for trial in study.trials) == list(range(PROCESSES))


class TestNotReady:
    def test_missing_absolute_folder(self) -> None:
        message = complaint("sqlite:////nonexistent/x.db", NotReadyError)
        assert message == "storage.url: the folder /nonexistent does not exist; create it, or use sqlite:///studies/tuner.db"
        assert not Path("/nonexistent").exists()

    @pytest.mark.parametrize("locked", [".", "tuner.db"])
    def test_not_writable(self, work: Path, monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
        open_storage("sqlite:///d/tuner.db").engine.dispose()
        target = work / "d" / locked
        if os.geteuid() == 0:  # permissions do not stop root; os.access is what tells them
            access = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != target.resolve() and access(path, mode))
        else:
            target.chmod(0o500)
        assert complaint("sqlite:///d/tuner.db", NotReadyError) == f"storage.url: {Path('d') / locked} cannot be written by this user"

    def test_a_file_that_is_no_database(self, work: Path) -> None:
        (work / "text.db").write_text("some text " * 200)
        assert complaint("sqlite:///text.db", NotReadyError) == "storage.url: cannot open sqlite:///text.db: file is not a database"

    def test_a_database_of_something_else(self, work: Path) -> None:
        with sqlite3.connect(work / "other.db") as connection:
            connection.execute(
                "CREATE TABLE version_info (version_info_id INTEGER PRIMARY KEY, schema_version INTEGER, library_version TEXT)"
            )
            connection.execute("INSERT INTO version_info VALUES (1, 999, '99.0')")
        assert complaint("sqlite:///other.db", NotReadyError).startswith("storage.url: cannot open sqlite:///other.db: ")

    def test_a_folder_in_place_of_the_file(self, work: Path) -> None:
        (work / "d").mkdir()
        assert complaint("sqlite:///d", NotReadyError) == "storage.url: d is a folder; name a file in it"

    def test_a_file_in_place_of_the_folder(self, work: Path) -> None:
        (work / "f").write_text("")
        assert complaint("sqlite:///f/tuner.db", NotReadyError) == "storage.url: cannot create the folder f: File exists"

    def test_a_driver_that_is_not_installed(self) -> None:
        message = complaint("mssql+pyodbc://user:secret@host/db", NotReadyError)
        assert message == "storage.url: mssql+pyodbc needs the Python module pyodbc; install it"


class TestWrong:
    @pytest.mark.parametrize(
        "url", ["", "nonsense", "studies/tuner.db", "foo://host/db", "sqlite+foo:///x.db", "postgresql://host:port/db", "://x"]
    )
    def test_no_url(self, url: str) -> None:
        message = complaint(url, ConfigError)
        assert re.fullmatch(r"storage\.url: '.*' is no database URL; use for example sqlite:///studies/tuner\.db", message)


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"foo://user:{SECRET}@host/db",
        f"://user:{SECRET}@host",
        f"foo://user:{SECRET}@x@host/db",
        f"postgresql://user:{SECRET}@host:port/db",
        f"mssql+pyodbc://user:{SECRET}@host/db",
        f"sqlite://user:{SECRET}@host/x.db",
        f"foo://host/db?password={SECRET}",
        f"sqlite:////nonexistent/x.db?password={SECRET}",
    ],
)
def test_a_password_is_in_no_message(url: str) -> None:
    assert SECRET not in complaint(url, TunerError)


def test_shown_without_password() -> None:
    assert shown(f"postgresql://user:{SECRET}@host/db?password={SECRET}") == "postgresql://user:***@host/db"
    assert shown("sqlite:///studies/tuner.db") == "sqlite:///studies/tuner.db"
