"""How things go wrong: errors of the user's configuration, of the environment, and of one trial.

Every message is one line that says what is wrong, where, and what to do. `tuner.cli` prints it and exits with `exit_code`; nothing here is
ever shown as a traceback.
"""

from __future__ import annotations

from typing import Literal

MemoryStage = Literal["load", "capture", "run"]
"""When GPU memory did not suffice: weights and KV cache at start, graph capture and warm-up, or serving."""


class TunerError(Exception):
    """Base of all errors that a user may meet. `str(error)` is one line."""

    exit_code = 1


class ConfigError(TunerError):
    """The configuration is wrong: names the key, the value and what is allowed."""

    exit_code = 2


class NotReadyError(TunerError):
    """The environment is not ready (no daemon, no GPU, storage not writable): names the cause and the fix."""

    exit_code = 3


class TrialFailure(TunerError):
    """One trial ended without a measurement.

    Args:
        reason: One line for people: the root cause, with the remedy where one is known.
        detail: What supports it, for example the end of the server's log. Many lines, may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Infeasible(TrialFailure):
    """The configuration's own fault: the engine rejects it, or memory does not suffice. The sampler learns from it.

    Args:
        reason: See `TrialFailure`.
        detail: See `TrialFailure`.
        memory: When GPU memory did not suffice, for the feasibility gate; None where memory was not the cause.
    """

    def __init__(self, reason: str, detail: str = "", memory: MemoryStage | None = None) -> None:
        super().__init__(reason, detail)
        self.memory = memory


class Transient(TrialFailure):
    """Nobody's fault (port taken, client crashed): the same configuration is tried again, a bounded number of times."""


class Systemic(TrialFailure):
    """Every other trial would fail in the same way (no such model, no such image, no daemon): the study stops."""

    exit_code = 3
