"""Which sampler finds the feasible front of a recorded table with the fewest deployments.

    python -m benchmarks.sample_efficiency --space CASE.yaml --samplers ehvi,tpe,random --trials 50 --seeds 20
    python -m benchmarks.sample_efficiency --table FILE --space SPACE.yaml --objective ttft_p99_s@16:minimize --samplers tpe,random

Every search is the real study and the real trial loop over a replay of the table, with noise; what it has found is judged by the table
without noise. See docs/replay.md for the formats, and `benchmarks/efficiency/truth.py` for how shares of the front are counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.efficiency import report
from benchmarks.efficiency.case import read_arm, read_case
from benchmarks.efficiency.comparison import compare
from benchmarks.efficiency.play import Search
from tuner.errors import ConfigError, TunerError

OUT = Path("studies/sample_efficiency")

Number = TypeVar("Number", int, float)


def main(arguments: list[str] | None = None) -> int:
    """Compares, writes the results, prints the tables, and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        levels = _numbers("--levels", options.levels, int)
        case = read_case(options.space, options.table, options.objective, options.constraint, options.noise, levels)
        arms = [read_arm(text, options.pruner, options.gate == "on", options.prior) for text in options.samplers.split(",")]
        total = len(arms) * options.seeds

        def tell(search: Search, done: int) -> None:
            share = search.deployments[-1].share if search.deployments else 0.0
            found = f"{share:.1%} of the front after {len(search.deployments)} deployments, {search.seconds:.1f} s"
            print(f"{done} of {total}: {search.arm}, seed {search.seed}: {found}", file=sys.stderr, flush=True)

        reference = _numbers("--reference", options.reference, float)
        comparison = compare(case, arms, options.trials, options.seeds, options.jobs, reference or None, tell)
    except TunerError as error:
        print(f"sample_efficiency: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    paths = report.write(comparison, options.out)
    print(paths[0].read_text())
    print(f"Written: {', '.join(map(str, paths))}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_efficiency", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--space", type=Path, required=True, metavar="FILE", help="YAML: a case, or a bare search space as in conf/space/")
    add("--table", metavar="FILE", help="CSV (also .csv.gz) or Parquet; by default that of the case")
    add("--samplers", default="ehvi,tpe,random", help="differences are to the first; settings of one behind colons: ehvi:prior=none")
    add("--trials", type=_positive, default=50, help="deployments of each search, the default's among them (50)")
    add("--seeds", type=_positive, default=10, help="searches of each arm (10)")
    add("--objective", action="append", default=[], metavar="METRIC@LEVEL:DIRECTION", help="minimize or maximize; may be repeated")
    add("--constraint", action="append", default=[], metavar="METRIC@LEVEL<=X", help="or >=; may be repeated")
    add("--levels", metavar="A,B,...", help="load levels of each trial; by default those of the case, or all of the table")
    add("--noise", type=float, help="relative standard deviation between runs; by default that of the case, or 0.03")
    add("--pruner", choices=["none", "slo", "front"], default="none")
    add("--gate", choices=["on", "off"], default="on", help="whether impossible configurations are refused without a deployment (on)")
    add("--prior", choices=["auto", "none"], default="auto", help="whether ehvi starts from a performance prediction (auto)")
    add("--reference", metavar="X,Y,...", help="reference point, one value for each objective; by default beyond the front's worst values")
    add("--jobs", type=_positive, default=1, help="processes (1)")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"for the Markdown, the picture and the raw CSV ({OUT})")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _numbers(option: str, text: str | None, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [] if text is None else [kind(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: no numbers with commas between them, as in 4,16,64") from error


if __name__ == "__main__":
    sys.exit(main())
