"""What tuner itself costs per trial when a study is long: choosing a configuration, telling how it ended, and keeping what it showed.

    python -m benchmarks.overhead --sampler tpe --fill 1000

A replay of a table takes no time of its own, so that what is left is tuner. The study is filled by a random search, then trials of the
sampler are timed; once on a storage in memory, and once on a SQLite file, as a user has it.
"""

from __future__ import annotations

import argparse
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
from tuner.runner import run_trials
from tuner.storage import open_storage
from tuner.study import Ledger
from tuner.trial import Rig

CASE = Path(__file__).parent / "landscapes/tables/llama8b_h100_chat.yaml"
PARTS = {
    "ask": (Ledger, "ask"),
    "measure": (Rig, "measure"),
    "keep": (runner, "_keep"),
    "tell": (Ledger, "tell_measured"),
    "tell infeasible": (Ledger, "tell_infeasible"),
    "teach the gate": (runner, "_teach"),
}
"""Where the time goes, by the function that takes it."""


class Clockwork:
    """Times functions while it is entered.

    Attributes:
        seconds: Of every call, by part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as patches:
            for part, (owner, name) in PARTS.items():
                patches.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part].append(time.perf_counter() - begun)

        return timed


def run(case: Case, sampler: str, storage: optuna.storages.BaseStorage, trials: int, folder: Path) -> float:
    """Continues the study of a case up to so many trials, and returns the seconds that it took."""
    settings = case.settings(read_arm(sampler), trials, 0, folder)
    engine, gpus = checked_engine(settings), find_gpus(settings)
    backend = create_backend(settings, gpus, lambda line: None)
    rig = Rig(create_gate(settings, engine, backend, gpus), engine, backend, create_benchmark(settings, engine, backend), settings.workload)
    ledger = Ledger(settings, storage, engine.defaults, knowledge=create_knowledge(settings, engine, gpus))
    begun = time.perf_counter()
    run_trials(ledger, rig, Silence(), LastPages(ledger, folder))
    return time.perf_counter() - begun


def report(case: Case, options: argparse.Namespace, kind: str, storage: optuna.storages.BaseStorage, folder: Path) -> None:
    """Fills a study, times trials at its end, and prints both."""
    filled = run(case, "random", storage, options.fill, folder)
    print(f"\n{kind}: {options.fill / filled:.0f} trials/s while a random search fills the study with {options.fill} trials")
    clockwork = Clockwork()
    with clockwork.running():
        total = run(case, options.sampler, storage, options.fill + options.trials, folder)
    print(f"{kind}: {options.sampler} after {options.fill} trials, {total / options.trials * 1000:.1f} ms per trial:")
    timed = 0.0
    for part, seconds in clockwork.seconds.items():
        # the gate is taught all earlier trials when a run begins
        shown = seconds[-options.trials :]
        if shown:
            timed += sum(shown)
            print(f"  {part:16} median {statistics.median(shown) * 1000:7.2f} ms, {sum(shown) / options.trials * 1000:7.2f} ms of a trial")
    print(f"  {'all else':16} {'':18} {(total - timed) / options.trials * 1000:7.2f} ms of a trial")


def main() -> None:
    """Times both kinds of storage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--space", type=Path, default=CASE, help="a case, as for benchmarks.sample_efficiency")
    parser.add_argument("--sampler", default="ehvi")
    parser.add_argument("--fill", type=int, default=1000, help="trials before those that are timed (1000)")
    parser.add_argument("--trials", type=int, default=30, help="trials that are timed (30)")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    case = read_case(options.space)
    with tempfile.TemporaryDirectory(prefix="tuner-overhead-") as name:
        folder = Path(name)
        report(case, options, "memory", optuna.storages.InMemoryStorage(), folder)
        report(case, options, "SQLite", open_storage(f"sqlite:///{folder / 'tuner.db'}"), folder)


if __name__ == "__main__":
    main()
