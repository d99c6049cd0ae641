"""`python -m tuner.benchmark.job_worker REQUEST`: the load generator in a pod. Runs one load level and tells all of it on stdout."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from tuner import __version__
from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.client import genai_bench_version
from tuner.benchmark.genai_bench import GenaiBench
from tuner.benchmark.job_messages import OUTCOME, Speaker, to_outcome
from tuner.benchmark.job_request import LevelRequest, WrongProtocol
from tuner.benchmark.measurement import Measurement
from tuner.errors import Systemic, Transient
from tuner.launch import Endpoint

BEAT_S = 5.0
"""The longest silence: whoever follows the log takes a longer one for a lost connection."""
PROGRESS_S = 0.5


class Worker:
    """Runs one level.

    Args:
        out: Where messages go.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._speaker = Speaker(out)
        self._spoke = time.monotonic()

    def work(self, argument: str) -> None:
        """Runs the level that `argument` describes, and tells how it went."""
        self._speaker.say("hello", version=genai_bench_version(), tuner=__version__)
        with tempfile.TemporaryDirectory(prefix="tuner-load-") as folder:
            try:
                how: Measurement | ServerUnusable | Transient | Systemic = self._measure(LevelRequest.parse(argument), Path(folder))
            except WrongProtocol:
                how = Systemic(f"it holds tuner {__version__}, which does not understand this tuner")
            except (ServerUnusable, Transient, Systemic) as failure:
                how = failure
            for path in sorted(Path(folder).iterdir()):
                self._speaker.send(path.name, path.read_bytes())
        self._speaker.send(OUTCOME, to_outcome(how))
        self._speaker.end()

    def _measure(self, request: LevelRequest, folder: Path) -> Measurement:
        client = request.client
        with GenaiBench(
            client.tokenizer, dataset=client.dataset, prompt_column=client.prompt_column, request_params=client.request_params
        ) as bench:
            return bench.run(Endpoint(request.url, request.model), request.load, folder, self._alive, self._progress)

    def _progress(self, finished: int) -> None:
        if time.monotonic() - self._spoke >= PROGRESS_S:
            self._say("progress", finished=finished)

    def _alive(self) -> bool:
        """The server is watched from outside; but this is asked all the time, and so keeps the log going."""
        if time.monotonic() - self._spoke >= BEAT_S:
            self._say("alive")
        return True

    def _say(self, kind: str, **body: object) -> None:
        self._speaker.say(kind, **body)
        self._spoke = time.monotonic()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Exits with code 0 whenever it could tell how the level went."""
    # the first process of a container ignores signals that it has no handler for
    signal.signal(signal.SIGTERM, _terminate)
    Worker(sys.stdout.buffer).work(sys.argv[1])


if __name__ == "__main__":
    main()
