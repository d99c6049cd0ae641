from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import pytest

from tuner.benchmark.window import Window, departures, slow_start


def completions(users: int, slots: int, count: int, service_s: Callable[[], float]) -> list[float]:
    """Completion times of a closed loop of `users` over a server that works on `slots` requests at a time, first come, first served."""
    free = [0.0] * slots
    heapq.heapify(free)
    arrivals = [0.0] * users
    finished = []
    for _ in range(count + users):
        start = max(heapq.heappop(arrivals), heapq.heappop(free))
        end = start + service_s()
        heapq.heappush(free, end)
        heapq.heappush(arrivals, end)
        finished.append(end)
    return sorted(finished)[:count]


def rate(finished_s: Sequence[float], concurrency: int) -> float:
    window = departures(finished_s, concurrency)
    return (window.end - window.first) / window.seconds


@pytest.mark.parametrize("count", [16, 17, 31, 32, 33, 47, 64])
@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
def test_queues_and_waves_show_the_true_rate(slots: int, count: int) -> None:
    times = completions(16, slots, count, lambda: 0.5)
    assert rate(times, 16) == pytest.approx(slots / 0.5)


def test_waves_with_a_blurred_edge() -> None:
    source = random.Random(1)
    times = completions(16, 16, 64, lambda: source.uniform(0.95, 1.05))
    assert rate(times, 16) == pytest.approx(16, rel=0.05)


def test_clusters_that_are_no_part_of_a_wave_leave_a_bounded_error() -> None:
    times = completions(16, 6, 64, lambda: 0.5)
    assert rate(times, 16) == pytest.approx(12, rel=6 / (64 - 16))


def test_requests_of_very_different_length() -> None:
    source = random.Random(2)
    times = completions(8, 8, 800, lambda: source.expovariate(1.0))
    assert rate(times, 8) == pytest.approx(8, rel=0.1)


def test_the_ramp_does_not_count() -> None:
    ramp = [5.0, 5.1, 5.2, 5.3]
    assert departures([*ramp, 6.3, 6.3, 6.3, 6.3], 4) == Window(4, 8, 1.0)


def test_less_than_two_waves_count_from_the_start() -> None:
    assert departures([1.0, 1.0, 1.0], 4) == Window(0, 3, 1.0)
    assert departures([1.0, 1.0, 1.0, 1.0, 2.0], 4) == Window(0, 4, 1.0)
    assert departures([0.5], 1) == Window(0, 1, 0.5)


class TestSlowStart:
    @staticmethod
    def waves(source: random.Random, first: float, waves: int, users: int, sigma: float = 0.05) -> list[list[float]]:
        return [[source.lognormvariate(0.0, sigma) * (first if wave == 0 else 1.0) for _ in range(users)] for wave in range(waves)]

    @pytest.mark.parametrize(("waves", "users"), [(3, 4), (4, 16), (32, 1), (4, 64)])
    def test_is_seen(self, waves: int, users: int) -> None:
        source = random.Random(1)
        assert all(slow_start(self.waves(source, 1.5, waves, users)) for _ in range(100))

    @pytest.mark.parametrize(("sigma", "share"), [(0.02, 0.0), (0.3, 0.03), (1.0, 0.1)])
    @pytest.mark.parametrize(("waves", "users"), [(3, 4), (4, 16), (32, 1), (4, 64)])
    def test_is_not_seen_where_there_is_none(self, waves: int, users: int, sigma: float, share: float) -> None:
        source = random.Random(2)
        assert sum(slow_start(self.waves(source, 1.0, waves, users, sigma)) for _ in range(400)) <= 400 * share

    def test_waves_that_differ_as_a_whole_are_noise(self) -> None:
        assert not slow_start([[1.5] * 8, [1.0] * 8, [1.4] * 8, [1.1] * 8])
        assert slow_start([[2.5] * 8, [1.0] * 8, [1.2] * 8, [1.1] * 8])

    def test_less_than_a_tenth_is_not_worth_it(self) -> None:
        assert not slow_start([[1.09] * 8, [1.0] * 8, [1.0] * 8])
        assert slow_start([[1.11] * 8, [1.0] * 8, [1.0] * 8])

    def test_a_faster_first_wave_stays(self) -> None:
        assert not slow_start([[0.1] * 8, [1.0] * 8, [1.0] * 8])

    def test_two_waves_tell_nothing(self) -> None:
        assert not slow_start([[9.0] * 8, [1.0] * 8])
        assert not slow_start([])
