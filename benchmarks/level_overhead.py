"""What a load level costs beyond its own load: the warm driver against genai-bench's command line, on one micro server.

Run from the repository with `.venv/bin/python benchmarks/level_overhead.py [levels]`; about three minutes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tuner.backends.base import Place
from tuner.backends.local import Local
from tuner.benchmark.base import Load
from tuner.benchmark.genai_bench import GenaiBench
from tuner.benchmark.measurement import Measurement
from tuner.engines.llamacpp import LlamaCpp
from tuner.launch import Endpoint

LOAD = Load(scenario="D(64,32)", concurrency=4, requests=48, max_time_s=60, stall_s=20)
COMPARED = ("output_tokens_per_s", "ttft_p50_s", "tpot_p50_s", "latency_p50_s")


def level(endpoint: Endpoint, benchmark: GenaiBench, folder: Path) -> tuple[float, Measurement]:
    """Seconds beyond the load itself, and the measurement, of one level."""
    begun = time.monotonic()
    measurement = benchmark.run(endpoint, LOAD, folder, lambda: True)
    return time.monotonic() - begun - measurement.duration_s, measurement


def main() -> None:
    """Runs both modes in turn, after one level of each that warms up, and prints medians and ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    engine = LlamaCpp("micro")
    engine.prepare()
    spec = engine.launch({}, "overhead")
    with (
        tempfile.TemporaryDirectory() as name,
        Local().deploy(spec, Place("overhead", 0, folder := Path(name))) as server,
        GenaiBench(engine.tokenizer, mode="driver") as driver,
        GenaiBench(engine.tokenizer, mode="cli") as cli,
    ):
        server.wait_ready(engine.ready, spec.ready_timeout_s)
        rounds = [[level(server.endpoint, benchmark, folder) for benchmark in (driver, cli)] for _ in range(count + 1)][1:]
    overheads = [statistics.median(overhead for overhead, _ in column) for column in zip(*rounds, strict=True)]
    print("seconds beyond the load itself, median of {}: driver {:.2f}, cli {:.2f}".format(count, *overheads))
    for metric in COMPARED:
        ratios = [one.metric(metric) / other.metric(metric) for (_, one), (_, other) in rounds]
        print(f"{metric}: driver/cli = {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
