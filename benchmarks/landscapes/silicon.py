"""Measured tables, with no model in between: the real runs in `silicon_sample.csv` of aiconfigurator-core 0.12.0 (the extra `prior`).

`python -m benchmarks.landscapes.silicon FOLDER` writes one table and one case file for each workload that was measured often enough. A
configuration is a layout (how the model is spread over GPUs) and a batch, here called `max_running_requests`: each was run with as many
users as the batch, which shows what a server with this bound would do under any larger load, but for the time that requests wait in its
queue. All metrics stand at one level, the largest batch. What was not measured has the outcome `unmeasured`.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.landscapes.tables import NOISE, write_table

WORKLOAD = ("model_path", "system", "backend", "precision", "isl", "osl")
LAYOUT = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
SHORT = ("tp", "pp", "dp", "moe_tp", "ep")
ENOUGH = 12
"""Configurations without which a table is not worth a search."""


@dataclass(frozen=True, slots=True)
class Group:
    """All that was measured of one workload.

    Attributes:
        workload: Values of `WORKLOAD`.
        runs: Mean time to first token and mean time per token, s, by layout and batch; the medians where it was run several times.
    """

    workload: Mapping[str, str]
    runs: Mapping[tuple[tuple[int, ...], int], tuple[float, float]]

    @property
    def name(self) -> str:
        """Fit for a file."""
        return "_".join(value.rsplit("/", 1)[-1].lower() for value in self.workload.values() if value)

    @property
    def batches(self) -> list[int]:
        """All that were run."""
        return sorted({batch for _, batch in self.runs})

    @property
    def layouts(self) -> list[tuple[int, ...]]:
        """All that were run, in the order of their GPUs."""
        return sorted({layout for layout, _ in self.runs}, key=lambda layout: (gpus(layout), layout))

    def rows(self) -> list[dict[str, Any]]:
        """The table: every layout with every batch."""
        return [self._row(layout, batch) for layout in self.layouts for batch in self.batches]

    def _row(self, layout: tuple[int, ...], batch: int) -> dict[str, Any]:
        row = {"layout": label(layout), "max_running_requests": batch, "gpus": gpus(layout)}
        if (run := self.runs.get((layout, batch))) is None:
            return row | {"outcome": "unmeasured"}
        ttft_s, tpot_s = run
        output = int(self.workload["osl"])
        latency_s = ttft_s + tpot_s * (output - 1)
        level = max(self.batches)
        return row | {
            "outcome": "measured",
            f"ttft_mean_s@{level}": ttft_s,
            f"tpot_mean_s@{level}": tpot_s,
            f"latency_mean_s@{level}": latency_s,
            f"output_tokens_per_s@{level}": batch * output / latency_s,
            f"requests_per_s@{level}": batch / latency_s,
        }

    def experiment(self) -> dict[str, Any]:
        """The case file: the fastest tokens and the most of them for each GPU, the first one no later than in half of all runs."""
        level = max(self.batches)
        return {
            "name": self.name,
            "table": f"{self.name}.csv.gz",
            "engine": {"name": "replay", "table": f"{self.name}.csv.gz", "replays": self.workload["backend"], "noise": NOISE},
            "space": {
                "layout": {"type": "categorical", "choices": [label(layout) for layout in self.layouts]},
                "max_running_requests": {"type": "ordinal", "choices": self.batches},
            },
            "workload": {"scenario": f"D({self.workload['isl']},{self.workload['osl']})", "levels": [level]},
            "objectives": [
                {"metric": "tpot_mean_s", "at": level, "direction": "minimize"},
                {"metric": "output_tokens_per_s", "at": level, "per": "gpu", "direction": "maximize"},
            ],
            "constraints": [{"metric": "ttft_mean_s", "at": level, "max": float(f"{median(ttft for ttft, _ in self.runs.values()):.3g}")}],
        }


def measurements() -> list[dict[str, str]]:
    """The rows of one server each (`agg`), as text.

    Raises:
        ImportError: the extra is not installed.
    """
    text = (files("aiconfigurator_core") / "systems" / "silicon_sample.csv").read_text()
    return [row for row in csv.DictReader(text.splitlines()) if row["mode"] == "agg"]


def groups() -> list[Group]:
    """Workloads with at least `ENOUGH` configurations of two layouts or more."""
    runs: dict[tuple[str, ...], dict[tuple[tuple[int, ...], int], list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in measurements():
        layout = tuple(int(row[name] or 1) for name in LAYOUT)
        times = float(row["silicon_ttft_ms"]) / 1000, float(row["silicon_tpot_ms"]) / 1000
        runs[tuple(row[name] for name in WORKLOAD)][layout, int(row["batch_size"])].append(times)
    found = [
        Group(
            dict(zip(WORKLOAD, workload, strict=True)),
            {key: (median(ttft for ttft, _ in times), median(tpot for _, tpot in times)) for key, times in table.items()},
        )
        for workload, table in sorted(runs.items())
        if len(table) >= ENOUGH
    ]
    return [group for group in found if len(group.layouts) > 1]


def gpus(layout: tuple[int, ...]) -> int:
    """GPUs of a layout: those of its attention; experts are spread over the same."""
    return prod(layout[:3])


def label(layout: tuple[int, ...]) -> str:
    """A layout in short: `tp4`, `tp1-dp8-ep8`."""
    first, *others = zip(SHORT, layout, strict=True)
    return "-".join([f"tp{first[1]}", *(f"{name}{size}" for name, size in others if size > 1)])


def main(folder: Path) -> None:
    """Writes all groups into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in groups():
        write_table(folder / f"{group.name}.csv.gz", group.rows(), ())
        (folder / f"{group.name}.yaml").write_text(yaml.safe_dump(group.experiment(), sort_keys=False, default_flow_style=None, width=140))
    print(f"{len(groups())} tables in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
