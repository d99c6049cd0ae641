from __future__ import annotations

import pytest

from tests.doubles import measurement
from tuner.benchmark.reuse import LINE_TOKENS, SUSPICIOUS, reuse
from tuner.benchmark.scenario import Scenario

RANDOM, DATASET = Scenario.parse("D(200,32)"), Scenario.parse("dataset")
SHOWN = measurement(input_tokens_per_s=2500.0, requests_per_s=10.0)
"""Prompts of 250 tokens, 50 of them by the chat template."""
SHARED = (50 + LINE_TOKENS) / 250


def hits(share: float) -> dict[str, float]:
    return {"cache_hit_rate": share}


@pytest.mark.parametrize("flushed", [True, False])
def test_what_all_prompts_share_is_no_reuse(flushed: bool) -> None:
    assert reuse(RANDOM, SHOWN, hits(SHARED + SUSPICIOUS - 0.01), flushed, None) is None


@pytest.mark.parametrize("flushed", [True, False])
def test_random_prompts_that_return_are(flushed: bool) -> None:
    assert reuse(RANDOM, SHOWN, hits(0.9), flushed, 0.1) == pytest.approx(0.9 - SHARED)


def test_short_prompts_are_all_template_and_line() -> None:
    shown = measurement(input_tokens_per_s=300.0, requests_per_s=10.0)
    assert reuse(Scenario.parse("D(15,4)"), shown, hits(1.0), True, None) is None


def test_prompts_of_a_dataset_may_share_what_they_like_within_a_level() -> None:
    assert reuse(DATASET, SHOWN, hits(0.95), True, 0.2) is None
    assert reuse(DATASET, SHOWN, hits(0.95), False, None) is None


def test_but_a_level_must_not_find_what_the_one_before_left() -> None:
    assert reuse(DATASET, SHOWN, hits(0.95), False, 0.2) == pytest.approx(0.75)
    assert reuse(DATASET, SHOWN, hits(0.25), False, 0.2) is None


def test_nothing_is_said_where_the_server_says_nothing() -> None:
    assert reuse(RANDOM, SHOWN, {"running_max": 4.0}, True, None) is None
