"""Part of the doubles of SGLang and vLLM: Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scheduler import Histogram


@dataclass(frozen=True, slots=True)
class Metric:
    """A gauge, counter or histogram; a counter is named without the `_total` that the format adds. `labels`: its own."""

    name: str
    kind: str
    help: str
    value: float | Histogram
    labels: Mapping[str, str] = field(default_factory=dict)


def render(metrics: Iterable[Metric], common: Mapping[str, str]) -> str:
    """The page of `/metrics`; `common` labels are on every metric."""
    lines: list[str] = []
    for metric in metrics:
        name = metric.name + ("_total" if metric.kind == "counter" else "")
        labels = {**common, **metric.labels}
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        if isinstance(metric.value, Histogram):
            for bound, count in zip(Histogram.BOUNDS, metric.value.counts, strict=True):
                lines.append(f"{name}_bucket{_labels(labels, le='+Inf' if bound == float('inf') else str(bound))} {float(count)}")
            lines.append(f"{name}_count{_labels(labels)} {float(metric.value.counts[-1])}")
            lines.append(f"{name}_sum{_labels(labels)} {metric.value.sum}")
        else:
            lines.append(f"{name}{_labels(labels)} {float(metric.value)}")
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str], **more: str) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in {**labels, **more}.items()) + "}"
