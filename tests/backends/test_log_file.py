from __future__ import annotations

import os
from pathlib import Path

from tuner.backends.log_file import tail


def test_tail_of_a_large_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        file.truncate(1 << 30)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"".join(b"line %d\n" % number for number in range(100)))
    assert tail(log, 3) == "line 97\nline 98\nline 99"


def test_tail_survives_bytes_and_progress_bars(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"ok\r\nload: 1%\rload: 99%\rload: 100%\n\xff broken\n\n")
    assert tail(log) == "ok\nload: 100%\n� broken"
    assert tail(tmp_path / "missing") == ""
