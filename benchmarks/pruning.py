"""What stopping hopeless trials saves on recorded tables, and which members of the true feasible front it loses.

    python -m benchmarks.pruning
    python -m benchmarks.pruning --space CASE.yaml --samplers random --pruners none,front,front:confidence=0.9 --seeds 40
    python -m benchmarks.pruning --table FILE --space SPACE.yaml --objective ttft_p99_s@16:minimize --constraint 'ttft_p99_s@64<=0.5'

Every search is the real study and the real trial loop over a replay of the table, with noise; what it has found is judged by the table
without noise. A search with a pruner goes on until it has charged as many GPU-hours as the one without, of the same sampler and seed. See
docs/pruning.md.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.efficiency.case import Case, read_arm, read_case
from benchmarks.efficiency.play import checked_engine
from benchmarks.efficiency.truth import Truth, truth_of
from benchmarks.pruners import report
from benchmarks.pruners.play import PRUNERS, Trial, members, play
from tuner.errors import ConfigError, TunerError

TABLES = Path(__file__).parent / "landscapes" / "tables"
OUT = Path("studies/pruning.md")


def main(arguments: list[str] | None = None) -> int:
    """Compares, writes and prints the tables, and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        pruners = _pruners(options.pruners)
        parts = []
        for space in options.space or sorted(TABLES.glob("*.yaml")):
            case = read_case(space, options.table, options.objective, options.constraint, options.noise)
            parts.append(_compare(case, options.samplers.split(","), pruners, options.trials, options.seeds, options.jobs))
            print(parts[-1], end="\n\n", flush=True)
    except TunerError as error:
        print(f"pruning: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n\n".join(parts) + "\n")
    return 0


def _compare(case: Case, samplers: Sequence[str], pruners: Sequence[str], trials: int, seeds: int, jobs: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        settings = case.settings(read_arm("random"), 1, 0, Path(folder))
    truth = truth_of(settings, checked_engine(settings))
    front = members(truth)
    lines: dict[str, report.Line] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for sampler in samplers:
            run = functools.partial(_at_seed, case, sampler, tuple(pruners), truth, trials)
            searches = list(pool.map(run, range(seeds)))
            studies = {pruner: [one[i] for one in searches] for i, pruner in enumerate(pruners)}
            lines |= {f"{sampler}, {pruner}": report.line(studies, pruner, front) for pruner in pruners}
    asked = [*settings.objective_labels, *settings.constraint_labels]
    what = f"{len(truth.feasible)} configurations, {truth.feasible.sum()} feasible, {len(front)} of them on the front"
    return f"### {case.name}\n\n{', '.join(asked)}; {what}; {seeds} seeds.\n\n{report.markdown(lines)}"


def _at_seed(case: Case, sampler: str, pruners: Sequence[str], truth: Truth, trials: int, seed: int) -> list[list[Trial]]:
    arm = read_arm(sampler)
    plain = play(case, arm, pruners[0], truth, trials, seed)
    cost = sum(trial.gpu_hours for trial in plain)
    return [plain, *(play(case, arm, pruner, truth, trials, seed, cost) for pruner in pruners[1:])]


def _pruners(text: str) -> list[str]:
    named = ["none", *(pruner for pruner in text.split(",") if pruner != "none")]
    for pruner in named:
        if pruner.partition(":")[0] not in PRUNERS:
            raise ConfigError(f"--pruners {text}: {pruner} is none of {', '.join(PRUNERS)}")
    return named


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--space", type=Path, action="append", metavar="FILE", help="YAML: a case, or a bare search space; by default all landscapes")
    add("--table", metavar="FILE", help="CSV (also .csv.gz) or Parquet; by default that of the case")
    add("--samplers", default="random", help="settings of one behind colons, as for benchmarks.sample_efficiency (random)")
    add("--pruners", default=",".join(PRUNERS), help=f"settings of one behind colons: front:order=down ({','.join(PRUNERS)})")
    add("--trials", type=int, default=50, help="deployments of each search without pruning, the default's among them (50)")
    add("--seeds", type=int, default=20, help="searches of each kind (20)")
    add("--objective", action="append", default=[], metavar="METRIC@LEVEL:DIRECTION", help="minimize or maximize; may be repeated")
    add("--constraint", action="append", default=[], metavar="METRIC@LEVEL<=X", help="or >=; may be repeated")
    add("--noise", type=float, help="relative standard deviation between runs; by default that of the case, or 0.03")
    add("--jobs", type=int, default=1, help="processes (1)")
    add("--out", type=Path, default=OUT, metavar="FILE", help=f"for the Markdown ({OUT})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
