from __future__ import annotations

import pytest

from tuner.errors import NotReadyError, Systemic
from tuner.finding import Finding


@pytest.mark.parametrize(
    ("text", "seen", "fix"),
    [
        (
            "the Docker daemon at unix:///x does not answer (no socket): install or start Docker",
            "the Docker daemon at unix:///x does not answer (no socket)",
            "install or start Docker",
        ),
        ("backend.bind=1.2.3.4: cannot be reached; set it to another", "backend.bind=1.2.3.4: cannot be reached", "set it to another"),
        ("no remedy\nknown", "no remedy known", ""),
    ],
)
def test_an_error_ends_with_its_remedy(text: str, seen: str, fix: str) -> None:
    for error in (NotReadyError(text), Systemic(text)):
        assert Finding.failure(error) == Finding("failed", seen, fix)
