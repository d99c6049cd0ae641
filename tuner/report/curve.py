"""Latency-throughput curves: one trial as a picture, the whole study as an interactive plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.benchmark.measurement import Measurement

if TYPE_CHECKING:
    import plotly.graph_objects as go

Curve = Mapping[int, Measurement]
"""Measurements by load level."""


def points(curve: Curve) -> tuple[list[float], list[float], list[str]]:
    """Output tokens per second, p99 latency in seconds, and the level as a label, in the order of the levels."""
    ordered = [curve[level] for level in sorted(curve)]
    return [m.output_tokens_per_s for m in ordered], [m.latency.p99 for m in ordered], [str(m.concurrency) for m in ordered]


def draw(curve: Curve, default: Curve | None, title: str, path: Path) -> None:
    """Draws one trial's curve as a PNG, with the default's behind it for comparison."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for measured, label, color in ((default, "engine defaults", "0.6"), (curve, "this trial", "tab:blue")):
        if measured:
            throughput, latency, levels = points(measured)
            axes.plot(throughput, latency, marker="o", color=color, label=label)
            for x, y, level in zip(throughput, latency, levels, strict=True):
                axes.annotate(level, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8, color=color)
    axes.set(xlabel="output tokens/s", ylabel="p99 end-to-end latency (s)", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def plot_study(curves: Mapping[str, Curve], highlighted: set[str]) -> go.Figure:
    """All curves of a study; those named in `highlighted` stand out."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, curve in sorted(curves.items(), key=lambda item: item[0] in highlighted):
        throughput, latency, levels = points(curve)
        figure.add_trace(
            go.Scatter(
                x=throughput,
                y=latency,
                text=[f"{level} users" for level in levels],
                name=name,
                mode="lines+markers",
                opacity=1.0 if name in highlighted else 0.25,
            )
        )
    figure.update_layout(
        title="Latency against throughput",
        xaxis_title="output tokens/s",
        yaxis_title="p99 end-to-end latency (s)",
        template="plotly_white",
    )
    return figure
