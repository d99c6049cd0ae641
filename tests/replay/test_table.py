from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.replay.recording import write
from tuner.launch import Value
from tuner.replay.reading import read_table
from tuner.replay.table import Table
from tuner.replay.values import parse, same


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0.85, 0.8500000000000001, True),
        (0.85, 0.8500000238418579, True),  # as 32 bits
        (0.85, 0.851, False),
        (4, 4.0, True),
        (4, "4", True),
        (True, "true", True),
        (True, 1, True),
        (False, True, False),
        ("fp8", "fp8", True),
        ("fp8", "fp4", False),
        (1048576, 1048577, False),
        (None, 0, False),
        ("1e-3", 0.001, True),
    ],
)
def test_values_that_are_the_same(one: Value | None, other: Value | None, equal: bool) -> None:
    assert (same(one) == same(other)) is equal


def test_cells() -> None:
    cells = ["4", "4.0", "0.5", "TRUE", "false", " fp8 ", "", "NaN", None, float("nan"), True, 3]
    assert [parse(cell) for cell in cells] == [4, 4, 0.5, True, False, "fp8", None, None, None, None, True, 3]
    assert isinstance(parse("4.0"), int)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    rows = [
        {
            "backend": "fa3",
            "chunk": 512,
            "graphs": "true",
            "ttft_p99_s@4": 0.1,
            "ttft_p99_s@64": 1.6,
            "error_rate@4": 0,
            "error_rate@64": 0.1,
        },
        {"backend": "fa3", "chunk": "", "graphs": "true", "ttft_p99_s@4": 0.2},
        {"backend": "fa3", "chunk": 1024, "graphs": "true", "outcome": "oom_run", "ttft_p99_s@4": 0.3},
    ]
    return read_table(str(write(tmp_path / "table.csv", rows)))


def test_what_is_constant_need_not_be_told(table: Table) -> None:
    assert table.constants == {"backend": "fa3", "graphs": True}
    assert table.find({"chunk": 512}) is table.rows[0]
    assert table.find({"chunk": 512, "backend": "fa3", "graphs": True}) is table.rows[0]
    assert table.find({"chunk": 512, "backend": "triton"}) is None


def test_a_parameter_that_is_not_given(table: Table) -> None:
    assert table.find({}) is table.rows[1]
    assert table.find({"chunk": 2048}) is None


def test_levels_between_recorded_ones_lie_on_a_line_of_logarithms(table: Table) -> None:
    assert table.value(table.rows[0], "ttft_p99_s", 16) == pytest.approx(0.4)
    assert table.value(table.rows[0], "ttft_p99_s", 4) == 0.1
    assert math.isnan(table.value(table.rows[0], "ttft_p99_s", 2))
    assert math.isnan(table.value(table.rows[0], "ttft_p99_s", 65))
    assert math.isnan(table.value(table.rows[1], "ttft_p99_s", 16)), "one end is missing"
    assert table.value(table.rows[0], "error_rate", 16) == pytest.approx(0.05), "no logarithm of 0"


def test_where_a_server_ran_out_of_memory(table: Table) -> None:
    measured, _, crashed = table.rows
    assert table.serves(measured, 64)
    assert [table.serves(crashed, level) for level in (4, 16, 64)] == [True, False, False]
