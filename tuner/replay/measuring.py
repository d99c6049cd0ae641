"""A load level of a row as a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable

from tuner.benchmark.measurement import STATISTICS, Measurement, Timing
from tuner.replay.table import Row, Table

COUNTED = 10_000
"""Requests by which a recorded share of errors is told in whole numbers."""


def measurement(
    table: Table, row: Row, level: int, requests: int, seconds: float, factor: Callable[[str], float] = lambda metric: 1.0
) -> Measurement:
    """What a row shows at a load level. What the table does not have is not a number.

    Args:
        table: The table.
        row: One of its rows.
        level: Concurrent users.
        requests: Requests that the level is said to have completed.
        seconds: How long it is said to have taken.
        factor: What the recorded value of a metric is multiplied with.
    """

    def value(metric: str) -> float:
        if metric not in table.metrics or math.isnan(recorded := table.value(row, metric, level)):
            return math.nan
        return recorded * factor(metric)

    def timing(name: str) -> Timing:
        return Timing(**{statistic: value(f"{name}_{statistic}_s") for statistic in STATISTICS})

    share = table.value(row, "error_rate", level) if "error_rate" in table.metrics else 0.0
    failed = round(share * COUNTED) if share > 0 else 0
    return Measurement(
        concurrency=level,
        completed=COUNTED - failed if failed else requests,
        errors={"recorded": failed} if failed else {},
        duration_s=seconds,
        window_s=seconds,
        ttft=timing("ttft"),
        tpot=timing("tpot"),
        latency=timing("latency"),
        output_tokens_per_s=value("output_tokens_per_s"),
        input_tokens_per_s=value("input_tokens_per_s"),
        requests_per_s=value("requests_per_s"),
        client_cpu_share=None,
        client_bound=False,
    )
