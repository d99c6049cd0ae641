"""A small recorded table, and experiments on it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tuner.settings import Settings, load

SPACE: Mapping[str, Any] = {
    "tp_size": {"type": "power_of_two", "low": 1, "high": 2},
    "mem_fraction_static": {"type": "float", "low": 0.7, "high": 0.9, "step": 0.1, "default": 0.8},
    "max_running_requests": {"type": "power_of_two", "low": 16, "high": 128, "default": 4096},
}
OBJECTIVES = [
    {"metric": "ttft_p99_s", "at": 4, "direction": "minimize"},
    {"metric": "output_tokens_per_s", "at": 64, "direction": "maximize"},
]


def row(tp: int, fraction: float, requests: int) -> dict[str, Any]:
    """A made-up server: more slots bring throughput and cost latency, more GPUs bring both."""
    found: dict[str, Any] = {
        "tp_size": tp,
        "mem_fraction_static": fraction,
        "max_running_requests": requests,
        "deploy_s": 100,
        "warmup_s": 10,
    }
    if fraction == 0.7 and tp == 1:
        return found | {"outcome": "oom_load", "reason": "weights do not fit", "deploy_s": 30, "warmup_s": ""}
    if fraction == 0.9 and requests == 128:
        return found | {"outcome": "oom_run", "ttft_p99_s@4": 0.1, "output_tokens_per_s@4": 300, "load_s@4": 20, "load_s@64": 5}
    for level in (4, 64):
        found[f"ttft_p99_s@{level}"] = round(0.05 * (1 + requests / 64) * level**0.5 / tp, 6)
        found[f"output_tokens_per_s@{level}"] = round(80 * min(level, requests) * tp * fraction, 3)
        found[f"load_s@{level}"] = 20 if level == 4 else 40
    return found | {"outcome": "measured"}


ROWS = [row(*values) for values in product((1, 2), (0.7, 0.8, 0.9), (16, 32, 64, 128))]


def write(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS) -> Path:
    names = list(dict.fromkeys(name for one in rows for name in one))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def composed(folder: Path, /, **changes: Any) -> dict[str, Any]:
    """An experiment on `ROWS`; `changes` replace whole sections, of `engine` single keys."""
    table = folder / "table.csv"
    if not table.exists():
        write(table)
    engine = {"name": "replay", "table": str(table), "replays": "sglang", "noise": 0.0, **changes.pop("engine", {})}
    return {
        "study_name": "recorded",
        "trials": 12,
        "seed": 1,
        "folder": str(folder / "studies"),
        "engine": engine,
        "backend": {"name": "replay"},
        "space": dict(SPACE),
        "workload": {"scenario": "D(64,32)", "levels": [4, 64]},
        "objectives": OBJECTIVES,
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
        "confirm": {"repeats": 0, "drift_every": 0},
        "storage": {"url": f"sqlite:///{folder / 'tuner.db'}"},
    } | changes


def settings(folder: Path, /, **changes: Any) -> Settings:
    return load(composed(folder, **changes))
