from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tuner.engines.model_cache import MANIFEST, built_once, cache_root


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_root()


class Builder:
    """Writes `content` and counts how often it was asked to."""

    def __init__(self, content: str = "weights") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "model").write_text(self.content)


def test_built_once_and_found_again(cache: Path) -> None:
    build = Builder()
    folder = built_once("m", {"a": 1}, build)
    assert folder.parent == cache
    assert (folder / "sub" / "model").read_text() == "weights"
    assert built_once("m", {"a": 1}, build) == folder
    assert build.calls == 1


def test_another_recipe_is_another_folder() -> None:
    assert built_once("m", {"a": 1}, Builder()) != built_once("m", {"a": 2}, Builder())


@pytest.mark.parametrize("damage", ["truncate", "delete", "no manifest", "bad manifest"])
def test_a_damaged_folder_is_built_again(damage: str) -> None:
    folder = built_once("m", {}, Builder())
    match damage:
        case "truncate":
            (folder / "sub" / "model").write_text("wei")
        case "delete":
            (folder / "sub" / "model").unlink()
        case "no manifest":
            (folder / MANIFEST).unlink()
        case "bad manifest":
            (folder / MANIFEST).write_text("[]")
    again = Builder()
    assert built_once("m", {}, again) == folder
    assert again.calls == 1
    assert (folder / "sub" / "model").read_text() == "weights"


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        built_once("m", {}, build)
    assert list(cache.iterdir()) == []


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert cache_root() == Path.home() / ".cache" / "tuner" / "models"


def _build_with_others(barrier: Barrier) -> None:
    def build(folder: Path) -> None:
        # Nobody goes on before all have found the cache empty.
        barrier.wait(timeout=60)
        (folder / "model").write_text("weights" * 1000)

    folder = built_once("m", {}, build)
    assert (folder / "model").read_text() == "weights" * 1000


def test_processes_that_build_at_once_all_succeed(cache: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    processes = [fork.Process(target=_build_with_others, args=(barrier,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list(cache.iterdir())) == 1
