from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from typing import Any

import pytest
from pydantic import ValidationError

from tests.doubles import measurement, timing
from tuner.goodput import Goodput
from tuner.objectives import Objective, Slo, Trace

LEVELS = (1, 4, 16)
THROUGHPUTS = {1: 50.0, 4: 180.0, 16: 160.0}


def curve(throughputs: Mapping[int, float] = THROUGHPUTS) -> dict[int, Any]:
    return {level: measurement(level, output_tokens_per_s=rate, latency=timing(0.1 * level)) for level, rate in throughputs.items()}


def maximize(**fields: Any) -> Objective:
    return Objective(**{"metric": "output_tokens_per_s", "direction": "maximize"} | fields)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"at": "max"}, "output_tokens_per_s@16"),
        ({"at": 4}, "output_tokens_per_s@4"),
        ({"at": "best"}, "output_tokens_per_s@best"),
        ({"at": 16, "per": "gpu"}, "output_tokens_per_s@16/gpu"),
        ({"at": "goodput", "per": "dollar"}, "output_tokens@goodput/dollar"),
        ({"metric": "concurrency", "at": "goodput"}, "concurrency@goodput"),
    ],
)
def test_labels(fields: dict[str, Any], label: str) -> None:
    assert maximize(**fields).label(LEVELS) == label


def test_a_bound_names_all_of_it() -> None:
    assert Slo(metric="requests_per_s", at="best", per="gpu", min=2.5).label(LEVELS) == "requests_per_s@best/gpu>=2.5"


@pytest.mark.parametrize(("at", "value"), [("min", 50.0), (4, 180.0), ("max", 160.0), ("best", 180.0)])
def test_value_at_a_level(at: Any, value: float) -> None:
    assert maximize(at=at).value(Trace(curve(), LEVELS)) == value


def test_best_depends_on_what_is_wanted() -> None:
    trace = Trace(curve(), LEVELS)
    assert Objective(metric="latency_p99_s", at="best", direction="minimize").value(trace) == pytest.approx(0.1)
    assert Objective(metric="output_tokens_per_s", at="best", direction="minimize").value(trace) == 50.0
    assert Slo(metric="output_tokens_per_s", at="best", min=1).value(trace) == 180.0
    assert Slo(metric="latency_p99_s", at="best", max=1).value(trace) == pytest.approx(0.1)


def test_no_value_while_a_level_is_missing() -> None:
    trace = Trace(curve({1: 50.0, 16: 160.0}), LEVELS)
    assert maximize(at=4).value(trace) is None
    assert maximize(at="best").value(trace) is None
    assert maximize(at="max").value(trace) == 160.0


def test_best_is_of_the_levels_of_the_workload() -> None:
    assert maximize(at="best").value(Trace(curve(THROUGHPUTS | {8: 999.0}), LEVELS)) == 180.0


def test_a_metric_without_a_value_is_nan() -> None:
    shown = {level: replace(m, tpot=None) for level, m in curve().items()}
    for at in ("min", "best"):
        value = Objective(metric="tpot_p50_s", at=at, direction="minimize").value(Trace(shown, LEVELS))
        assert value is not None
        assert isnan(value)
    shown[4] = curve()[4]
    assert Objective(metric="tpot_p50_s", at="best", direction="minimize").value(Trace(shown, LEVELS)) == 0.005


def test_per_gpu_and_per_dollar() -> None:
    trace = Trace(curve(), LEVELS, gpus=2, gpu_hour=4.0)
    assert maximize(at=4, per="gpu").value(trace) == 90.0
    assert maximize(at=4, per="dollar").value(trace) == pytest.approx(180.0 * 3600 / 8.0)
    assert isnan(maximize(at=4, per="gpu").value(replace(trace, gpus=0)) or 0.0)


class TestGoodput:
    goodput = Goodput.model_validate({"bounds": [{"metric": "latency_p99_s", "max": 0.45}], "tolerance": 0.5})

    def trace(self, throughputs: Mapping[int, float]) -> Trace:
        return Trace(curve(throughputs), LEVELS, goodput=self.goodput)

    def test_none_until_the_limit_is_known(self) -> None:
        assert maximize(at="goodput").value(self.trace(THROUGHPUTS)) is None
        assert maximize(at="goodput").value(Trace(curve(), LEVELS)) is None

    def test_at_the_largest_load_that_meets_the_bounds(self) -> None:
        trace = self.trace(THROUGHPUTS | {8: 170.0, 6: 175.0})
        assert maximize(at="goodput").value(trace) == 180.0
        assert maximize(metric="concurrency", at="goodput").value(trace) == 4.0
        assert Slo(metric="latency_p99_s", at="goodput", max=1).value(trace) == pytest.approx(0.4)

    def test_nothing_is_served_where_nothing_is_met(self) -> None:
        trace = replace(self.trace(THROUGHPUTS), goodput=Goodput.model_validate({"bounds": [{"metric": "latency_p99_s", "max": 0.05}]}))
        assert maximize(at="goodput").value(trace) == 0.0
        assert maximize(metric="concurrency", at="goodput").value(trace) == 0.0
        assert Objective(metric="latency_p99_s", at="goodput", direction="minimize").value(trace) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"metric": "latency_p99_s", "per": "gpu"}, "per: gpu is for output_tokens_per_s, .*; latency_p99_s does not grow"),
        ({"metric": "error_rate", "per": "dollar"}, "error_rate does not grow"),
        ({"metric": "concurrency", "at": "goodput", "per": "dollar"}, "concurrency does not grow"),
        ({"metric": "concurrency", "at": 4}, "concurrency@4 is the load itself"),
        ({"metric": "concurrency", "at": "best"}, "concurrency@best is the load itself"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        maximize(**fields)
