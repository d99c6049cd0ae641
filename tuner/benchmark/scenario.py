"""Traffic scenarios in genai-bench's notation: how many tokens go in and come out."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None

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
                return cls(text, *_means(text, kind, [int(number) for number in match.groups()]))
        raise ValueError(f"traffic scenario {text!r} is none of {NOTATIONS} (no spaces)")


def _means(text: str, kind: str, numbers: list[int]) -> tuple[int, int]:
    match kind:
        case "D":
            means = numbers[0], numbers[1]
        case "N":
            means = numbers[0], numbers[2]
        case "U":
            if numbers[0] > numbers[1] or numbers[2] > numbers[3]:
                raise ValueError(f"traffic scenario {text!r}: a minimum lies above its maximum")
            means = (numbers[0] + numbers[1]) // 2, (numbers[2] + numbers[3]) // 2
        case _:
            means = (1 + numbers[0]) // 2, (1 + numbers[1]) // 2
    if min(means) < 1:
        raise ValueError(f"traffic scenario {text!r}: prompts and outputs need at least one token")
    return means
