"""What pruners save and lose, as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.efficiency.statistics import Difference, difference
from benchmarks.pruners.play import Trial, share_at

Studies = Mapping[str, Sequence[Sequence[Trial]]]
"""Searches by pruner, each with one for every seed; `none` is the first."""

HEAD = (
    "sampler, pruner",
    "trials",
    "stopped",
    "load time saved",
    "GPU time saved",
    "front members: deployed",
    "lost",
    "share of the front, half the cost",
    "more than none",
    "whole cost",
    "more than none",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One pruner under one sampler, over all seeds.

    Attributes:
        trials: Deployments, mean over the seeds.
        stopped: Share of those that were stopped.
        load_saved: Share of the seconds of warm-up and load that were not needed.
        gpu_saved: The same of all GPU time, deployments and failures among it.
        deployed: Members of the true feasible front that were deployed.
        lost: Those of them that were stopped.
        shares: Of the true front's hypervolume, by half and by all of the GPU time that the same search spends without pruning.
        differences: To those without pruning, paired by seed.
    """

    trials: float
    stopped: float
    load_saved: float
    gpu_saved: float
    deployed: int
    lost: int
    shares: tuple[float, float]
    differences: tuple[Difference, Difference]


def line(studies: Studies, pruner: str, members: frozenset[int]) -> Line:
    """Sums up one pruner."""
    some, plain = studies[pruner], next(iter(studies.values()))
    trials = [trial for study in some for trial in study]
    costs = [sum(trial.gpu_hours for trial in study) for study in plain]
    on_front = [trial for trial in trials if trial.row in members and trial.outcome in ("measured", "pruned")]
    mine = [[share_at(study, part * cost) for study, cost in zip(some, costs, strict=True)] for part in (0.5, 1.0)]
    theirs = [[share_at(study, part * cost) for study, cost in zip(plain, costs, strict=True)] for part in (0.5, 1.0)]
    half, whole = (difference(a, b) for a, b in zip(mine, theirs, strict=True))
    return Line(
        trials=len(trials) / len(some),
        stopped=sum(trial.outcome == "pruned" for trial in trials) / len(trials),
        load_saved=_saved([(trial.load_s, trial.full_s) for trial in trials]),
        gpu_saved=_saved([(trial.gpu_hours, trial.full_gpu_hours) for trial in trials]),
        deployed=len(on_front),
        lost=sum(trial.outcome == "pruned" for trial in on_front),
        shares=(sum(mine[0]) / len(some), sum(mine[1]) / len(some)),
        differences=(half, whole),
    )


def markdown(lines: Mapping[str, Line]) -> str:
    """A table with a row for each line, by its name."""
    rows = [HEAD, ("---",) + ("---:",) * (len(HEAD) - 1)]
    for name, one in lines.items():
        found = [cell for share, gap in zip(one.shares, one.differences, strict=True) for cell in (f"{share:.1%}", _points(gap))]
        saved = (f"{one.stopped:.0%}", f"{one.load_saved:.1%}", f"{one.gpu_saved:.1%}")
        rows.append((name, f"{one.trials:.0f}", *saved, str(one.deployed), str(one.lost), *found))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _saved(pairs: Sequence[tuple[float, float]]) -> float:
    return max(0.0, 1 - sum(charged for charged, _ in pairs) / sum(full for _, full in pairs))


def _points(gap: Difference) -> str:
    mean, low, high = (100 * value for value in (gap.estimate.mean, gap.estimate.low, gap.estimate.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if low or high else "0"
