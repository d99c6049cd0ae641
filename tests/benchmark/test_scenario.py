from __future__ import annotations

import pytest

from tuner.benchmark.scenario import Scenario


@pytest.mark.parametrize(
    ("text", "input_tokens", "output_tokens"),
    [
        ("D(100,64)", 100, 64),
        ("N(480,240)/(300,150)", 480, 300),
        ("U(100,200)/(200,300)", 150, 250),
        ("U(1000,100)", 500, 50),
        ("dataset", None, None),
    ],
)
def test_reads_every_notation(text: str, input_tokens: int | None, output_tokens: int | None) -> None:
    assert Scenario.parse(text) == Scenario(text, input_tokens, output_tokens)


@pytest.mark.parametrize(
    "text", ["", "D", "D(100)", "D(100, 64)", "D(100,64)\n", "d(1,1)", "D(0,5)", "D(5,0)", "N(1,2)", "U(9,1)/(1,9)", "E(64)", "datasets"]
)
def test_names_what_is_wrong_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="traffic scenario") as caught:
        Scenario.parse(text)
    assert "\n" not in str(caught.value)
