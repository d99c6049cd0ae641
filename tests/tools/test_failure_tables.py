from __future__ import annotations

from pathlib import Path

from tools.failure_tables import document
from tuner.backends.docker_failures import DAEMON_TEXTS
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm

PAGE = Path(__file__).parents[2] / "docs/failures.md"


def test_the_page_is_that_of_the_tables() -> None:
    assert PAGE.read_text() == document(), "run: python -m tools.failure_tables > docs/failures.md"


def test_every_text_has_a_row_with_its_source() -> None:
    rows = [line for line in document().splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= len(Sglang.failure_texts) + len(Vllm.failure_texts) + len(DAEMON_TEXTS)
    assert not [row for row in rows if row.endswith("|  |")]
