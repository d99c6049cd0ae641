"""Lengths of the requests of a traffic scenario: the same for every configuration, so that these differ by nothing but themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import repeat

import numpy as np

_SCENARIO = re.compile(r"D\((\d+),(\d+)\)|N\((\d+),(\d+)\)/\((\d+),(\d+)\)")
LEAST_TOKENS = 4


def lengths(scenario: str, seed: int) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens of one request after the other, without end.

    Args:
        scenario: `D(in,out)`, or `N(mean,deviation)/(mean,deviation)` with lengths cut at 2.5 deviations.
        seed: Of the sequence.

    Raises:
        ValueError: another kind of scenario.
    """
    match = _SCENARIO.fullmatch(scenario)
    if match is None:
        raise ValueError(f"traffic scenario {scenario!r} is not simulated: use D(in,out) or N(mean,deviation)/(mean,deviation)")
    fixed_in, fixed_out, *normal = (int(number) if number else 0 for number in match.groups())
    return repeat((fixed_in, fixed_out)) if fixed_in else _normal(seed, *normal)


def _normal(seed: int, mean_in: int, deviation_in: int, mean_out: int, deviation_out: int) -> Iterator[tuple[int, int]]:
    random = np.random.default_rng(seed)
    while True:
        drawn = np.clip(random.standard_normal((256, 2)), -2.5, 2.5) * (deviation_in, deviation_out) + (mean_in, mean_out)
        yield from ((int(prompt), int(output)) for prompt, output in np.maximum(drawn, LEAST_TOKENS))
