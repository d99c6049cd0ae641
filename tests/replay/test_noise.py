from __future__ import annotations

import math
import statistics

import pytest

from tuner.engine_settings import NoiseSettings
from tuner.replay.noise import Noise

PINNED = 1.071579574579739
"""Drawn once."""


def noise(study: str = "s", seed: int = 0, **settings: object) -> Noise:
    return Noise(NoiseSettings.model_validate({"run": 0.0, **settings}), seed, study)


def test_it_is_the_same_every_time() -> None:
    one, again = noise(run=0.05), noise(run=0.05)
    assert one.factor(3, 16, "ttft_p99_s", 0.0) == again.factor(3, 16, "ttft_p99_s", 5.0)
    # of every version of tuner: a study may be resumed by the next one
    assert one.factor(3, 16, "ttft_p99_s", 0.0) == pytest.approx(PINNED, rel=1e-9)


@pytest.mark.parametrize("other", [(4, 16, "ttft_p99_s"), (3, 64, "ttft_p99_s"), (3, 16, "ttft_p90_s")])
def test_it_differs_by_trial_level_and_metric(other: tuple[int, int, str]) -> None:
    assert noise(run=0.05).factor(3, 16, "ttft_p99_s", 0.0) != noise(run=0.05).factor(*other, 0.0)


def test_it_differs_by_study_and_seed() -> None:
    factors = {one.factor(3, 16, "ttft_p99_s", 0.0) for one in (noise(run=0.05), noise("t", run=0.05), noise(seed=1, run=0.05))}
    assert len(factors) == 3


def test_run_noise_has_its_standard_deviation() -> None:
    logs = [math.log(noise(run=0.05).factor(trial, 16, "ttft_p99_s", 0.0)) for trial in range(4000)]
    assert statistics.mean(logs) == pytest.approx(0.0, abs=0.004)
    assert statistics.stdev(logs) == pytest.approx(0.05, rel=0.05)


def test_run_noise_by_metric() -> None:
    some = noise(run={"ttft_p99_s": 0.1})
    assert some.factor(0, 4, "ttft_p99_s", 0.0) != 1.0
    assert some.factor(0, 4, "tpot_p99_s", 0.0) == 1.0


def test_a_slow_deployment_is_slow_at_all_levels_and_in_all_metrics() -> None:
    some = noise(deployment=0.1)
    times = {some.factor(7, level, metric, 0.0) for level in (4, 64) for metric in ("ttft_p99_s", "latency_mean_s")}
    assert len(times) == 1
    assert some.factor(7, 4, "output_tokens_per_s", 0.0) == pytest.approx(1 / times.pop())
    logs = [math.log(some.factor(trial, 4, "ttft_p99_s", 0.0)) for trial in range(4000)]
    assert statistics.stdev(logs) == pytest.approx(0.1, rel=0.05)


def test_drift_grows_with_virtual_time() -> None:
    some = noise(drift=0.02)
    assert some.factor(0, 4, "ttft_p99_s", 0.0) == 1.0
    assert some.factor(0, 4, "ttft_p99_s", 2.0) == pytest.approx(1.02**2)
    assert some.factor(0, 4, "requests_per_s", 2.0) == pytest.approx(1.02**-2)


def test_failures_are_as_frequent_as_asked() -> None:
    assert all(noise().fails(trial) is None for trial in range(100))
    shares = [share for trial in range(4000) if (share := noise(failures=0.1).fails(trial)) is not None]
    assert len(shares) == pytest.approx(400, rel=0.15)
    assert min(shares) >= 0
    assert max(shares) <= 1
