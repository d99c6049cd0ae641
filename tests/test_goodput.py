from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.doubles import BackendDouble, BenchmarkDouble, EngineDouble, GateDouble, ProgressDouble, World, measurement, settings, timing
from tuner.backends.base import Place
from tuner.benchmark.measurement import Measurement
from tuner.goodput import Goodput, GoodputCourse, Limit
from tuner.trial import Record, Rig

LEVELS = (1, 8, 64)
BOUND = {"metric": "ttft_p99_s", "max": 0.5}


def goodput(**fields: Any) -> Goodput:
    return Goodput.model_validate({"bounds": [BOUND]} | fields)


def shows(level: int, breaks_above: float) -> Measurement:
    return measurement(level, ttft=timing(0.5 * (level / breaks_above)))


def walk(asked: Goodput, breaks_above: float, levels: tuple[int, ...] = LEVELS) -> tuple[list[int], Limit]:
    """The levels that a trial runs whose server keeps the bound up to so many users, and what comes out."""
    course, seen = GoodputCourse(asked, levels), dict[int, Measurement]()
    while (level := course.next_level(seen)) is not None:
        assert level not in seen, "a level is measured once"
        seen[level] = shows(level, breaks_above)
    return list(seen), asked.limit(levels, seen)


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("breaks_above", [1, 2, 3, 7, 8, 9, 15, 31.5, 40, 63])
def test_the_limit_is_found_within_the_tolerance(breaks_above: float, tolerance: float) -> None:
    run, limit = walk(goodput(tolerance=tolerance), breaks_above)
    assert run[:3] == list(LEVELS)
    assert limit.users <= breaks_above < max(limit.users * (1 + tolerance), limit.users + 1)
    assert not limit.at_least
    assert limit.violation <= 0
    assert len(run) <= 3 + 7


def test_the_server_stays_up_while_the_limit_is_looked_for(tmp_path: Path) -> None:
    world = World(measures=lambda configuration, level: shows(level, 20))
    workload = settings(tmp_path, workload={"scenario": "D(64,32)", "levels": list(LEVELS), "warmup_requests": 0}).workload
    rig = Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), workload)
    record = Record()
    rig.measure({"n_parallel": 8}, Place("s", 1, tmp_path), ProgressDouble(world), record, GoodputCourse(goodput(), LEVELS))
    assert world.calls.count("deploy") == 1
    assert world.calls.count("flush") == len(record.measurements)
    assert list(record.measurements) == [1, 8, 64, 23, 14, 18, 20, 21]
    assert record.complete


def test_all_levels_met_is_at_least() -> None:
    run, limit = walk(goodput(), 1000)
    assert (run, limit.users, limit.at_least) == ([1, 8, 64], 64, True)


def test_higher_loads_are_tried_where_they_may_be() -> None:
    run, limit = walk(goodput(high=200), 150)
    assert run[:5] == [1, 8, 64, 128, 200]
    assert 136 <= limit.users <= 150
    assert not limit.at_least
    run, limit = walk(goodput(high=200), 1000)
    assert (run, limit.users, limit.at_least) == ([1, 8, 64, 128, 200], 200, True)


def test_nothing_met_is_no_error() -> None:
    run, limit = walk(goodput(), 0.8)
    assert (run, limit.users, limit.lowest, limit.next_level, limit.at_least) == ([1, 8, 64], 0, 1, None, False)
    assert limit.violation == pytest.approx(0.25)


def test_lower_loads_are_tried_where_they_may_be() -> None:
    run, limit = walk(goodput(low=2), 4, (8, 64))
    assert run[:3] == [8, 64, 2]
    assert limit.users == 4
    run, limit = walk(goodput(low=2), 1, (8, 64))
    assert (run, limit.users, limit.lowest) == ([8, 64, 2], 0, 2)


def test_a_hiccup_below_does_not_hide_what_holds_above() -> None:
    seen = {level: shows(level, 20) for level in LEVELS} | {1: measurement(1, ttft=timing(9.0))}
    limit = goodput().limit(LEVELS, seen)
    assert limit.users == 8
    assert limit.next_level == 23


def test_all_bounds_hold_at_a_load_that_counts() -> None:
    asked = goodput(bounds=[BOUND, {"metric": "output_tokens_per_s", "min": 100}])
    assert asked.violation(measurement(1)) <= 0
    assert asked.violation(measurement(1, output_tokens_per_s=50.0)) == 0.5
    assert asked.violation(measurement(1, ttft=timing(0.75))) == 0.5


def test_what_has_no_value_is_missed() -> None:
    asked = goodput(bounds=[{"metric": "tpot_p99_s", "max": 1}])
    assert asked.violation(replace(measurement(1), tpot=None)) == 1.0


def test_before_anything_was_measured() -> None:
    assert goodput().limit(LEVELS, {}) == Limit(0, 0, 1.0, 1, False)


@pytest.mark.parametrize(
    "fields", [{"bounds": []}, {"tolerance": 0}, {"bounds": [{"metric": "concurrency", "min": 4}]}, {"bounds": [{"metric": "ttft_p99_s"}]}]
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        goodput(**fields)


def test_a_course_gives_nothing_up() -> None:
    course: Callable[[dict[int, Measurement]], str | None] = GoodputCourse(goodput(), LEVELS).hopeless
    assert course({1: shows(1, 0.1)}) is None
