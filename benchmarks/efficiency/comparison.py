"""All arms at all seeds, over as many processes as one likes."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmarks.efficiency.case import Arm, Case
from benchmarks.efficiency.play import Search, checked_engine, search
from benchmarks.efficiency.statistics import Difference, Summary, counts_up_to, difference, share_after, summarise
from benchmarks.efficiency.truth import Truth, truth_of
from tuner.errors import ConfigError


@dataclass(frozen=True)
class Comparison:
    """What was found out.

    Attributes:
        case: What was searched.
        truth: What there was to be found.
        labels: Of the objectives, for people.
        trials: Deployments of each search.
        searches: By arm, in the order of the seeds.
    """

    case: Case
    truth: Truth
    labels: Sequence[str]
    trials: int
    searches: Mapping[str, Sequence[Search]]

    @property
    def counts(self) -> list[int]:
        """Deployments after which the share is told."""
        return counts_up_to(self.trials)

    def summaries(self) -> list[Summary]:
        """One for each arm."""
        return [summarise(arm, searches, self.counts) for arm, searches in self.searches.items()]

    def differences(self, count: int) -> dict[str, Difference]:
        """How much more of the front each other arm has after so many deployments than the first."""
        first, *others = self.searches
        shares = {arm: [share_after(one, count) for one in searches] for arm, searches in self.searches.items()}
        return {arm: difference(shares[arm], shares[first]) for arm in others}


def compare(
    case: Case,
    arms: Sequence[Arm],
    trials: int,
    seeds: int,
    jobs: int = 1,
    reference: Sequence[float] | None = None,
    on_search: Callable[[Search, int], None] = lambda search, done: None,
) -> Comparison:
    """Runs every arm at every seed.

    Args:
        case: What is searched.
        arms: Who searches; differences are to the first.
        trials: Deployments of each search, the default's among them.
        seeds: Seeds 0, 1, ...
        jobs: Processes.
        reference: See `truth_of`.
        on_search: Told every search that has ended, and how many have.

    Raises:
        ConfigError: something in the case or an arm is wrong, told before the first search.
    """
    if len({arm.label for arm in arms}) < len(arms):
        raise ConfigError("--samplers: an arm stands there twice; remove one")
    for arm in arms:
        settings = case.settings(arm, trials, 0, Path())
    truth = truth_of(settings, checked_engine(settings), reference)
    found: dict[tuple[str, int], Search] = {}
    for done, one in enumerate(_searches(case, arms, trials, seeds, jobs, truth), 1):
        found[one.arm, one.seed] = one
        on_search(one, done)
    labels = [f"{objective.label(settings.workload.levels)} ({objective.direction})" for objective in settings.objectives]
    return Comparison(case, truth, labels, trials, {arm.label: [found[arm.label, seed] for seed in range(seeds)] for arm in arms})


def _searches(case: Case, arms: Sequence[Arm], trials: int, seeds: int, jobs: int, truth: Truth) -> Iterator[Search]:
    run = functools.partial(search, case, trials=trials, truth=truth)
    tasks: Iterable[tuple[Arm, int]] = [(arm, seed) for seed in range(seeds) for arm in arms]
    if jobs == 1:
        yield from (run(arm, seed=seed) for arm, seed in tasks)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that each use all cores stand in each other's way
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(run, arm, seed=seed) for arm, seed in tasks]
        try:
            yield from (future.result() for future in as_completed(running))
        finally:
            pool.shutdown(cancel_futures=True)
