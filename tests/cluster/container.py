"""One run of a played container: a process group of this host in place of a container, and its log by lines with their times."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

MARK = "TUNER_TEST_CONTAINER"
"""The environment variable by which every process of a container is known, however it forks: its value begins with the kubelet's mark."""

_MESSAGE_BYTES = 2048
_MESSAGE_LINES = 80


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log: when it came, and its bytes with the newline."""

    time: datetime
    text: bytes

    def stamped(self) -> bytes:
        return self.time.strftime("%Y-%m-%dT%H:%M:%S.%f").encode() + b"000Z " + self.text


class Log:
    """The output of one run, readable while it grows."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._closed = False

    def fill_from(self, pipe: int) -> None:
        """Reads a pipe to its end. Like containerd, it takes in a line when the line is complete."""
        rest = b""
        while chunk := os.read(pipe, 65536):
            *complete, rest = (rest + chunk).split(b"\n")
            self._append([line + b"\n" for line in complete])
        self._append([rest] if rest else [])

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self, *, follow: bool, since: datetime | None, stamped: bool, tail: int | None) -> Iterator[bytes]:
        """The lines that came at or after `since`, the last `tail` of them; with `follow` also those to come until the run is over."""
        with self._changed:
            lines = [line for line in self._lines if since is None or line.time >= since]
            place = len(self._lines)
        for line in lines if tail is None else lines[max(0, len(lines) - tail) :]:
            yield line.stamped() if stamped else line.text
        while follow:
            with self._changed:
                self._changed.wait_for(lambda place=place: self._closed or len(self._lines) > place)
                fresh, place, over = self._lines[place:], len(self._lines), self._closed
            for line in fresh:
                yield line.stamped() if stamped else line.text
            if over:
                return

    def message(self) -> str:
        """What `FallbackToLogsOnError` puts into the termination message: the last 80 lines, at most 2048 bytes."""
        with self._changed:
            text = b"".join(line.text for line in self._lines[-_MESSAGE_LINES:])
        return text[-_MESSAGE_BYTES:].decode(errors="replace")

    def _append(self, texts: Sequence[bytes]) -> None:
        with self._changed:
            self._lines.extend(Line(datetime.now(UTC), text) for text in texts)
            self._changed.notify_all()


class Container:
    """A running container. `ended` is called in another thread when its first process is over, with all its offspring.

    Raises:
        FileNotFoundError: there is no such executable on the container's PATH.
        OSError: it cannot be started.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], folder: Path, mark: str, ended: Callable[[], None]) -> None:
        self.log = Log()
        self.started = datetime.now(UTC)
        self.finished: datetime | None = None
        self.exit_code: int | None = None
        self.oom_killed = False
        self._mark = mark
        self._ended = ended
        if shutil.which(words[0], path=env["PATH"]) is None:
            raise FileNotFoundError(words[0])
        # The kernel ends it with the thread that starts it here, which lives as long as the pod: nothing survives a killed test run.
        tether = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen(
            [*tether, *words],
            env={**env, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self.log.fill_from, args=(self._process.stdout.fileno(),), daemon=True)
        self._reader.start()
        threading.Thread(target=self._reap, name=f"container {mark}", daemon=True).start()

    def terminate(self) -> None:
        """Asks the first process to end, as a kubelet does."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends all processes; what the first one left in other groups too, for a real one would lose its PID namespace."""
        kill_marked(self._mark)

    def kill_for_memory(self) -> None:
        """Ends it as the kernel does where it exceeds its memory limit."""
        self.oom_killed = True
        self.kill()

    def _reap(self) -> None:
        code = self._process.wait()
        self.kill()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.log.close()
        self.finished = datetime.now(UTC)
        self.exit_code = code if code >= 0 else 128 - code
        self._ended()


def kill_marked(mark: str) -> None:
    """Kills what `processes` finds, until it finds nothing: a process may fork meanwhile."""
    while found := processes(mark):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def processes(mark: str) -> list[psutil.Process]:
    """The living processes whose mark begins with `mark`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
