"""The file in a trial's folder that holds what its server wrote."""

from __future__ import annotations

from pathlib import Path

LOG_NAME = "server.log"
_TAIL_BYTES = 256 * 1024


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a text file of any size, without raising. Of a progress bar only its last state."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    last = text.rstrip().split("\n")[-lines:]
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in last)
