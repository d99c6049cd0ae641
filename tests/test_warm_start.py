"""A second study in the same storage says that it knows of the first, and begins where that one ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.doubles import OBJECTIVES, BackendDouble, BenchmarkDouble, EngineDouble, World, settings
from tuner import session
from tuner.launch import Value

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

NOTICE = "The search knows of 1 earlier study of this engine, model and hardware (sampler.warm_start)."


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Doubles in place of the engine, the backend and the benchmark; no pages."""
    world = World()
    monkeypatch.setattr(session, "create_engine", lambda settings: EngineDouble(world))
    monkeypatch.setattr(session, "create_backend", lambda settings, gpus, on_progress: BackendDouble(world))
    monkeypatch.setattr(session, "create_benchmark", lambda settings, engine, backend: BenchmarkDouble(world))
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)
    return world


def study(folder: Path, world: World, name: str, trials: int, **changes: Any) -> list[dict[str, Value]]:
    """Runs one that wants tokens, which grow with `n_parallel`; what it deployed after the default."""
    world.deployed.clear()
    composed = {"objectives": OBJECTIVES[1:], "confirm": {"repeats": 0}, "study_name": name, "trials": trials}
    assert session.run_study(settings(folder, **composed | changes), 0) == 0
    return world.deployed[1:]


def ehvi(warm_start: bool = True) -> dict[str, Any]:
    return {"name": "ehvi", "prior": "none", "warm_start": warm_start}


@pytest.mark.slow
@pytest.mark.parametrize("build", [{"digest": "sha256:1"}, {}], ids=["the same build", "of builds that nobody knows"])
def test_a_second_study_begins_where_the_first_ended(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], build: dict[str, str]
) -> None:
    monkeypatch.setattr(EngineDouble, "describe", lambda engine: build)
    study(tmp_path, world, "first", 16)
    assert NOTICE not in capsys.readouterr().out
    deployed = study(tmp_path, world, "second", 3, sampler=ehvi())
    assert NOTICE in capsys.readouterr().out.splitlines()
    assert [configuration["n_parallel"] for configuration in deployed] == [16, 16]


@pytest.mark.slow
def test_it_does_not_where_it_is_not_wanted(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (alone := tmp_path / "alone").mkdir()
    expected = [*study(alone, world, "second", 4, sampler=ehvi())]
    study(tmp_path, world, "first", 16)
    deployed = study(tmp_path, world, "second", 4, sampler=ehvi(warm_start=False))
    assert "The search knows" not in capsys.readouterr().out
    assert deployed == expected, "as if there were no other"


@pytest.mark.slow
def test_another_model_is_another_matter(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, world, "first", 4, engine={"name": "llamacpp", "model": "micro"})
    study(tmp_path, world, "second", 1, sampler=ehvi())
    assert "The search knows" not in capsys.readouterr().out
