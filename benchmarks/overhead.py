"""What tuner itself costs per trial when a study is long: choosing a configuration, telling how it ended, and keeping what it showed.

    python -m benchmarks.overhead --samplers ehvi,tpe,random

A replay of a table measures at once, so that what is left is tuner. A random search fills a study in memory, as `engine=replay` does, and
writes it to a SQLite file. Then each sampler goes on with a copy of that file as on servers: every step is in the file before the next.
The time of the replay itself is left out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import optuna

from benchmarks.efficiency.case import Case, read_arm, read_case
from benchmarks.efficiency.play import Silence, checked_engine
from tuner import runner
from tuner.parties import create_backend, create_benchmark, create_gate, create_knowledge, find_gpus
from tuner.replay.pages import LastPages
from tuner.replay.working_copy import working_copy
from tuner.runner import run_trials
from tuner.storage import open_storage
from tuner.study import Ledger
from tuner.trial import Rig

CASE = Path(__file__).parent / "landscapes/tables/llama8b_h100_chat.yaml"
GOAL_MS = 100
"""The most that a trial may cost."""
PARTS: dict[str, list[tuple[Any, str]]] = {
    "ask": [(Ledger, "ask")],
    "keep": [(runner, "_keep")],
    "tell": [(Ledger, "tell_measured"), (Ledger, "tell_pruned"), (Ledger, "tell_infeasible")],
    "measure": [(Rig, "measure")],
}
"""Where the time goes, by the functions that take it."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "CPU": time.process_time}


class Clockwork:
    """Times functions while it is entered.

    Attributes:
        trials: Milliseconds of each trial, by clock and part; `all` is what lies between two trials' starts, less `measure`.
    """

    def __init__(self) -> None:
        self.trials: list[dict[tuple[str, str], float]] = []
        self._begun: dict[str, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as patches:
            for part, functions in PARTS.items():
                for owner, name in functions:
                    patches.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield
            self._end_trial()

    def _end_trial(self) -> None:
        now = {name: clock() * 1000 for name, clock in CLOCKS.items()}
        if self._begun:
            trial = self.trials[-1]
            for clock, since in self._begun.items():
                trial[clock, "all"] = now[clock] - since - trial[clock, "measure"]
                trial[clock, "other"] = trial[clock, "all"] - sum(trial[clock, part] for part in PARTS if part != "measure")
        self._begun = now

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if part == "ask":
                self._end_trial()
                self.trials.append({(clock, name): 0.0 for clock in CLOCKS for name in PARTS})
            begun = {name: clock() for name, clock in CLOCKS.items()}
            try:
                return function(*arguments, **named)
            finally:
                for name, clock in CLOCKS.items():
                    self.trials[-1][name, part] += (clock() - begun[name]) * 1000

        return timed


def run(case: Case, sampler: str, storage: optuna.storages.BaseStorage, trials: int, folder: Path) -> None:
    """Continues the study of a case up to so many trials."""
    settings = case.settings(read_arm(sampler, pruner="front"), trials, 0, folder)
    engine, gpus = checked_engine(settings), find_gpus(settings)
    backend = create_backend(settings, gpus, lambda line: None)
    rig = Rig(create_gate(settings, engine, backend, gpus), engine, backend, create_benchmark(settings, engine, backend), settings.workload)
    ledger = Ledger(settings, storage, engine.defaults, knowledge=create_knowledge(settings, engine, gpus))
    run_trials(ledger, rig, Silence(), LastPages(ledger, folder))


def fill(case: Case, trials: int, folder: Path, file: Path) -> None:
    """Replays a random search into a SQLite file, and prints how fast that was."""
    begun = {name: clock() for name, clock in CLOCKS.items()}
    storage = open_storage(f"sqlite:///{file}")
    with working_copy(storage, [case.name]) as memory:
        run(case, "random", memory, trials, folder)
        searched = {name: clock() - begun[name] for name, clock in CLOCKS.items()}
    took = {name: clock() - begun[name] for name, clock in CLOCKS.items()}
    storage.engine.dispose()  # all of the write-ahead log is in the file after it
    rates = ", ".join(f"{trials / seconds:.0f} trials/s by {name} time" for name, seconds in took.items())
    parts = ", ".join(f"{searched[name]:.1f} s + {took[name] - searched[name]:.1f} s" for name in CLOCKS)
    print(f"replay of {trials} random trials: {rates} (in memory + into the file: {parts})")


def report(sampler: str, clockwork: Clockwork, fill: int) -> None:
    """Prints medians and the last decile of what a trial cost."""
    print(f"\n{sampler}, {len(clockwork.trials)} trials after {fill}, on SQLite, ms per trial:")
    print(f"  {'':8}" + "".join(f"{f'{clock} {what}':>13}" for clock in CLOCKS for what in ("median", "p90")))
    for part in ("ask", "keep", "tell", "other", "all"):
        columns = [[trial[clock, part] for trial in clockwork.trials] for clock in CLOCKS]
        cells = [figure for column in columns for figure in (statistics.median(column), statistics.quantiles(column, n=10)[-1])]
        print(f"  {part:8}" + "".join(f"{cell:13.1f}" for cell in cells))
    median = statistics.median(trial["wall", "all"] for trial in clockwork.trials)
    print(f"  {'within' if median <= GOAL_MS else 'OVER'} the goal of {GOAL_MS} ms (median, wall)")


def main() -> None:
    """Fills a study once and times each sampler at its end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--space", type=Path, default=CASE, help="a case, as for benchmarks.sample_efficiency")
    parser.add_argument("--samplers", default="ehvi", help="by commas (ehvi, which is the default of tuner)")
    parser.add_argument("--fill", type=int, default=1000, help="trials before those that are timed (1000)")
    parser.add_argument("--trials", type=int, default=30, help="trials that are timed (30)")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    case = read_case(options.space)
    with tempfile.TemporaryDirectory(prefix="tuner-overhead-") as name:
        folder = Path(name)
        filled = folder / "filled.db"
        fill(case, options.fill, folder, filled)
        for sampler in options.samplers.split(","):
            own = Path(shutil.copy(filled, folder / f"{sampler}.db"))
            clockwork = Clockwork()
            with clockwork.running():
                run(case, sampler, open_storage(f"sqlite:///{own}"), options.fill + options.trials, folder)
            report(sampler, clockwork, options.fill)


if __name__ == "__main__":
    main()
