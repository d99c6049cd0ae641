"""From the log of a dead server to the kind of failure: the matching that all engines share; each brings its own table of texts."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tuner.errors import Infeasible, MemoryStage, Systemic, Transient, TrialFailure
from tuner.launch import ExitStatus

MAX_QUOTE = 300
"""Characters of a log line that go into a reason."""

DETAIL_LINES = 40
"""Lines of the log's end that people are shown."""

SIGKILL_CODE = 128 + signal.SIGKILL
SIGBUS_CODE = 128 + signal.SIGBUS

GAP = "…"
"""In a `FailureText.text`: anything, which the remedy may repeat as `{0}`."""

# What loggers put in front: SGLang's `[2026-01-01 00:00:00 TP0] `, vLLM's `(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9] `, torch's.
_PREFIX = re.compile(
    r"^(?:\[\d{4}-\d\d-\d\d [^\]]*\] |\[rank\d+\]:\s+|\([^()]*\bpid=\d+\) "
    r"|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\] )+"
)

# How an error looks, the surest first: a traceback's last line, an exception anywhere, then what a logger marks (llama.cpp: `0.00.019 E `).
_ERROR_LINES = (
    re.compile(r"^[\w.]*(?:Error|Exception)\b:"),
    re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b"),
    re.compile(r"^[\d.]+ E |\berror:|\b(?:ERROR|CRITICAL|FATAL|GGML_ASSERT|GGML_ABORT)\b"),
)

# That something died, which is known already.
_OBITUARIES = re.compile(
    r"usually means|EngineDeadError|Engine ?[Cc]ore (?:initialization failed|failed to start|encountered)|kill_process_tree"
    r"|WorkerProc initialization failed|Scheduler hit an exception: Traceback"
)


@dataclass(frozen=True, slots=True)
class FailureText:
    """A text that engines write when they fail.

    Attributes:
        kind: Short name of the failure, shared by texts of the same meaning (`oom_static`, `bad_args`).
        text: Part of a log line, compared without regard to case; `…` inside stands for anything.
        failure: Whose fault it is.
        remedy: What to do, as the end of a sentence; empty where the line itself says it.
        source: Where the text comes from: file, thread, or the run that showed it.
        memory: When GPU memory did not suffice, see `Infeasible.memory`; `"by progress"` where only the log before the line tells.
        starts: The line begins with `text`, after its logger's prefix. For texts that also occur in the middle of harmless lines.
    """

    kind: str
    text: str
    failure: type[Infeasible] | type[Transient] | type[Systemic]
    remedy: str
    source: str
    memory: MemoryStage | Literal["by progress"] | None = None
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A text that engines write on their way; from there on GPU memory that runs out does so at `stage`."""

    text: str
    stage: MemoryStage


def diagnose(status: ExitStatus, table: Sequence[FailureText], marks: Sequence[Mark] = ()) -> TrialFailure:
    """The failure that `status` describes, with a one-line reason.

    The table goes from the specific to the generic, and its order decides, not the order in the log: a root cause stands far above the
    `engine died` lines that follow it. A log that matches nothing counts as transient: a second try is cheap, and a wrong lesson for the
    sampler is not.
    """
    detail = "".join(status.log_tail.splitlines(keepends=True)[-DETAIL_LINES:])
    if status.disturbed:
        return Transient(status.disturbed, detail)
    if status.oom_killed:
        return Infeasible("the server was killed because memory ran out: less context, fewer sequences or a smaller model", detail)
    lines = [text for line in status.log_tail.splitlines() if (text := _PREFIX.sub("", line.strip()).strip())]
    for row in table:
        pattern = _pattern(row)
        for index, line in enumerate(lines):
            if found := pattern.search(line):
                reason = _sentence(line, row.remedy.format(*found.groups()))
                if row.failure is not Infeasible:
                    return row.failure(reason, detail)
                return Infeasible(reason, detail, _stage(lines[:index], marks) if row.memory == "by progress" else row.memory)
    return _unknown(status.code, lines, detail)


def _unknown(code: int | None, lines: Sequence[str], detail: str) -> Transient:
    told = [line for line in lines if not _OBITUARIES.search(line)]
    cause = next((line for pattern in _ERROR_LINES for line in told if pattern.search(line)), "")
    if cause:
        ended = "an unknown code" if code is None else f"code {code}"
        return Transient(_sentence(f"the server ended with {ended}: {cause}", ""), detail)
    if code == SIGKILL_CODE:
        return Transient("the server was killed by SIGKILL, and not for lack of memory as far as can be told", detail)
    if code == SIGBUS_CODE:
        return Transient("the server was killed by SIGBUS, as when /dev/shm is full: raise backend.shm_size if it happens again", detail)
    if code == 0:
        return Transient("the server ended by itself with code 0, and its log does not say why", detail)
    ended = "an unknown code" if code is None else f"code {code}"
    return Transient(_sentence(f"the server ended with {ended}: {lines[-1] if lines else 'it wrote nothing'}", ""), detail)


@cache
def _pattern(row: FailureText) -> re.Pattern[str]:
    text = "(.*?)".join(re.escape(part) for part in row.text.split(GAP))
    return re.compile(("^" if row.starts else "") + text, re.IGNORECASE)


def _stage(before: Sequence[str], marks: Sequence[Mark]) -> MemoryStage | None:
    return next((mark.stage for line in reversed(before) for mark in marks if mark.text in line), None)


def _sentence(quote: str, remedy: str) -> str:
    quote = quote if len(quote) <= MAX_QUOTE else quote[: MAX_QUOTE - 1] + "…"
    return f"{quote}: {remedy}" if remedy else quote
