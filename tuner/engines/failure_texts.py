"""From the log of a dead server to the kind of failure: the matching that all engines share; each brings its own table of texts."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.errors import Infeasible, Systemic, Transient, TrialFailure
from tuner.launch import ExitStatus

MAX_QUOTE = 300
"""Characters of a log line that go into a reason."""

SIGKILL_CODE = 128 + signal.SIGKILL

# How an error looks, the surest first: an exception, then what a logger marks (llama.cpp writes `0.00.019 E `).
_ERROR_LINES = (
    re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b"),
    re.compile(r"^[\d.]+ E |\berror:|\b(?:ERROR|CRITICAL|FATAL|GGML_ASSERT|GGML_ABORT)\b"),
)


@dataclass(frozen=True, slots=True)
class FailureText:
    """A text that engines write when they fail.

    Attributes:
        text: Part of a log line, compared without regard to case.
        failure: Whose fault it is.
        remedy: What to do, as the end of a sentence; empty where the line itself says it.
        source: Where the text comes from: file, thread, or the run that showed it.
    """

    text: str
    failure: type[Infeasible] | type[Transient] | type[Systemic]
    remedy: str
    source: str


COMMON_TEXTS = (
    FailureText("address already in use", Transient, "another process took the port", "errno EADDRINUSE in any server"),
    FailureText("No module named", Systemic, "the engine's environment is incomplete: install the missing package", "CPython"),
    FailureText(
        "is not a local folder and is not a valid model identifier",
        Systemic,
        "check engine.model, or give access with HF_TOKEN",
        "transformers utils/hub.py",
    ),
    FailureText("Cannot access gated repo", Systemic, "accept the model's licence on its page and set HF_TOKEN", "huggingface_hub"),
    FailureText("Repository Not Found", Systemic, "check engine.model, or give access with HF_TOKEN", "huggingface_hub"),
    FailureText("No space left on device", Systemic, "free disk space", "errno ENOSPC"),
)


def diagnose(status: ExitStatus, table: Sequence[FailureText]) -> TrialFailure:
    """The failure that `status` describes, with a one-line reason.

    The table goes from the specific to the generic, and its order decides, not the order in the log: a root cause stands far above the
    `engine died` lines that follow it. A log that matches nothing counts as transient: a second try is cheap, and a wrong lesson for the
    sampler is not.
    """
    if status.oom_killed:
        return Infeasible("the server was killed because memory ran out: less context, fewer sequences or a smaller model", status.log_tail)
    lines = [line.strip() for line in status.log_tail.splitlines() if line.strip()]
    for row in table:
        for line in lines:
            if row.text.lower() in line.lower():
                return row.failure(_sentence(line, row.remedy), status.log_tail)
    if status.code == SIGKILL_CODE:
        return Transient("the server was killed by SIGKILL, and not for lack of memory as far as can be told", status.log_tail)
    errors = (line for pattern in _ERROR_LINES for line in lines if pattern.search(line))
    cause = next(errors, lines[-1] if lines else "it wrote nothing")
    code = "an unknown code" if status.code is None else f"code {status.code}"
    return Transient(_sentence(f"the server ended with {code}: {cause}", ""), status.log_tail)


def _sentence(quote: str, remedy: str) -> str:
    quote = quote if len(quote) <= MAX_QUOTE else quote[: MAX_QUOTE - 1] + "…"
    return f"{quote}: {remedy}" if remedy else quote
