"""How often the verdict is right, and what it costs: races of configurations with known gains, decided by the product's own code.

    python -m benchmarks.verdict [--replays 200] [--noise 0.03] [--repeats 14] [--drift 0] [--end-to-end 1]

Each measurement scatters with `--noise`; the settings are the defaults of `confirm` and `noise`. `--end-to-end N` then searches each of the
tables in `benchmarks/landscapes/tables` N times and confirms what was found, and says what is true.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from benchmarks.efficiency.case import Case, read_arm, read_case
from benchmarks.efficiency.play import Silence, checked_engine
from tuner.confirm.race import Claim, Race, percent
from tuner.confirm.run import Confirmation
from tuner.confirm.statistics import PRIOR_DF, Variance
from tuner.confirm.verdict import Finding, verdict_of
from tuner.parties import create_backend, create_benchmark, create_gate
from tuner.replay.engine import Replay
from tuner.replay.pages import LastPages
from tuner.report.front import configuration
from tuner.report.verdict import finding, nearest
from tuner.runner import run_trials
from tuner.search_settings import ConfirmSettings
from tuner.study import Ledger
from tuner.trial import Rig

ASSUMED_NOISE = 0.03
TABLES = Path(__file__).parent / "landscapes" / "tables"
TRIALS = 30
"""Of the searches on tables."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Finalists with known gains.

    Attributes:
        name: In the table.
        gains: Finalists x objectives, relative gains over the defaults.
        claims: What is claimed: objective and arm.
    """

    name: str
    gains: Sequence[Sequence[float]]
    claims: Sequence[tuple[int, int]]


CASES = (
    Arms("A/A, two finalists", [[0, 0], [0, 0]], [(0, 1), (1, 2)]),
    Arms("A/A, one finalist", [[0, 0]], [(0, 1), (1, 1)]),
    Arms("A/A, one objective", [[0]], [(0, 1)]),
    Arms("5 % in one objective, one finalist", [[0.05, 0]], [(0, 1), (1, 1)]),
    Arms("5 % each in its own objective, two finalists", [[0.05, 0], [0, 0.05]], [(0, 1), (1, 2)]),
    Arms("5 %, one objective", [[0.05]], [(0, 1)]),
    Arms("10 % each in its own objective, two finalists", [[0.1, 0], [0, 0.1]], [(0, 1), (1, 2)]),
    Arms("20 % each at a cost of 10 %, two finalists", [[0.2, -0.1], [-0.1, 0.2]], [(0, 1), (1, 2)]),
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came out.

    Attributes:
        nothing: Share of replays with no significant difference in any objective.
        found: Share of the truly better claims that were found.
        wrong: Share of replays in which a claim without a gain was found.
        covered: Share of the intervals that hold the true gain.
        deployments: Mean number.
    """

    nothing: float
    found: float
    wrong: float
    covered: float
    deployments: float


def play(case: Arms, replays: int, noise: float, settings: ConfirmSettings, drift: float = 0.0) -> Tally:
    """Plays races.

    Args:
        case: See `Arms`.
        replays: How many, each with a seed of its own.
        noise: Standard deviation of the logarithm of a measurement.
        settings: Of the confirmation.
        drift: Change of the logarithm from one deployment to the next.
    """
    truth = np.log1p(np.array([[0.0] * len(case.gains[0]), *case.gains]))
    arms, objectives = truth.shape
    claims = tuple(Claim(*claim) for claim in case.claims)
    race = Race(claims, settings.repeats, settings.confidence, (Variance(ASSUMED_NOISE, PRIOR_DF),) * objectives)
    nothing = found = wrong = covered = deployments = 0
    for replay in range(replays):
        rng = np.random.default_rng(replay)
        values = np.empty((0, arms, objectives))
        used = 0
        while (standing := race.standing(values)).running:
            row = np.full((1, arms, objectives), np.nan)
            for arm in standing.running:
                row[0, arm] = truth[arm] + drift * used + noise * rng.normal(size=objectives)
                used += 1
            values = np.concatenate([values, row])
        deployments += used
        better = [standing.decided[i].ending == "better" for i in range(len(claims))]
        real = [truth[standing.decided[i].arm, claim.objective] > 0 for i, claim in enumerate(claims)]
        nothing += not any(better)
        found += sum(b and r for b, r in zip(better, real, strict=True))
        wrong += any(b and not r for b, r in zip(better, real, strict=True))
        for i, claim in enumerate(claims):
            decision = standing.decided[i]
            shown = race.gain(values[: decision.rounds], decision.arm, claim.objective)
            low, high = shown.interval(decision.level) if shown is not None else (-math.inf, math.inf)
            covered += low <= truth[decision.arm, claim.objective] <= high
    gains = sum(case.gains[arm - 1][objective] > 0 for objective, arm in case.claims)
    return Tally(
        nothing / replays,
        found / replays / gains if gains else math.nan,
        wrong / replays,
        covered / replays / len(claims),
        deployments / replays,
    )


