from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import measurement, settings, timing
from tuner.settings import Settings
from tuner.stopping import Spent, gpu_hours, reason_to_stop, since_improvement

SOME = Spent(trials=14, wall_s=1800.0, gpu_hours=2.1, since_improvement=3, reached=None)
SGLANG: dict[str, Any] = {
    "engine": {"name": "sglang", "model": "m", "executable": ["sglang"]},
    "space": {"max_running_requests": {"type": "int", "low": 1, "high": 8}},
}


@dataclass
class Trial:
    number: int = 0
    values: Sequence[float] | None = None
    user_attrs: Mapping[str, Any] = field(default_factory=dict)


def stopping(folder: Path, **stop: Any) -> Settings:
    return settings(folder, stop=stop, **(SGLANG if "gpu_hours" in stop else {}))


@pytest.mark.parametrize(
    ("stop", "changes", "reason"),
    [
        ({}, {}, None),
        ({"gpu_hours": 2.0}, {}, "stop.gpu_hours=2 is reached: 2.1 GPU-hours in 14 trials"),
        ({"gpu_hours": 2.2}, {}, None),
        ({"wall_time_h": 0.5}, {}, "stop.wall_time_h=0.5 is reached: 0.5 hours, 14 trials in the study"),
        ({"wall_time_h": 0.51}, {}, None),
        ({"no_improvement": 3}, {}, "stop.no_improvement=3 is reached: no better front in the last 3 trials"),
        ({"no_improvement": 4}, {}, None),
        ({"target": [{"metric": "ttft_p99_s", "max": 0.5}]}, {}, None),
        (
            {"target": [{"metric": "ttft_p99_s", "max": 0.5}, {"metric": "output_tokens_per_s", "at": "best", "min": 100}]},
            {"reached": 7},
            "stop.target is reached: trial 7 meets ttft_p99_s@4<=0.5 and output_tokens_per_s@best>=100",
        ),
    ],
)
def test_reasons(stop: dict[str, Any], changes: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    assert reason_to_stop(stopping(tmp_path, **stop), replace(SOME, **changes)) == reason


def test_gpu_hours_are_those_in_which_gpus_were_held() -> None:
    durations = {"queue": 9999.0, "deploy": 100.0, "warm-up": 20.0, "load": 60.0}
    trials = [
        Trial(user_attrs={"gpus": 4, "durations_s": durations}),
        Trial(user_attrs={"gpus": 2, "durations_s": {"deploy": 540.0}}),
        Trial(user_attrs={"outcome": "refused"}),
        Trial(user_attrs={"gpus": 0, "durations_s": durations}),
    ]
    assert gpu_hours(trials) == pytest.approx(0.2 + 0.3)


class TestSinceImprovement:
    def test_nothing_feasible_is_no_front_that_could_improve(self) -> None:
        assert since_improvement([], [1], 0.1) == 0
        assert since_improvement([None, None], [1], 0.1) == 0

    def test_what_is_not_feasible_counts_as_a_trial(self) -> None:
        assert since_improvement([None, [1.0], None, None], [1], 0.1) == 2

    @pytest.mark.parametrize(("value", "since"), [(109.0, 1), (115.0, 0), (90.0, 1)])
    def test_noise_is_no_improvement(self, value: float, since: int) -> None:
        assert since_improvement([[100.0], [value]], [1], 0.1) == since

    @pytest.mark.parametrize(("value", "since"), [(0.95, 1), (0.8, 0), (1.2, 1)])
    def test_less_is_better_where_it_is_minimised(self, value: float, since: int) -> None:
        assert since_improvement([[1.0], [value]], [-1], 0.1) == since

    def test_another_trade_off_is_an_improvement(self) -> None:
        assert since_improvement([[1.0, 100.0], [2.0, 150.0]], [-1, 1], 0.1) == 0
        assert since_improvement([[1.0, 100.0], [2.0, 90.0]], [-1, 1], 0.1) == 1
        assert since_improvement([[1.0, 100.0], [2.0, 200.0], [1.5, 195.0]], [-1, 1], 0.1) == 0
        assert since_improvement([[1.0, 100.0], [2.0, 200.0], [1.95, 195.0]], [-1, 1], 0.1) == 1

    def test_small_steps_add_up(self) -> None:
        steps = [[100.0 * 1.04**step] for step in range(8)]
        assert since_improvement(steps[:3], [1], 0.1) == 2
        assert since_improvement(steps[:4], [1], 0.1) == 0

    def test_a_goodput_of_zero(self) -> None:
        assert since_improvement([[0.0], [0.0], [1.0], [1.0]], [1], 0.1) == 1


class TestSpent:
    @staticmethod
    def trial(number: int, latency_s: float, **attributes: Any) -> Trial:
        shown = {str(level): measurement(level, latency=timing(latency_s)).to_dict() for level in (1, 4)}
        return Trial(number, [latency_s, 150.0], {"feasible": True, "gpus": 1, "measurements": shown} | attributes)

    def test_adds_up(self, tmp_path: Path) -> None:
        trials = [self.trial(0, 1.0), self.trial(1, 0.5, durations_s={"load": 360.0}), self.trial(2, 0.49)]
        failed = Trial(3, None, {"gpus": 1, "durations_s": {"deploy": 360.0}})
        assert Spent.of(stopping(tmp_path), trials, [*trials, failed], 0.03, 5.0) == Spent(3, 5.0, pytest.approx(0.2), 1, None)

    def test_the_first_feasible_trial_that_meets_all_of_the_target(self, tmp_path: Path) -> None:
        target = [{"metric": "latency_p99_s", "max": 0.5}, {"metric": "output_tokens_per_s", "at": "min", "min": 100}]
        trials = [self.trial(0, 1.0), self.trial(1, 0.4, feasible=False), self.trial(2, 0.5), self.trial(3, 0.4), Trial(4)]
        assert Spent.of(stopping(tmp_path, target=target), trials, trials, 0.03, 0.0).reached == 2
        assert Spent.of(stopping(tmp_path, target=target), trials[:2], trials, 0.03, 0.0).reached is None
