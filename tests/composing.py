"""Composing in this process as the command line does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tuner.composition import compose
from tuner.errors import ConfigError
from tuner.hydra_app import plain, run_app, split
from tuner.settings import Settings, load


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; what `run_app` changes in this process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tuner"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return tmp_path


def experiment(folder: Path, name: str, text: str) -> Path:
    path = folder / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def settings(*overrides: str) -> Settings:
    return load(plain(compose(list(overrides))))


def run(*arguments: str) -> list[dict[str, Any]]:
    """The compositions of all jobs."""
    jobs: list[dict[str, Any]] = []

    def job(config: DictConfig, overrides: list[str]) -> None:
        jobs.append(plain(config))

    options, overrides = split(list(arguments))
    run_app(job, [*options, *overrides])
    return jobs


def complaint(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        run(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert "Traceback" not in message
    return message
