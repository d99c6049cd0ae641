from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import measurement, settings, timing
from tuner.evaluation import evaluate
from tuner.settings import Settings

ON_GPUS: dict[str, Any] = {
    "engine": {"name": "sglang", "model": "m", "executable": ["sglang"]},
    "space": {"max_running_requests": {"type": "int", "low": 1, "high": 8}},
}


def wants(folder: Path, *constraints: dict[str, Any], **changes: Any) -> Settings:
    return settings(folder, constraints=list(constraints), **changes)


def test_values_and_violations_of_a_whole_trial(tmp_path: Path) -> None:
    found = evaluate(wants(tmp_path, {"metric": "ttft_p99_s", "at": "max", "max": 0.04}), {1: measurement(1), 4: measurement(4)}, 0)
    assert found.values == (0.2, 150.0)
    assert found.violations == {"ttft_p99_s@4<=0.04": pytest.approx(0.25)}
    assert found.missed == ["ttft_p99_s@4<=0.04"]
    assert found.unknown == ()


def test_what_is_not_measured_yet_is_not_told(tmp_path: Path) -> None:
    found = evaluate(wants(tmp_path, {"metric": "ttft_p99_s", "at": "max", "max": 0.04}), {1: measurement(1)}, 0)
    assert found.values == (0.2, None)
    assert found.violations == {}
    assert found.unknown == ()


def test_what_has_no_value_is_named(tmp_path: Path) -> None:
    shown = {level: replace(measurement(level), tpot=None) for level in (1, 4)}
    found = evaluate(wants(tmp_path, {"metric": "tpot_p50_s", "max": 1}), shown, 0)
    assert found.unknown == ("tpot_p50_s@4<=1",)
    assert found.violations == {}
    endless = {level: measurement(level, output_tokens_per_s=float("inf")) for level in (1, 4)}
    assert evaluate(wants(tmp_path), endless, 0).unknown == ("output_tokens_per_s@4",)


def test_the_price_comes_from_the_settings(tmp_path: Path) -> None:
    priced = wants(
        tmp_path,
        objectives=[{"metric": "output_tokens_per_s", "at": "max", "per": "dollar", "direction": "maximize"}],
        cost={"gpu_hour": 2.5},
        **ON_GPUS,
    )
    assert evaluate(priced, {1: measurement(1), 4: measurement(4)}, 2).values == (pytest.approx(150 * 3600 / 5),)


class TestGoodput:
    @staticmethod
    def settings(folder: Path, **goodput: Any) -> Settings:
        return wants(
            folder,
            workload={
                "scenario": "D(64,32)",
                "levels": [1, 4],
                "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.1}], "tolerance": 1.0} | goodput,
            },
            objectives=[{"metric": "concurrency", "at": "goodput", "direction": "maximize"}],
        )

    def test_that_nothing_is_met_is_a_constraint(self, tmp_path: Path) -> None:
        found = evaluate(self.settings(tmp_path), {level: measurement(level, ttft=timing(0.15)) for level in (1, 4)}, 0)
        assert found.values == (0.0,)
        assert found.violations == {"goodput>=1": pytest.approx(0.5)}
        assert self.settings(tmp_path).constraint_labels == ["goodput>=1"]

    def test_the_limit(self, tmp_path: Path) -> None:
        shown = {1: measurement(1), 4: measurement(4, ttft=timing(0.2)), 2: measurement(2)}
        found = evaluate(self.settings(tmp_path), shown, 0)
        assert found.values == (2.0,)
        assert found.violations == {"goodput>=1": pytest.approx(-0.5)}
        assert found.doubts == ()

    def test_unknown_while_it_is_looked_for(self, tmp_path: Path) -> None:
        found = evaluate(self.settings(tmp_path), {1: measurement(1, ttft=timing(0.2))}, 0)
        assert found.values == (None,)
        assert found.violations == {}

    def test_says_at_least(self, tmp_path: Path) -> None:
        [doubt] = evaluate(self.settings(tmp_path), {level: measurement(level) for level in (1, 4)}, 0).doubts
        assert "at least this" in doubt

    def test_says_when_the_client_may_have_set_the_limit(self, tmp_path: Path) -> None:
        shown = {1: measurement(1), 4: measurement(4, ttft=timing(0.2), client_bound=True), 2: measurement(2)}
        [doubt] = evaluate(self.settings(tmp_path), shown, 0).doubts
        assert doubt.startswith("concurrency@goodput: client-bound above 2 users")


@pytest.mark.parametrize(
    ("level", "changes", "doubt"),
    [
        (4, {"client_bound": True}, "output_tokens_per_s@4: client-bound, at 4 users the load generator set the pace and not the server"),
        (4, {"cache_reuse": 0.4}, "output_tokens_per_s@4: at 4 users the prompt cache answered 40% of the prompts beyond what they share"),
        (1, {"completed": 99}, "latency_p99_s@1: too few requests for this percentile"),
        (1, {"completed": 103, "warmup_excluded": 4}, "latency_p99_s@1: too few requests for this percentile"),
    ],
)
def test_what_casts_doubt_on_a_value_is_told(level: int, changes: dict[str, Any], doubt: str, tmp_path: Path) -> None:
    shown = {each: measurement(each, **{"completed": 100} | (changes if each == level else {})) for each in (1, 4)}
    [found] = evaluate(wants(tmp_path), shown, 0).doubts
    assert found.startswith(doubt)


def test_no_doubts_about_levels_that_decide_nothing(tmp_path: Path) -> None:
    found = evaluate(wants(tmp_path), {1: measurement(1, completed=100), 2: measurement(2, client_bound=True), 4: measurement(4)}, 0)
    assert found.doubts == ()


def test_a_replay_has_no_requests_to_count_and_no_loads_to_add(tmp_path: Path) -> None:
    replay: dict[str, Any] = {
        "engine": {"name": "replay", "table": "demo"},
        "backend": {"name": "replay"},
        "workload": {"scenario": "D(64,32)", "levels": [1, 4], "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.1}]}},
        "objectives": [{"metric": "latency_p99_s", "at": "goodput", "direction": "minimize"}],
    }
    shown = {level: measurement(level, completed=32) for level in (1, 4)}
    [doubt] = evaluate(wants(tmp_path, **replay), shown, 0).doubts
    assert doubt == "latency_p99_s@goodput: the bounds hold at all loads that were tried, so it is at least this"
    assert len(evaluate(wants(tmp_path, **{key: replay[key] for key in ("workload", "objectives")}), shown, 0).doubts) == 2