class Quiet(Silence):
    """Takes notices too, and keeps them to itself."""

    def notice(self, line: str) -> None: ...


def end_to_end(case: Case, trials: int, seed: int) -> list[str]:
    """A search on a recorded table and its confirmation, in the product's own code from the study to the verdict.

    Returns:
        Lines on what was found and what is true.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = case.settings(read_arm("tpe"), trials, seed, Path(folder)).model_copy(update={"confirm": ConfirmSettings(drift_every=0)})
        engine = checked_engine(settings)
        backend = create_backend(settings, None, lambda line: None)
        ledger = Ledger(settings, optuna.storages.InMemoryStorage(), engine.defaults)
        gate = create_gate(settings, engine, backend, None)
        rig = Rig(gate, engine, backend, create_benchmark(settings, engine, backend), settings.workload)
        pages, progress = LastPages(ledger, Path(folder)), Quiet()
        run_trials(ledger, rig, progress, pages)
        begun = time.perf_counter()
        confirmation = Confirmation(ledger, engine.defaults)
        confirmation.run(rig, progress, pages)
        verdict = verdict_of(confirmation)
        own_s = time.perf_counter() - begun
        lines = [f"{case.name}, seed {seed}: {verdict.deployments} deployments, {own_s:.1f} s of tuner's own time"]
        if verdict.nearest is not None:
            lines += [f"  {line}" for line in nearest(ledger, verdict.nearest)]
        for found in verdict.findings:
            lines.append(f"  {finding(found, verdict)} True: {_truth(ledger, engine, found)}")
        return lines


def _truth(ledger: Ledger, engine: Replay, found: Finding) -> str:
    """The gain over the defaults without noise, as the table has it."""
    trials = {trial.number: trial for trial in ledger.finished}
    default, levels = ledger.default, ledger.settings.workload.levels
    if found.trial is None or default is None:
        return "nothing to compare"
    objective = next(each for each in ledger.settings.objectives if each.label(levels) == found.objective)
    level = objective.level(levels)
    assert level is not None
    values = []
    for trial in (trials[found.trial], default):
        gpus = trial.user_attrs["gpus"] if objective.per == "gpu" else 1
        values.append(engine.table.value(engine.row(configuration(trial)), objective.metric, level) / gpus)
    now, before = values
    return f"{percent((1 if objective.more else -1) * math.log(now / before), objective.more):+.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=ConfirmSettings().repeats)
    parser.add_argument("--end-to-end", type=int, default=0)
    arguments = parser.parse_args()
    settings = ConfirmSettings(repeats=arguments.repeats)
    print(f"{arguments.replays} replays, noise {arguments.noise:.1%}, drift {arguments.drift:.1%} a deployment,", end=" ")
    print(f"at most {settings.repeats} rounds, {settings.confidence:.0%} confidence\n")
    print("| case | no significant difference | true gains found | wrong claims | intervals that hold | deployments |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        tally = play(case, arguments.replays, arguments.noise, settings, arguments.drift)
        found = "" if math.isnan(tally.found) else f"{tally.found:.1%}"
        print(
            f"| {case.name} | {tally.nothing:.1%} | {found} | {tally.wrong:.1%} | {tally.covered:.1%} | {tally.deployments:.1f} |",
            flush=True,
        )
    if arguments.end_to_end:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for space in sorted(TABLES.glob("*.yaml")):
            for seed in range(arguments.end_to_end):
                print("\n".join(end_to_end(read_case(space, noise=arguments.noise), TRIALS, seed)), flush=True)


if __name__ == "__main__":
    main()
