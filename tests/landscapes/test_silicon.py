from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.landscapes.silicon import Group, gpus, label
from benchmarks.landscapes.tables import read_table
from tuner.space_settings import read_space

WORKLOAD = {"model_path": "some/Model", "system": "h100_sxm", "backend": "vllm", "precision": "fp8", "isl": "1024", "osl": "101"}
ONE, EIGHT = (1, 1, 1, 1, 1), (1, 1, 8, 1, 8)


def test_a_group_becomes_a_table() -> None:
    group = Group(WORKLOAD, {(ONE, 4): (0.1, 0.01), (ONE, 8): (0.2, 0.02), (EIGHT, 8): (0.3, 0.005)})
    assert group.name == "model_h100_sxm_vllm_fp8_1024_101"
    rows = group.rows()
    assert [(row["layout"], row["max_running_requests"], row["gpus"], row["outcome"]) for row in rows] == [
        ("tp1", 4, 1, "measured"),
        ("tp1", 8, 1, "measured"),
        ("tp1-dp8-ep8", 4, 8, "unmeasured"),
        ("tp1-dp8-ep8", 8, 8, "measured"),
    ]
    assert rows[0]["latency_mean_s@8"] == pytest.approx(1.1)
    assert rows[0]["output_tokens_per_s@8"] == pytest.approx(4 * 101 / 1.1)
    assert group.experiment()["constraints"] == [{"metric": "ttft_mean_s", "at": 8, "max": 0.2}]


def test_layouts() -> None:
    assert (gpus((4, 2, 1, 4, 1)), label((4, 2, 1, 4, 1))) == (8, "tp4-pp2-moe_tp4")


def test_real_runs_become_tables(tmp_path: Path) -> None:
    pytest.importorskip("aiconfigurator_core")
    from benchmarks.landscapes.silicon import main

    main(tmp_path)
    cases = sorted(tmp_path.glob("*.yaml"))
    assert len(cases) > 100
    case = yaml.safe_load(cases[0].read_text())
    assert read_space(case["space"]).size == len(read_table(tmp_path / case["table"]))
