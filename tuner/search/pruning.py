"""When a trial is stopped between two load levels, and in which order these are run."""

from __future__ import annotations

from tuner.course import Course, EveryLevel
from tuner.study import Asked, Ledger


def course_of(ledger: Ledger, asked: Asked) -> Course:
    """The course of a trial that is about to begin."""
    return EveryLevel(ledger.settings.workload.levels)
