"""Cuts the table of `+experiment=replay_demo` out of a simulated landscape: `python -m benchmarks.demo_table`."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd

LANDSCAPE = Path(__file__).parent / "landscapes/tables/llama8b_h100_chat.csv.gz"
DEMO = Path(__file__).parents[1] / "tuner/replay/tables/demo.csv.gz"
KEPT = "(dp_size == 1) & (1024 <= chunked_prefill_size <= 8192) & ~enable_mixed_chunk"
LEFT_OUT = ["dp_size", "enable_mixed_chunk"]


def main() -> None:
    """Writes the table, four digits of each number."""
    rows = pd.read_csv(LANDSCAPE).query(KEPT).drop(columns=LEFT_OUT)
    DEMO.parent.mkdir(exist_ok=True)
    DEMO.write_bytes(gzip.compress(rows.to_csv(index=False, float_format="%.4g").encode(), mtime=0))
    print(f"{DEMO}: {len(rows)} configurations, {DEMO.stat().st_size} bytes; {rows['outcome'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
