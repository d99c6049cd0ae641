"""Makes all tables anew: `PYTHONPATH=. python -m benchmarks.landscapes [case ...]`, with the extra `prior` installed."""

from __future__ import annotations

import sys
import time

from benchmarks.landscapes.cases import CASES
from benchmarks.landscapes.landscape import Landscape
from benchmarks.landscapes.tables import FOLDER, write_case, write_table


def main(names: list[str]) -> None:
    """Writes tables and case files of the cases called `names`, or of all."""
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        if names and case.name not in names:
            continue
        begun = time.monotonic()
        landscape = Landscape(case)
        rows = list(landscape.rows())
        write_table(
            FOLDER / f"{case.name}.csv.gz", rows, [*landscape.space.parameters, "gpus", "outcome", "reason", "deploy_s", "warmup_s"]
        )
        write_case(FOLDER / f"{case.name}.yaml", case)
        print(f"{case.name}: {len(rows)} configurations in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
