from __future__ import annotations

from math import inf, nan

import pytest

from tuner.launch import Value
from tuner.report import text


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("ttft_p99_s", 0.0512, "51.2 ms"),
        ("tpot_p50_s@16", 0.00456, "4.56 ms"),
        ("tpot_p50_s", 0.0004, "0.4 ms"),
        ("latency_p99_s@1", 0.4567, "457 ms"),
        ("latency_p99_s@1", 0.9999, "1000 ms"),
        ("latency_p99_s@1", 1.0, "1.00 s"),
        ("latency_p99_s@1", 123.456, "123.46 s"),
        ("output_tokens_per_s@16", 99.94, "99.9 tok/s"),
        ("output_tokens_per_s", 12345.6, "12346 tok/s"),
        ("input_tokens_per_s", 7.0, "7 tok/s"),
        ("requests_per_s", 0.05, "0.05 req/s"),
        ("error_rate", 0.0, "0"),
        ("error_rate@4", 0.0123, "0.0123"),
        ("tpot_p50_s", nan, "n/a"),
        ("requests_per_s", inf, "n/a"),
    ],
)
def test_metric(name: str, number: float, shown: str) -> None:
    assert text.metric(name, number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(True, "true"), (False, "false"), (8, "8"), (0.85, "0.85"), (1e-9, "1e-09"), ("off", "off")])
def test_value(value: Value, shown: str) -> None:
    assert text.value(value) == shown


def test_configuration() -> None:
    assert text.configuration({"n_parallel": 16, "cont_batching": True}) == "n_parallel=16 cont_batching=true"
    assert text.configuration({}) == ""
