"""What a study wants, as aims, and what trials and priors say of them, as logarithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.doubles import measurement, settings, timing
from tests.search.servers import seen
from tuner.launch import Configuration
from tuner.prior.base import Prior
from tuner.search.proposal import Aim
from tuner.search.targets import Targets

WORKLOAD: Mapping[str, Any] = {"scenario": "D(64,32)", "levels": [1, 4, 16], "warmup_requests": 0}


def want(metric: str, at: Any, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "at": at, **more}


def targets(folder: Path, objectives: list[Any], constraints: list[Any] | None = None, gpus: int = 1, **changes: Any) -> Targets:
    gpu_engine = {"name": "sglang", "model": "some/model", "executable": ["serve"]}
    made = settings(
        folder, **{"workload": WORKLOAD, "engine": gpu_engine, "objectives": objectives, "constraints": constraints or [], **changes}
    )
    return Targets(made, lambda configuration: gpus)


FAST = want("latency_p99_s", "min", direction="minimize")
MUCH = want("output_tokens_per_s", 16, direction="maximize")


def test_aims_are_metrics_at_levels_with_a_direction_or_a_bound(tmp_path: Path) -> None:
    bounds = [want("ttft_p99_s", 4, max=0.5), want("requests_per_s", "max", min=2.0)]
    assert targets(tmp_path, [FAST, MUCH], bounds).aims == [
        Aim("latency_p99_s", 0, 1),
        Aim("output_tokens_per_s", 2, -1),
        Aim("ttft_p99_s", 1, 0, math.log(0.5), True),
        Aim("requests_per_s", 2, 0, math.log(2.0), False),
    ]


def test_an_objective_may_be_bounded_and_a_metric_more_than_once(tmp_path: Path) -> None:
    bounds = [want("output_tokens_per_s", 16, min=10.0), want("latency_p99_s", 4, max=3.0), want("latency_p99_s", 4, min=0.1)]
    assert targets(tmp_path, [FAST, MUCH], bounds).aims == [
        Aim("latency_p99_s", 0, 1),
        Aim("output_tokens_per_s", 2, -1, math.log(10.0), False),
        Aim("latency_p99_s", 1, 0, math.log(3.0), True),
        Aim("latency_p99_s", 1, 0, math.log(0.1), False),
    ]


def test_levels_stand_by_their_logarithm(tmp_path: Path) -> None:
    positions = targets(tmp_path, [FAST, want("output_tokens_per_s", "best", direction="maximize")]).positions
    assert positions["latency_p99_s"] == pytest.approx([0.0, 0.5, 1.0])
    assert positions["output_tokens_per_s@best"].tolist() == [0.0], "what has no level of its own is modelled by its value alone"


def test_a_single_level_has_a_position(tmp_path: Path) -> None:
    made = targets(tmp_path, [want("latency_p99_s", 4, direction="minimize")], workload={**WORKLOAD, "levels": [4]})
    assert made.positions["latency_p99_s"].tolist() == [0.0]


def test_logs_of_what_was_measured_and_nothing_of_the_rest(tmp_path: Path) -> None:
    curve = {1: measurement(1, latency=timing(0.2), spread={"latency_p99_s": 0.07}), 16: measurement(16, latency=timing(3.0))}
    logs, spread = targets(tmp_path, [FAST, MUCH]).logs([seen(0, curve), seen(1, {}, "infeasible")])
    assert logs.keys() == spread.keys() == {"latency_p99_s", "output_tokens_per_s"}
    assert logs["latency_p99_s"][0] == pytest.approx([math.log(0.2), np.nan, math.log(3.0)], nan_ok=True)
    assert np.isnan(logs["latency_p99_s"][1]).all()
    assert spread["latency_p99_s"].tolist() == [[0.07, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_flows_per_gpu_and_per_dollar(tmp_path: Path) -> None:
    wants = [want("output_tokens_per_s", 1, direction="maximize", per=per) for per in ("gpu", "dollar")]
    made = targets(tmp_path, wants, cost={"gpu_hour": 2.5})
    logs, _ = made.logs([seen(0, {1: measurement(1, output_tokens_per_s=100.0)}, gpus=4)])
    assert np.exp(logs["output_tokens_per_s/gpu"][0, 0]) == pytest.approx(25.0)
    assert np.exp(logs["output_tokens_per_s/dollar"][0, 0]) == pytest.approx(100.0 * 3600 / (4 * 2.5))


def test_no_errors_at_all_have_a_logarithm(tmp_path: Path) -> None:
    made = targets(tmp_path, [FAST], [want("error_rate", 1, max=0.01)])
    logs, _ = made.logs([seen(0, {1: measurement(1)}), seen(1, {1: measurement(1, completed=98, errors={"503": 2})})])
    assert logs["error_rate"][0, 0] < math.log(0.001)
    assert logs["error_rate"][1, 0] == pytest.approx(math.log(0.02))


def test_what_has_no_value_has_no_logarithm(tmp_path: Path) -> None:
    logs, _ = targets(tmp_path, [want("tpot_p99_s", 1, direction="minimize")]).logs([seen(0, {1: measurement(1, tpot=None)})])
    assert np.isnan(logs["tpot_p99_s"][0, 0])


def test_the_best_level_is_known_when_all_are(tmp_path: Path) -> None:
    made = targets(tmp_path, [want("output_tokens_per_s", "best", direction="maximize")])
    curve = {level: measurement(level, output_tokens_per_s=value) for level, value in ((1, 10.0), (4, 30.0), (16, 20.0))}
    logs, _ = made.logs([seen(0, curve), seen(1, {1: curve[1]}, "pruned")])
    assert logs["output_tokens_per_s@best"][:, 0] == pytest.approx([math.log(30.0), np.nan], nan_ok=True)


def test_what_serves_at_no_load_as_promised_does_not_serve(tmp_path: Path) -> None:
    workload = {**WORKLOAD, "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.1}]}}
    made = targets(tmp_path, [want("concurrency", "goodput", direction="maximize")], workload=workload)

    def curve(ttft_s: float) -> dict[int, Any]:
        return {level: measurement(level, ttft=timing(ttft_s)) for level in (1, 4, 16)}

    assert made.served(seen(0, curve(0.05)))
    assert not made.served(seen(1, curve(0.5)))
    assert not made.served(seen(2, {}, "infeasible"))
    assert targets(tmp_path, [FAST]).served(seen(3, {1: measurement(1)}, "pruned"))


class Told(Prior):
    """Says that everything takes as many seconds as there are slots, and of throughput nothing."""

    name: ClassVar[str] = "told"

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        return None if level == 4 else {"latency_p99_s": float(configuration["n_parallel"]) * level}


def test_predictions_of_priors_by_level(tmp_path: Path) -> None:
    made = targets(tmp_path, [FAST, MUCH, want("output_tokens_per_s", "best", direction="maximize")])
    told = made.predicted([Told(), Told()], {"n_parallel": 2})
    assert told["latency_p99_s"] == pytest.approx(np.log([[2.0, 2.0], [np.nan, np.nan], [32.0, 32.0]]), nan_ok=True)
    assert told["output_tokens_per_s"].shape == (3, 2)
    assert np.isnan(told["output_tokens_per_s"]).all()
    assert told["output_tokens_per_s@best"].shape == (1, 2)


def test_predictions_are_divided_as_measurements_are(tmp_path: Path) -> None:
    class Flow(Told):
        def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
            return {"output_tokens_per_s": 100.0}

    made = targets(tmp_path, [want("output_tokens_per_s", 1, direction="maximize", per="gpu")], gpus=4)
    assert np.exp(made.predicted([Flow()], {})["output_tokens_per_s/gpu"][0, 0]) == pytest.approx(25.0)


def test_predictions_stand_around_the_first_ones_and_what_is_not_known_in_the_middle(tmp_path: Path) -> None:
    made = targets(tmp_path, [FAST, MUCH])
    first, eight = (made.around(made.predicted([Told()], {"n_parallel": slots})) for slots in (1, 8))
    assert first["latency_p99_s"].tolist() == [[0.0], [0.0], [0.0]]
    assert eight["latency_p99_s"][:, 0] == pytest.approx([math.log(8), 0.0, math.log(8)]), "a level of which nothing is said is no harm"
    assert not eight["output_tokens_per_s"].any()
    assert made.around(made.predicted([Told()], {"n_parallel": 2}))["latency_p99_s"][0, 0] == pytest.approx(math.log(2)), "around the same"


def test_a_prior_that_could_not_tell_of_the_first_stands_around_the_first_of_which_it_could(tmp_path: Path) -> None:
    class Late(Told):
        def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
            return super().predict(configuration, level) if configuration["n_parallel"] != 1 else None

    made = targets(tmp_path, [FAST])
    told = [made.around(made.predicted([Told(), Late()], {"n_parallel": slots}))["latency_p99_s"][0] for slots in (1, 2, 8, 1)]
    assert np.array(told) == pytest.approx(np.log([[1, 1], [2, 1], [8, 4], [1, 1]]))
