from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import optuna
import pytest

from tuner.doctor.storage_check import storage

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_a_new_database_leaves_nothing(tmp_path: Path) -> None:
    finding = storage("sqlite:///a/b/tuner.db")
    assert (finding.verdict, finding.seen) == ("ok", "sqlite:///a/b/tuner.db can be written")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    assert storage("sqlite:///studies/tuner.db").verdict == "ok"
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["studies"]


def test_the_studies_of_a_database_stay(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tuner.db"
    optuna.create_study(storage=url, study_name="mine")
    assert storage(url).verdict == "ok"
    assert optuna.get_all_study_names(url) == ["mine"]
    assert storage("sqlite:///:memory:").verdict == "ok"


def test_a_database_that_is_not_optunas(tmp_path: Path) -> None:
    (tmp_path / "tuner.db").write_bytes(b"no database at all" * 100)
    finding = storage(f"sqlite:///{tmp_path}/tuner.db")
    assert finding.verdict == "failed"
    assert "file is not a database" in finding.seen
    assert "sqlite:///studies/tuner.db" in finding.fix


def test_a_database_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/tuner.db"
    assert storage(url).verdict == "ok"
    optuna.create_study(storage=url, study_name="mine")
    storage(url)  # turns on the write-ahead log: readers are not locked out
    monkeypatch.setattr("tuner.storage.BUSY_TIMEOUT_S", 0.1)
    writer = sqlite3.connect(tmp_path / "tuner.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    finding = storage(url)
    writer.close()
    assert finding.verdict == "failed"
    assert finding.seen.startswith(f"sqlite:///{tmp_path}/tuner.db cannot be written: ")
    assert "database is locked" in finding.seen


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("sqlite:////no/such/folder/tuner.db", "storage.url: the folder /no/such/folder does not exist"),
        ("nonsense", "storage.url: 'nonsense' is no database URL"),
        ("mysql+nodriver://someone:secret-word@host/db", "is no database URL"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, seen: str) -> None:
    finding = storage(url)
    assert finding.verdict == "failed"
    assert seen in finding.seen
    assert "secret-word" not in str(finding)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = storage(f"sqlite:///{tmp_path}/tuner.db")
    assert finding.seen == f"storage.url: {tmp_path} cannot be written by this user"
    assert list(tmp_path.iterdir()) == []
