"""What a file may hold, and how what is wrong with it is told: one line with file, line, column and what to do."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from tests.replay.recording import ROWS, write
from tuner.errors import ConfigError
from tuner.replay.reading import read_table

GOOD = "tp_size,outcome,ttft_p99_s@4\n1,measured,0.5\n2,oom_load,\n"


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_table(str(path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("tp_size,ttft_p98_s@4\n1,0.5\n", r"column ttft_p98_s@4: ttft_p98_s is no metric \(did you mean ttft_p9.*begin it with _"),
        ("tp_size,ttft_p99_s\n1,0.5\n", r"column ttft_p99_s: a load level .*ttft_p99_s@16"),
        ("tp_size,ttft_p99_s@x\n1,0.5\n", r"column ttft_p99_s@x: a load level"),
        ("tp_size,ttft_p99_s@0\n1,0.5\n", r"column ttft_p99_s@0: a load level"),
        ("tp_size,ttft_p99_s@4\n1,0.5\n2,fast\n", r"line 3, column ttft_p99_s@4: 'fast' is not a number from 0; correct it"),
        ("tp_size,ttft_p99_s@4\n1,-0.5\n", r"line 2, column ttft_p99_s@4: '-0.5' is not"),
        ("tp_size,ttft_p99_s@4\n1,inf\n", r"line 2, column ttft_p99_s@4: 'inf' is not"),
        ('tp_size,ttft_p99_s@4\n1,"0,5"\n', r"line 2, column ttft_p99_s@4: '0,5' is not"),
        ("tp_size,error_rate@4,ttft_p99_s@4\n1,2,0.5\n", r"line 2, column error_rate@4: '2' is not a share from 0 to 1"),
        ("tp_size,deploy_s,ttft_p99_s@4\n1,soon,0.5\n", r"line 2, column deploy_s: 'soon' is not"),
        ("tp_size,gpus,ttft_p99_s@4\n1,1.5,0.5\n", r"line 2, column gpus: 1.5 is no whole number above 0"),
        ("tp_size,gpus,ttft_p99_s@4\n1,0,0.5\n", r"line 2, column gpus: 0 is no whole number above 0"),
        ("tp_size,ttft_p99_s@4\n1,0.5\n1.0,0.6\n", r"line 3: the same configuration as line 2; keep one"),
        ("tp_size,ttft_p99_s@4\n1,0.5\n\n1,0.6\n", r"line 4: the same configuration as line 2"),
        ("tp_size,ttft_p99_s@4\n1,\n", r"line 2: measured, but without a metric.*column outcome"),
        ("tp_size,tp_size,ttft_p99_s@4\n1,1,0.5\n", r"column tp_size stands there twice"),
        ("tp_size,ttft_p99_s@4\n", r"no rows below the header"),
        ("tp_size,ttft_p99_s@4\n,\n", r"no rows below the header"),
        ("ttft_p99_s@4,outcome\n1,measured\n", r"no columns with parameters among"),
        ("tp_size;ttft_p99_s@4\n1;0.5\n", r"column tp_size;ttft_p99_s@4: tp_size;ttft_p99_s is no metric"),
        ("tp_size,outcome,load_s@4\n1,measured,5\n", r"no columns with metrics such as ttft_p99_s@16"),
        ("tp_size,ttft_p99_s@4\n1,0.5,7\n", r"no CSV file \(.*\); write it with commas"),
        ("", r"no CSV file \(.*\); write it with commas"),
    ],
)
def test_errors(tmp_path: Path, content: str, wrong: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    message = complaint(path)
    assert message.startswith(f"{path}: ")
    assert re.search(wrong, message), message


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert re.match(r"engine\.table: cannot read .*missing\.csv \(No such file", complaint(tmp_path / "missing.csv"))
    assert "engine.table: cannot read" in complaint(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "no CSV file" in complaint(tmp_path / "bytes.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:20])
    assert "no CSV file" in complaint(tmp_path / "cut.csv.gz")
    (tmp_path / "other.parquet").write_text(GOOD)
    assert "no Parquet file" in complaint(tmp_path / "other.parquet")


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    import pandas as pd

    plain = write(tmp_path / "plain.csv")
    zipped = tmp_path / "zipped.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pd.DataFrame(ROWS).replace("", None).astype({"mem_fraction_static": "float32"}).to_parquet(tmp_path / "columns.parquet")
    pd.read_csv(plain).to_csv(tmp_path / "with_index.csv")
    tables = [read_table(str(path)) for path in (plain, zipped, tmp_path / "columns.parquet", tmp_path / "with_index.csv")]
    for table in tables:
        assert table.parameters == ("tp_size", "mem_fraction_static", "max_running_requests")
        assert len(table.rows) == len(ROWS)
        row = table.find({"tp_size": 2, "mem_fraction_static": 0.8, "max_running_requests": 32})
        assert row is not None
        assert (row.outcome, row.deploy_s, row.line) == ("measured", 100, ROWS.index(row_of(2, 0.8, 32)) + 2)
        assert table.value(row, "ttft_p99_s", 64) == pytest.approx(row_of(2, 0.8, 32)["ttft_p99_s@64"])


def row_of(*values: float) -> dict[str, object]:
    return next(one for one in ROWS if (one["tp_size"], one["mem_fraction_static"], one["max_running_requests"]) == values)


def test_columns_that_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\ufeff,tp_size, ttft_p99_s@4 ,_note,_ttft_p42_s@4\n0,1,0.5,any,words\n")
    table = read_table(str(path))
    assert table.parameters == ("tp_size",)
    assert table.metrics == {"ttft_p99_s": (4,)}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", ROWS[:8])
    assert len(read_table(str(path)).rows) == 8
    write(path, ROWS)
    os.utime(path, ns=(1, 1))
    assert len(read_table(str(path)).rows) == len(ROWS)
