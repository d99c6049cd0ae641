from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles import measurement, timing
from tuner.report import curve

CURVE = {16: measurement(16, latency=timing(0.8), output_tokens_per_s=400.0), 1: measurement(1, latency=timing(0.1))}


def test_points_follow_the_levels() -> None:
    assert curve.points(CURVE) == ([150.0, 400.0], [0.1, 0.8], ["1", "16"])


@pytest.mark.parametrize("default", [None, {}, CURVE])
def test_draws_a_png(tmp_path: Path, default: curve.Curve | None) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    curve.draw(CURVE, default, "some-study #3", path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    assert width > height > 300


def test_plot_of_a_study_draws_the_highlighted_last() -> None:
    pytest.importorskip("plotly")
    figure = curve.plot_study({"#0 defaults": CURVE, "#1": CURVE, "#2": {}}, {"#0 defaults"})
    assert [trace.name for trace in figure.data] == ["#1", "#2", "#0 defaults"]
    assert figure.data[2].opacity > figure.data[0].opacity
    assert list(figure.data[2].x) == [150.0, 400.0]
    assert list(figure.data[2].text) == ["1 users", "16 users"]
