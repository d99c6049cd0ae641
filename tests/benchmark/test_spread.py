from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest

from tuner.benchmark.results import timing
from tuner.benchmark.spread import spread_of_rates, spread_of_times


def level(source: random.Random, requests: int) -> list[float]:
    return [source.lognormvariate(0.0, 0.3) for _ in range(requests)]


def alternating(values: list[float]) -> list[float]:
    """Their neighbours as unlike as can be."""
    ordered = sorted(values)
    half = len(values) // 2
    return [value for pair in zip(ordered[:half], ordered[half:], strict=True) for value in pair]


@pytest.mark.parametrize(("statistic", "within"), [("mean", 0.15), ("p50", 0.2), ("p90", 0.2), ("p95", 0.25)])
def test_is_the_scatter_of_levels_that_are_run_again(statistic: str, within: float) -> None:
    source = random.Random(1)
    levels = [level(source, 100) for _ in range(300)]
    seen = [getattr(timing(values), statistic) for values in levels]
    told = [spread_of_times(values)[statistic] for values in levels]
    assert fmean(told) == pytest.approx(stdev(seen) / fmean(seen), rel=within)


def test_is_that_of_resampled_requests() -> None:
    source = random.Random(2)
    values = alternating(level(source, 40))
    for statistic, error in spread_of_times(values).items():
        again = [getattr(timing(source.choices(values, k=40)), statistic) for _ in range(2000)]
        assert error == pytest.approx(stdev(again) / fmean(again), rel=0.2), statistic


def test_the_same_requests_give_the_same_answer() -> None:
    values = level(random.Random(3), 33)
    assert spread_of_times(values) == spread_of_times(list(values))


def test_requests_that_wait_for_each_other_say_less() -> None:
    values = level(random.Random(3), 40)
    told, alone = spread_of_times(sorted(values)), spread_of_times(alternating(values))
    assert all(told[name] > 3 * alone[name] for name in told)


def test_queueing_levels_scatter_as_they_say() -> None:
    """An autoregressive series, as the waits in a queue are."""
    source, told, seen = random.Random(6), [], []
    for _ in range(200):
        values = [1.0]
        for _ in range(299):
            values.append(max(0.01, 1 + 0.8 * (values[-1] - 1) + source.gauss(0, 0.05)))
        told.append(spread_of_times(values)["mean"])
        seen.append(fmean(values))
    assert fmean(told) == pytest.approx(stdev(seen) / fmean(seen), rel=0.2)


def test_relative_to_the_value() -> None:
    values = level(random.Random(4), 33)
    assert spread_of_times([1000 * value for value in values]) == spread_of_times(values)


def test_nothing_is_said_of_too_few() -> None:
    assert spread_of_times([1.0, 2.0]) == {}
    assert spread_of_rates([{"requests_per_s": 4.0}], [1.0]) == {}


def test_requests_that_are_all_the_same_do_not_scatter() -> None:
    assert set(spread_of_times([0.2] * 5).values()) == {0.0}


def test_rates_are_the_scatter_of_levels_that_are_run_again() -> None:
    source = random.Random(5)
    told, seen = [], []
    for _ in range(300):
        seconds = [source.lognormvariate(0.0, 0.1) for _ in range(8)]
        tokens = [source.gauss(100, 5) for _ in seconds]
        told.append(spread_of_rates([{"output_tokens_per_s": count} for count in tokens], seconds)["output_tokens_per_s"])
        seen.append(sum(tokens) / sum(seconds))
    assert fmean(told) == pytest.approx(stdev(seen) / fmean(seen), rel=0.15)


def test_a_rate_is_steady_where_longer_waves_bring_more() -> None:
    assert spread_of_rates([{"requests_per_s": 4.0}, {"requests_per_s": 8.0}], [1.0, 2.0]) == {"requests_per_s": 0.0}
    assert spread_of_rates([{"requests_per_s": 4.0}, {"requests_per_s": 4.0}], [1.0, 2.0]) != {"requests_per_s": 0.0}


def test_what_was_not_served_has_no_spread() -> None:
    assert spread_of_rates([{"output_tokens_per_s": 0.0}] * 3, [1.0] * 3) == {}
