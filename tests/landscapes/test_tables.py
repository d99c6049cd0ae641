"""The committed tables: the simulator still makes them, they hold what a search needs, and a study can read their case files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.landscapes.cases import CASES, Case
from benchmarks.landscapes.facts import facts
from benchmarks.landscapes.landscape import Landscape
from benchmarks.landscapes.tables import FOLDER, read_table, text, write_case, write_table
from tuner.space_settings import read_space

NAMED = {case.name: case for case in CASES}


def by_name(function: Any) -> Any:
    return pytest.mark.parametrize("case", CASES, ids=list(NAMED))(function)


@pytest.mark.slow
@by_name
def test_sampled_rows_are_made_anew(case: Case) -> None:
    if case.system:
        pytest.importorskip("aiconfigurator_core")
    landscape, table = Landscape(case), read_table(FOLDER / f"{case.name}.csv.gz")
    for number, configuration in list(enumerate(landscape.space.configurations()))[::397]:
        made = {name: text(value) for name, value in landscape.row(configuration).items()}
        assert {name: value for name, value in table[number].items() if value} == {name: value for name, value in made.items() if value}


@by_name
def test_a_table_has_every_configuration_once_and_is_small(case: Case) -> None:
    path = FOLDER / f"{case.name}.csv.gz"
    space = read_space(dict(case.space))
    keys = [tuple(row[name] for name in space.parameters) for row in read_table(path)]
    assert keys == [tuple(text(value) for value in values.values()) for values in space.configurations()]
    assert len(keys) >= 2000
    assert path.stat().st_size < 400_000


@by_name
def test_a_case_is_worth_a_search(case: Case) -> None:
    fact = facts(read_table(FOLDER / f"{case.name}.csv.gz"), case.objectives, case.constraints)
    assert 0.1 <= sum(fact.failed.values()) / fact.size <= 0.45
    assert 0.02 <= fact.allowed / fact.size <= 0.6
    assert fact.agreement < 0.7


@by_name
def test_the_case_file_is_that_of_the_case(case: Case, tmp_path: Path) -> None:
    write_case(tmp_path / "case.yaml", case)
    committed = (FOLDER / f"{case.name}.yaml").read_text()
    assert committed == (tmp_path / "case.yaml").read_text()
    assert yaml.safe_load(committed)["space"] == case.space


def test_memory_runs_out_at_each_stage() -> None:
    landscape = Landscape(NAMED["llama8b_h100_chat_roofline"])
    plain = {
        "tp_size": 1,
        "dp_size": 1,
        "mem_fraction_static": 0.84,
        "max_running_requests": 512,
        "chunked_prefill_size": 8192,
        "enable_mixed_chunk": False,
    }

    def outcome(**changed: Any) -> tuple[str, list[str]]:
        row = landscape.row(plain | changed)
        return row["outcome"], [name for name in row if name.startswith("load_s@")]

    assert outcome() == ("measured", ["load_s@8", "load_s@32", "load_s@128", "load_s@512"])
    assert outcome(mem_fraction_static=0.18) == ("oom_load", [])
    assert outcome(mem_fraction_static=0.19) == ("rejected", [])
    assert outcome(mem_fraction_static=0.99) == ("oom_capture", [])
    assert outcome(mem_fraction_static=0.88, chunked_prefill_size=16384) == ("oom_run", ["load_s@8"])
    assert outcome(mem_fraction_static=0.88)[0] == "measured"


def test_a_failure_ends_a_deployment_early() -> None:
    table = read_table(FOLDER / "qwen32b_h100_long.csv.gz")
    spent = {outcome: {float(row["deploy_s"]) for row in table if row["outcome"] == outcome} for outcome in ("oom_load", "measured")}
    assert max(spent["oom_load"]) < min(spent["measured"])


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv.gz", [{"a": 1, "b": True}, {"a": 0.123456789, "c": None}], ["c"])
    assert read_table(tmp_path / "a.csv.gz") == [{"c": "", "a": "1", "b": "true"}, {"c": "", "a": "0.12346", "b": ""}]
