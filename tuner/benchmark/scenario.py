"""Traffic scenarios in genai-bench's notation: how many tokens go in and come out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt

DATASET = "dataset"
NOTATIONS = "D(in,out), N(mean,std)/(mean,std), U(min,max)/(min,max), U(max,max), dataset"

_PAIR = r"\((\d+),(\d+)\)"
_PATTERNS = {
    "D": re.compile(f"D{_PAIR}"),
    "N": re.compile(f"N{_PAIR}/{_PAIR}"),
    "U": re.compile(f"U{_PAIR}/{_PAIR}"),
    "U max": re.compile(f"U{_PAIR}"),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A parsed traffic scenario.

    Attributes:
        text: As genai-bench reads it.
        input_tokens: Mean prompt length in tokens, the chat template not counted; None where the dataset decides.
        output_tokens: Mean output length in tokens; None where the model decides.
        input_sd: Standard deviation of the prompt length, tokens.
        output_sd: That of the output length.
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None
    input_sd: float = 0.0
    output_sd: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Reads one scenario.

        Raises:
            ValueError: `text` is no scenario of text generation; one line that names the notations.
        """
        if text == DATASET:
            return cls(text, None, None)
        for kind, pattern in _PATTERNS.items():
            if match := pattern.fullmatch(text):
                return cls(text, *_lengths(text, kind, [int(number) for number in match.groups()]))
        raise ValueError(f"traffic scenario {text!r} is none of {NOTATIONS} (no spaces)")


def _lengths(text: str, kind: str, numbers: list[int]) -> tuple[int, int, float, float]:
    """Means of prompts and outputs, and their standard deviations."""
    match kind:
        case "D":
            means, deviations = (numbers[0], numbers[1]), (0.0, 0.0)
        case "N":
            means, deviations = (numbers[0], numbers[2]), (float(numbers[1]), float(numbers[3]))
        case "U":
            if numbers[0] > numbers[1] or numbers[2] > numbers[3]:
                raise ValueError(f"traffic scenario {text!r}: a minimum lies above its maximum")
            means, deviations = _uniform(numbers[0], numbers[1], numbers[2], numbers[3])
        case _:
            means, deviations = _uniform(1, numbers[0], 1, numbers[1])
    if min(means) < 1:
        raise ValueError(f"traffic scenario {text!r}: prompts and outputs need at least one token")
    return *means, *deviations


def _uniform(low_in: int, high_in: int, low_out: int, high_out: int) -> tuple[tuple[int, int], tuple[float, float]]:
    return ((low_in + high_in) // 2, (low_out + high_out) // 2), ((high_in - low_in) / sqrt(12), (high_out - low_out) / sqrt(12))
