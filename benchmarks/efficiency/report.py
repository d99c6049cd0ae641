"""A comparison for people and for other programs: a Markdown table, a picture, a CSV."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.efficiency.comparison import Comparison
from benchmarks.efficiency.play import Search
from benchmarks.efficiency.statistics import CONFIDENCE, TARGETS, Estimate, share_after


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes all three into a folder, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / comparison.case.name
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("md", "png", "csv")]
    paths[0].write_text(markdown(comparison))
    draw(comparison, paths[1])
    _raw(comparison, paths[2])
    return paths


def markdown(comparison: Comparison) -> str:
    """The tables, with a line on what stands in them."""
    truth, summaries, counts = comparison.truth, comparison.summaries(), comparison.counts
    seeds = len(next(iter(comparison.searches.values())))
    signs = [1 if "(minimize)" in label else -1 for label in comparison.labels]
    reference = ", ".join(f"{sign * value:.5g}" for sign, value in zip(signs, truth.reference, strict=True))
    lines = [
        f"## {comparison.case.name}",
        "",
        f"{', '.join(comparison.labels)}; {len(truth.vectors)} configurations, {truth.feasible.sum()} feasible, {len(truth.front)} on the "
        f"front, reference {reference}. {comparison.trials} deployments, {seeds} seeds. Shares are of the true front's hypervolume, "
        f"with {CONFIDENCE:.0%} bootstrap intervals over the seeds.",
        "",
        _row("sampler", *(f"share after {count}" for count in counts), *(f"trials to {target:.0%} (reached)" for target in TARGETS)),
        _rule(1 + len(counts) + len(TARGETS)),
    ]
    for summary in summaries:
        reached = (f"{_number(summary.reached[target])} ({summary.reached_by[target]:.0%})" for target in TARGETS)
        lines.append(_row(summary.arm, *(_percent(summary.share[count]) for count in counts), *reached))
    to = f"GPU-hours to {TARGETS[0]:.0%}"
    lines += [
        "",
        _row("sampler", "infeasible: certain", "infeasible: uncertain", "duplicates", "refused", "GPU-hours", to, "ms per ask"),
        _rule(8),
    ]
    for summary in summaries:
        numbers = (summary.certain, summary.uncertain, summary.duplicates, summary.refused)
        hours = (f"{summary.gpu_hours.mean:.2f}", _number(summary.gpu_hours_to[TARGETS[0]]))
        lines.append(_row(summary.arm, *(f"{number:.1f}" for number in numbers), *hours, f"{summary.ask_s * 1000:.1f}"))
    first, *others = comparison.searches
    if others and seeds > 1:
        lines += ["", _row(f"less {first}", *(f"after {count}" for count in counts)), _rule(1 + len(counts))]
        differences = [comparison.differences(count) for count in counts]
        for arm in others:
            cells = (f"{_percent(each[arm].estimate, signed=True)}, p={each[arm].p:.2g}" for each in differences)
            lines.append(_row(arm, *cells))
        lines += ["", "Differences in percentage points, paired by seed; p of the Wilcoxon signed-rank test."]
    return "\n".join(lines) + "\n"


def draw(comparison: Comparison, path: Path) -> None:
    """Draws the mean share of each arm by deployments and by charged GPU-hours, with the intervals of the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    by_trials, by_hours = figure.subplots(1, 2, sharey=True)
    trials = np.arange(1, comparison.trials + 1)
    longest = min(max(_hours(one)[-1] for one in searches) for searches in comparison.searches.values())
    hours = np.linspace(0, longest, 200)
    for arm, searches in comparison.searches.items():
        shares = np.array([[share_after(one, count) for count in trials] for one in searches])
        _curve(by_trials, trials, shares, arm)
        _curve(by_hours, hours, np.array([_share_at(one, hours) for one in searches]), arm)
    by_trials.set(xlabel="deployments", ylabel="share of the true front's hypervolume", ylim=(0, 1.02))
    by_hours.set(xlabel="charged GPU-hours")
    figure.suptitle(f"{comparison.case.name}: {', '.join(comparison.labels)}", fontsize=10)
    for axes in (by_trials, by_hours):
        axes.grid(alpha=0.3)
    by_trials.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def _curve(axes: Any, x: Any, shares: Any, label: str) -> None:
    """The mean over the seeds, and its standard error twice to each side."""
    mean = shares.mean(axis=0)
    error = 2 * shares.std(axis=0, ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    (line,) = axes.step(x, mean, where="post", label=label)
    axes.fill_between(x, mean - error, mean + error, step="post", alpha=0.15, color=line.get_color())


def _hours(search: Search) -> list[float]:
    return [0.0, *(deployment.gpu_hours for deployment in search.deployments)]


def _share_at(search: Search, hours: Any) -> Any:
    shares = np.array([0.0, *(deployment.share for deployment in search.deployments)])
    return shares[np.searchsorted(_hours(search), hours, side="right") - 1]


def _raw(comparison: Comparison, path: Path) -> None:
    rows = [
        {"sampler": arm, "seed": one.seed, "deployment": count, **asdict(deployment)}
        for arm, searches in comparison.searches.items()
        for one in searches
        for count, deployment in enumerate(one.deployments, 1)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|---" * columns + "|"


def _percent(estimate: Estimate, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    mean, *interval = (format(100 * value, form) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean}{'' if signed else ' %'} [{', '.join(interval)}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "never"
