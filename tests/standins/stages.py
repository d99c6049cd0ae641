"""Part of the doubles of SGLang and vLLM: failing as STANDIN_FAIL says, at the stage where the real ones do."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from failures import Failure
from gpu import OutOfMemoryError
from openai_api import BadRequest

MIB = 1 << 20


class DistBackendError(RuntimeError):
    """torch's, by its name in a traceback."""

    __module__ = "torch.distributed"


EXCEPTIONS: Mapping[str, type[Exception]] = {
    "ModuleNotFoundError": ModuleNotFoundError,
    "OSError": OSError,
    "ValueError": ValueError,
    "RuntimeError": RuntimeError,
    "Exception": Exception,
    "torch.OutOfMemoryError": OutOfMemoryError,
    "torch.distributed.DistBackendError": DistBackendError,
}


class Stages:
    """Where a double asks whether it is to fail.

    Args:
        failures: By name; STANDIN_FAIL names one of them, or is empty.
        model: The model asked for.
        log: Writes a line of the log.
    """

    def __init__(self, failures: Mapping[str, Failure], model: str, log: Callable[[str], None]) -> None:
        name = os.environ.get("STANDIN_FAIL", "")
        if name and name not in failures:
            sys.exit(f"STANDIN_FAIL={name}: one of {', '.join(sorted(failures))}")
        self.failure = failures[name] if name else Failure("")
        self._model = model
        self._log = log
        self._answers = 0
        self._first_bad = int(os.environ.get("STANDIN_FAIL_AFTER", "4"))

    def pass_(self, stage: str) -> None:
        """Raises what is to happen at this stage."""
        if self.failure.stage == stage:
            if self.failure.before:
                self._log(self._text(self.failure.before))
            raise self._error()

    def load(self) -> None:
        """Takes the time of a load, or does not come back from it."""
        if self.failure.stage == "hang":
            _sleep_forever()
        if self.failure.stage == "slow":
            time.sleep(float(os.environ.get("STANDIN_SLOW_S", "3")))
        if self.failure.stage == "hog":
            _fill_memory()
        self.pass_("load")

    @property
    def unready(self) -> bool:
        return self.failure.stage == "unready"

    def admit(self) -> None:
        """Counts a request, and refuses it where that is to happen."""
        self._answers += 1
        if self.failure.stage == "refuse" and self._answers >= self._first_bad:
            raise BadRequest("The request queue is full.", 503, "ServiceUnavailableError")

    def step(self) -> None:
        """Ends the engine from the first bad request on."""
        if self._answers >= self._first_bad:
            self.pass_("serve")

    def _error(self) -> Exception:
        text = self._text(self.failure.text)
        return OSError(errno.EADDRINUSE, text) if self.failure.stage == "bind" else EXCEPTIONS[self.failure.error](text)

    def _text(self, text: str) -> str:
        return text.replace("{model}", self._model)


def _sleep_forever() -> NoReturn:
    while True:
        time.sleep(3600)


def _fill_memory() -> NoReturn:
    """Takes the memory of the container, until the kernel ends the process; 4 GiB where nothing does."""
    held = []
    for _ in range(64):
        held.append(bytearray(os.urandom(MIB)) * 64)
        time.sleep(0.01)
    _sleep_forever()
