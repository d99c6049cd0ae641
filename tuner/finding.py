"""What one check of the environment found, before a run or by `tuner doctor`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from tuner.errors import TunerError

Verdict = Literal["ok", "warning", "failed", "skipped"]

_REMEDY = re.compile(r"(?P<seen>.+)(?:: |; )(?P<fix>.+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        verdict: `failed` keeps a run from working, `warning` may, `skipped` could not be examined.
        seen: What is there, in one line.
        fix: What to do about it, in one line; empty where there is nothing to do.
    """

    verdict: Verdict
    seen: str
    fix: str = ""

    @classmethod
    def failure(cls, error: TunerError) -> Self:
        """A failure in the words of an error; those end with the remedy, after a colon or a semicolon."""
        text = " ".join(str(error).split())
        parts = _REMEDY.fullmatch(text)
        return cls("failed", parts["seen"], parts["fix"]) if parts else cls("failed", text)


def ok(seen: str) -> Finding:
    """All is in order."""
    return Finding("ok", seen)


def warning(seen: str, fix: str) -> Finding:
    """A run may suffer from this."""
    return Finding("warning", seen, fix)


def failed(seen: str, fix: str) -> Finding:
    """No run works like this."""
    return Finding("failed", seen, fix)


def skipped(why: str) -> Finding:
    """It could not be examined."""
    return Finding("skipped", why)
