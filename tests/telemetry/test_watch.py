from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tuner.server_facts import ServerMetrics
from tuner.telemetry import watch
from tuner.telemetry.watch import Watch


class Server:
    """Gives one look after the other, then the last again; `seen` is set when the `wanted`-th was taken."""

    def __init__(self, *looks: ServerMetrics | None, wanted: int = 0) -> None:
        self.looks = list(looks)
        self.taken = 0
        self.wanted = wanted
        self.seen = threading.Event()

    def __call__(self) -> ServerMetrics | None:
        look = self.looks[min(self.taken, len(self.looks) - 1)]
        self.taken += 1
        if self.taken >= self.wanted:
            self.seen.set()
        return look


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", 0.001)


def watched(look: Callable[[], ServerMetrics | None], load: Callable[[], object] = lambda: None) -> dict[str, float]:
    with Watch(look) as watching:
        load()
    return watching.summary


def test_gauges_are_the_highest_seen_and_counters_the_levels_own() -> None:
    server = Server(
        ServerMetrics(running=0, queued=0, kv_usage=0.0, preemptions=3, prompt_tokens=100, cached_tokens=50),
        ServerMetrics(running=16, queued=7, kv_usage=0.9, preemptions=4, prompt_tokens=150, cached_tokens=60),
        ServerMetrics(running=2, queued=0, kv_usage=0.2, preemptions=5, prompt_tokens=300, cached_tokens=100),
        wanted=3,
    )
    assert watched(server, lambda: server.seen.wait(30)) == {
        "running_max": 16,
        "queued_max": 7,
        "kv_usage_max": 0.9,
        "preemptions": 2,
        "prompt_tokens": 200,
        "cached_tokens": 50,
        "cache_hit_rate": 0.25,
    }


def test_a_rate_that_the_server_reckons_itself_is_kept() -> None:
    assert watched(Server(ServerMetrics(), ServerMetrics(cache_hit_rate=0.75))) == {"cache_hit_rate": 0.75}


def test_a_server_without_metrics_is_asked_once() -> None:
    server = Server(None)
    assert watched(server) == {}
    assert server.taken == 1


def test_looks_that_fail_on_the_way_are_left_out() -> None:
    server = Server(ServerMetrics(running=1, preemptions=1), None, ServerMetrics(running=4, preemptions=2), wanted=3)
    assert watched(server, lambda: server.seen.wait(30)) == {"running_max": 4, "preemptions": 1}


def test_an_error_under_load_passes_and_ends_the_watching() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        watched(Server(ServerMetrics(running=1)), fail)
    assert threading.active_count() == before


def fail() -> None:
    raise KeyboardInterrupt
