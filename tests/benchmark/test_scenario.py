from __future__ import annotations

import pytest

from tuner.benchmark.scenario import Scenario


@pytest.mark.parametrize(
    ("text", "means", "deviations"),
    [
        ("D(100,64)", (100, 64), (0.0, 0.0)),
        ("N(480,240)/(300,150)", (480, 300), (240.0, 150.0)),
        ("U(100,200)/(200,300)", (150, 250), (28.87, 28.87)),
        ("U(1000,100)", (500, 50), (288.4, 28.58)),
        ("dataset", (None, None), (0.0, 0.0)),
    ],
)
def test_reads_every_notation(text: str, means: tuple[int | None, int | None], deviations: tuple[float, float]) -> None:
    scenario = Scenario.parse(text)
    assert (scenario.text, scenario.input_tokens, scenario.output_tokens) == (text, *means)
    assert (scenario.input_sd, scenario.output_sd) == pytest.approx(deviations, rel=1e-3)


@pytest.mark.parametrize(
    "text", ["", "D", "D(100)", "D(100, 64)", "D(100,64)\n", "d(1,1)", "D(0,5)", "D(5,0)", "N(1,2)", "U(9,1)/(1,9)", "E(64)", "datasets"]
)
def test_names_what_is_wrong_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="traffic scenario") as caught:
        Scenario.parse(text)
    assert "\n" not in str(caught.value)
