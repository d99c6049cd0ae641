"""When a trial is stopped between two load levels, and in which order these are run."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tuner.course import Course, EveryLevel
from tuner.goodput import GoodputCourse
from tuner.study import Asked, Ledger

if TYPE_CHECKING:
    from tuner.search.pruner import Pruner

_PRUNERS: WeakKeyDictionary[Ledger, Pruner] = WeakKeyDictionary()


def course_of(ledger: Ledger, asked: Asked, gpus: int = 0, noise: float | None = None) -> Course:
    """The course of a trial that is about to begin.

    Args:
        ledger: The study.
        asked: The trial. The default always runs every level: all else is compared with it.
        gpus: GPUs that its deployment will hold; 0 where that is not known, then objectives per GPU stop nothing.
        noise: Relative standard deviation between runs of one configuration, as repeats have shown it; by default that of the settings.
    """
    settings = ledger.settings
    levels, goodput = settings.workload.levels, settings.workload.goodput
    if settings.pruner.name == "none" or asked.default:
        return EveryLevel(levels) if goodput is None else GoodputCourse(goodput, levels)
    if ledger not in _PRUNERS:
        from tuner.search.pruner import Pruner  # scipy takes a moment, which a start should not

        _PRUNERS[ledger] = Pruner(settings)
    pruner = _PRUNERS[ledger]
    pruner.learn(ledger.history.seen(by_now=False))
    return pruner.course(gpus, settings.noise if noise is None else noise)
