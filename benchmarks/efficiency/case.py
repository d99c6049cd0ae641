"""What is searched: a table, a space, objectives and constraints, from files and the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tuner.composition import CONF
from tuner.errors import ConfigError
from tuner.explain import nearest, show
from tuner.replay.reading import read_table
from tuner.settings import Settings, load

KEYS = ("name", "title", "table", "engine", "space", "workload", "objectives", "constraints")
"""Of a case file; without `space` the file is taken for a bare space."""
SCENARIO = "D(512,128)"
"""Stands in a case that has none: a replay sends no traffic."""
MANY = 10**6
"""Failures in a row that stop a study: here none do."""


@dataclass(frozen=True)
class Arm:
    """One of the searches that are compared: a sampler, and what is different about it.

    Attributes:
        label: As the user wrote it: `ehvi:prior=none`.
        sampler: Its settings.
        pruner: Its settings.
        gate: Whether impossible configurations are refused before a deployment.
    """

    label: str
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"name": "none"})
    gate: bool = True


@dataclass(frozen=True)
class Case:
    """A table and what is asked of it.

    Attributes:
        name: For titles, and the name of all studies: with it, arms meet the same noise.
        composed: Sections of an experiment: engine, space, workload, objectives, constraints.
    """

    name: str
    composed: Mapping[str, Any]

    def settings(self, arm: Arm, trials: int, seed: int, folder: Path) -> Settings:
        """The experiment of one search.

        Args:
            arm: Who searches.
            trials: Deployments.
            seed: Of the sampler and of the noise: arms are compared at the same one.
            folder: For what trials leave behind.

        Raises:
            ConfigError: something in the case is wrong.
        """
        return load(
            {
                **self.composed,
                "engine": {**self.composed["engine"], "seed": seed},
                "study_name": self.name,
                "trials": trials,
                "seed": seed,
                "max_consecutive_failures": MANY,
                "folder": str(folder),
                "backend": {"name": "replay"},
                "sampler": {"warm_start": False, **arm.sampler},
                "pruner": dict(arm.pruner),
                "confirm": {"repeats": 0, "drift_every": 0},
                "storage": {"url": "sqlite:///:memory:"},
            }
        )


def read_case(
    space: Path,
    table: str | None = None,
    objectives: Sequence[str] = (),
    constraints: Sequence[str] = (),
    noise: float | None = None,
    levels: Sequence[int] = (),
) -> Case:
    """A case of a file and what the command line says beside it, which wins.

    Args:
        space: YAML file: a bare search space as in `conf/space/`, or a case, whose paths start from its folder.
        table: The table, where the case names none.
        objectives: As `ttft_p99_s@16:minimize`.
        constraints: As `ttft_p99_s@16<=0.5`.
        noise: Relative standard deviation between runs.
        levels: Load levels; by default those of the case, or all of the table.

    Raises:
        ConfigError: one line with the file or option, and what to do.
    """
    content = _yaml(space)
    case = content if "space" in content else {"space": content}
    for key in case:
        if key not in KEYS:
            raise ConfigError(f"{space}: {key}: unknown key{nearest(key, KEYS)}; a case file has {', '.join(KEYS)}")
    engine = {"name": "replay", **(case.get("engine") or {})}
    named = table or _near(space, engine.get("table") or case.get("table"))
    if named is None:
        raise ConfigError(f"{space}: names no table; give one with --table FILE")
    engine["table"] = named
    if engine.get("model"):
        engine["model"] = _near(space, engine["model"])
    if noise is not None:
        engine["noise"] = noise
    workload = {"scenario": SCENARIO, **(case.get("workload") or {})}
    if levels:
        workload["levels"] = list(levels)
    composed = {
        "engine": engine,
        "space": case["space"],
        "workload": {"levels": list(read_table(named).levels), **workload},
        "objectives": [_objective(text) for text in objectives] or case.get("objectives") or _none(named),
        "constraints": [_constraint(text) for text in constraints] or case.get("constraints") or [],
    }
    return Case(str(case.get("name") or space.stem), composed)


def read_arm(text: str, pruner: str = "none", gate: bool = True, prior: str = "auto") -> Arm:
    """An arm as the command line writes it: a sampler, and settings of its own behind colons: `ehvi:prior=none:pruner=front:gate=off`.

    Args:
        text: What is to be read.
        pruner: Name of the pruner where the arm does not say.
        gate: Whether there is a gate where the arm does not say.
        prior: Whether the sampler may use one where the arm does not say.

    Raises:
        ConfigError: it cannot be read.
    """
    name, *words = text.split(":")
    shipped = CONF / "sampler" / f"{name}.yaml"
    sampler: dict[str, Any] = {"prior": prior, **(yaml.safe_load(shipped.read_text()) if shipped.is_file() else {}), "name": name}
    pruning: dict[str, Any] = {"name": pruner}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--samplers: {word!r} in {text!r} sets nothing; write NAME:key=value, as in ehvi:prior=none")
        if key == "gate":
            gate = _switch(text, value)
        elif key == "pruner":
            pruning["name"] = value
        else:
            sampler[key] = yaml.safe_load(value)
    return Arm(text, sampler, pruning, gate)


def _switch(text: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise ConfigError(f"--samplers: gate={value} in {text!r}: use on or off")
    return value == "on"


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"--space {path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--space {path}: no YAML ({' '.join(str(error).split())[:120]}); correct it") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"--space {path}: {show(content)} does not map parameters to their ranges")
    return content


def _near(case: Path, name: str | None) -> str | None:
    """A path of a case file: from the file's folder or one above it where there is such a thing, else from the working directory."""
    if name is None:
        return None
    return str(next((folder / name for folder in case.resolve().parents if (folder / name).exists()), name))


def _none(table: str) -> list[Any]:
    metrics = read_table(table).metrics
    metric, levels = next(iter(metrics.items()))
    raise ConfigError(
        f"--objective: missing; give one or more, as --objective {metric}@{levels[-1]}:minimize; {table} has {', '.join(metrics)}"
    )


def _at(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _objective(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"\s*(\w+)@(\w+):(\w+)\s*", text)
    if not found:
        raise ConfigError(f"--objective {text}: not of the form METRIC@LEVEL:minimize, as in ttft_p99_s@16:minimize")
    return {"metric": found[1], "at": _at(found[2]), "direction": found[3]}


def _constraint(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"\s*(\w+)@(\w+)\s*(<=|>=)\s*([-+.\de]+)\s*", text, re.IGNORECASE)
    try:
        if found:
            return {"metric": found[1], "at": _at(found[2]), "max" if found[3] == "<=" else "min": float(found[4])}
    except ValueError:
        pass
    raise ConfigError(f"--constraint {text}: not of the form METRIC@LEVEL<=NUMBER, as in 'ttft_p99_s@16<=0.5'")
