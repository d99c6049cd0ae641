"""What one check found."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found for an experiment.

    Attributes:
        study_name: Of the experiment's study.
        engine: Name of its engine.
        backend: Name of the backend that was examined; never `auto`.
        findings: By the name of the check, in the order in which they were made.
    """

    study_name: str
    engine: str
    backend: str
    findings: Mapping[str, Finding]

    @property
    def ready(self) -> bool:
        """Whether nothing keeps a run from working."""
        return all(finding.verdict != "failed" for finding in self.findings.values())


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
