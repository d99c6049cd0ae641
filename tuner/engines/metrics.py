"""A server's Prometheus page as `ServerMetrics`: what is summed over replicas, what is averaged, what must not be counted twice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tuner.launch import Value
from tuner.server_facts import ServerMetrics

# Processes that serve the same requests together and each report them. Replicas (`dp_rank`, `engine`) serve requests of their own.
_SAME_REQUESTS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})

_SHARES = ("kv_usage", "cache_hit_rate")


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


def samples(page: str) -> dict[str, list[Sample]]:
    """The samples of a page by name, of a counter without its `_total`; empty where the page is none."""
    found: dict[str, list[Sample]] = defaultdict(list)
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                # SGLang gives the sum, and beside it the requests of each priority (metrics_collector.py, _log_gauge_queue_count).
                if math.isfinite(sample.value) and not (family.type == "gauge" and sample.labels.get("priority")):
                    found[sample.name.removesuffix("_total")].append(Sample(sample.labels, sample.value))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):  # the parser checks little; a stranger may answer anything
        return {}
    return dict(found)


def server_metrics(page: str, names: Mapping[str, str]) -> ServerMetrics | None:
    """What a page tells.

    Args:
        page: In Prometheus' text format.
        names: The engine's metric for fields of `ServerMetrics`; of a counter without `_total`.

    Returns:
        None where it holds none of them.
    """
    found = samples(page)
    fields = {field: _over_replicas(found[name], field in _SHARES) for field, name in names.items() if name in found}
    return ServerMetrics(**fields) if fields else None


def _over_replicas(values: list[Sample], share: bool) -> float:
    replicas: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in values:
        replica = frozenset((name, label) for name, label in labels.items() if name not in _SAME_REQUESTS)
        replicas[replica] = max(value, replicas.get(replica, value))
    return sum(replicas.values()) / (len(replicas) if share else 1)


def info(page: str, name: str, labels: Mapping[str, str]) -> dict[str, Value]:
    """What an information metric says in its labels, as values.

    Args:
        page: In Prometheus' text format.
        name: The metric, such as `vllm:cache_config_info`.
        labels: The parameter for each label that is wanted.
    """
    found = samples(page).get(name)
    if not found:
        return {}
    said = found[0].labels
    return {parameter: _value(said[label]) for label, parameter in labels.items() if said.get(label, "None") != "None"}


def _value(text: str) -> Value:
    """What Python's `str` was made of."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
