"""`python -m tuner.benchmark.tether PROGRAM ...`: a program that ends with whoever holds the other end of stdin, however that one ends.

Start it as leader of a process group: the whole group is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Returns the program's exit code."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # at once: the thread that reads stdin cannot be interrupted
