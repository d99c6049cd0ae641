"""Tables and case files in the format that the engine `replay` reads."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.landscapes.cases import Case

FOLDER = Path(__file__).parent / "tables"
NOISE = 0.03
"""Relative standard deviation that a replay adds: throughput of one configuration, measured anew, differed by 2.6 % in public run logs."""


def text(value: Any) -> str:
    """As it stands in a table: five significant digits, truth in lower case, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], first: Iterable[str]) -> None:
    """Writes `rows`, columns `first` before all others; the same rows make the same bytes."""
    columns = list(dict.fromkeys([*first, *(column for row in rows for column in row)]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([text(row.get(column)) for column in columns] for row in rows)
    path.write_bytes(gzip.compress(buffer.getvalue().encode(), mtime=0))


def read_table(path: Path) -> list[dict[str, str]]:
    """What `write_table` wrote, as text."""
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def write_case(path: Path, case: Case) -> None:
    """Writes the experiment that goes with the table of `case`."""
    table = f"{case.name}.csv.gz"
    content = {
        "name": case.name,
        "title": case.title,
        "table": table,
        "engine": {
            "name": "replay",
            "table": f"benchmarks/landscapes/tables/{table}",
            "replays": "sglang",
            "model": f"benchmarks/landscapes/models/{case.model}",
            "gpu": {"name": case.gpu, "memory_gib": case.memory_gib, "count": case.gpus},
            "noise": NOISE,
        },
        "space": dict(case.space),
        "workload": {"scenario": case.scenario, "levels": list(case.levels)},
        "objectives": [dict(objective) for objective in case.objectives],
        "constraints": [dict(constraint) for constraint in case.constraints],
    }
    path.write_text(yaml.dump(content, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=140))


class _Plain(yaml.SafeDumper):
    """Writes out what occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
