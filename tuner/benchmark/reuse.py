"""Whether the prompt cache answered for the server: prompts of the load generator that had been sent before.

It is prevented twice. The cache is flushed before each level (`Engine.flush_cache`), where the engine can. And genai-bench draws each
prompt anew, from random numbers that are seeded by the system and go on from level to level: lines of its text in random order, cut to
length. So no prompt of `D`, `N` and `U` returns, in whatever level, trial or mode. What all of them do share is the chat template, and the
line that they begin with is one of 84: that much every cache finds, and it is no reuse. Prompts of a dataset are drawn with return, and may
share what they like: within a level that is the traffic. Only from one level to the next it is not, where the cache could not be flushed.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuner.benchmark.measurement import Measurement
from tuner.benchmark.scenario import Scenario

LINE_TOKENS = 20
"""Tokens of a line of genai-bench's text at most. A line has 42 characters: 19 tokens of the tokenizer of `nano`, fewer of those of large
models."""
SUSPICIOUS = 0.1
"""Share of all prompt tokens from which on it counts as reuse."""


def reuse(scenario: Scenario, measurement: Measurement, server: Mapping[str, float], flushed: bool, before: float | None) -> float | None:
    """The share of the prompt tokens that the cache answered beyond what the traffic itself repeats; None where it is small or unknown.

    Args:
        scenario: The traffic.
        measurement: What the level showed.
        server: What the server's metrics showed meanwhile, see `Watch.summary`.
        flushed: Whether the prompt cache was empty when the level began.
        before: `cache_hit_rate` of the first level of this deployment; None in that one.
    """
    found = server.get("cache_hit_rate")
    if found is None or not measurement.requests_per_s:
        return None
    if scenario.input_tokens is None:
        usual = found if flushed or before is None else before
    else:
        prompt_tokens = measurement.input_tokens_per_s / measurement.requests_per_s
        template = max(0.0, prompt_tokens - scenario.input_tokens)
        usual = min(1.0, (template + LINE_TOKENS) / max(prompt_tokens, 1.0))
    beyond = found - usual
    return round(beyond, 4) if beyond > SUSPICIOUS else None
