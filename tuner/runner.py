"""The trial loop: asks the study, measures, tells the study, until it has enough."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import Trial

import tuner
from tuner.backends.base import Place
from tuner.course import Course
from tuner.errors import Infeasible, Systemic, Transient, TrialFailure
from tuner.evaluation import evaluate
from tuner.feasibility.gate import Gate
from tuner.report.pages import Pages
from tuner.search.pruning import course_of
from tuner.search_settings import StopSettings
from tuner.server_facts import Startup
from tuner.stopping import Spent, reason_to_stop
from tuner.study import SERVED, Asked, Ledger
from tuner.telemetry.progress import Progress
from tuner.trial import Record, Rig

OPTIONAL = frozenset({"effective", "startup", "server", "unflushed"})
"""Facts about a trial that are not kept where they are empty: each is a transaction of its own."""


class Patience:
    """Decides when failures are no longer single trials' own affair.

    Infeasible trials count only while nothing was ever measured: later they are what a search meets at the edge of the feasible region.

    Args:
        limit: As many failures of the same kind in a row end the study.
        measured: Whether the study has a measured trial already.
    """

    def __init__(self, limit: int, measured: bool) -> None:
        self._limit = limit
        self._measured = measured
        self._kind = ""
        self._in_a_row = 0

    def measured(self) -> None:
        """A trial was measured."""
        self._measured = True
        self._in_a_row = 0

    def failed(self, failure: TrialFailure) -> None:
        """A trial failed.

        Raises:
            Systemic: too many of the same kind in a row.
        """
        kind = "were infeasible" if isinstance(failure, Infeasible) else "failed"
        self._in_a_row = self._in_a_row + 1 if kind == self._kind else 1
        self._kind = kind
        if self._in_a_row >= self._limit and not (isinstance(failure, Infeasible) and self._measured):
            raise Systemic(f"{self._in_a_row} trials in a row {kind} (max_consecutive_failures): {failure.reason}", failure.detail)


def run_trials(
    ledger: Ledger, rig: Rig, progress: Progress, pages: Pages, between: Callable[[Patience], None] = lambda patience: None
) -> str | None:
    """Runs trials until the study has all it asked for, a condition of `stop` holds, or the whole space is known.

    Args:
        ledger: The study.
        rig: What deploys and measures.
        progress: Is told what happens.
        pages: What the dashboard shows beside the numbers.
        between: Called before each trial but the first.

    Returns:
        The condition of `stop` that ended it, in one line; None for any other end.

    Raises:
        Systemic: every further trial would fail too.
        KeyboardInterrupt: the user broke off; the trial in progress is queued again.
    """
    patience = Patience(ledger.settings.max_consecutive_failures, any(t.user_attrs.get("outcome") in SERVED for t in ledger.finished))
    for trial in ledger.finished:
        _teach(rig.gate, trial.user_attrs)
    begun, started = rig.backend.clock(), False
    while ledger.remaining or ledger.take_over():
        if (why := reason_to_end(ledger, rig.backend.clock() - begun)) is not None:
            return why
        if started:
            between(patience)
        started = True
        asked = ledger.ask(rig.refuse)
        if asked is None:
            return None
        run_trial(
            ledger, rig, progress, pages, patience, asked, course_of(ledger, asked, rig.engine.gpus(asked.configuration), ledger.noise)
        )
    return None


def reason_to_end(ledger: Ledger, wall_s: float) -> str | None:
    """The condition of `stop` that holds after `wall_s` seconds of this run, in one line; None where none does."""
    settings = ledger.settings
    if settings.stop == StopSettings():
        return None
    return reason_to_stop(settings, Spent.of(settings, ledger.finished, ledger.study.get_trials(deepcopy=False), ledger.noise, wall_s))


def run_trial(ledger: Ledger, rig: Rig, progress: Progress, pages: Pages, patience: Patience, asked: Asked, course: Course) -> None:
    """Deploys and measures what was asked, and tells the study how it ended. Arguments and errors: see `run_trials`."""
    trial, record = asked.trial, Record()
    place = Place(ledger.settings.study_name, trial.number, ledger.settings.study_folder / f"trial-{trial.number:04d}")
    place.folder.mkdir(parents=True, exist_ok=True)
    progress.trial(trial.number, asked.configuration, asked.default)
    interrupt: KeyboardInterrupt | None = None
    try:
        try:
            with ledger.at_work(trial):
                rig.measure(asked.configuration, place, progress, record, course)
        except KeyboardInterrupt as broken_off:
            if not record.complete:
                raise
            interrupt = broken_off  # while the server was removed: what was measured and paid for stays
        finally:
            _keep(asked, record, place, rig)
            pages.trial(trial, record.measurements, place.folder)  # now: Optuna takes no pictures of finished trials
        if record.pruned:
            ledger.tell_pruned(trial, record.measurements, record.pruned)
            progress.ended("pruned", reason=record.pruned)
        else:
            values = ledger.tell_measured(trial, record.measurements)
            missed = ", ".join(evaluate(ledger.settings, record.measurements, record.gpus).missed)
            progress.ended("measured", values, f"misses {missed}" if missed else "")
        patience.measured()
        if interrupt is not None:
            raise interrupt
    except Infeasible as failure:
        trial.set_user_attr("memory", failure.memory)
        ledger.tell_infeasible(trial, failure.reason)
        _explain(failure, trial, place, pages)
        progress.ended("infeasible", reason=failure.reason)
        patience.failed(failure)
    except Transient as failure:
        again = ledger.tell_failed(trial, failure.reason)
        _explain(failure, trial, place, pages)
        progress.ended("failed, will be tried again" if again else "failed", reason=failure.reason)
        patience.failed(failure)
    except Systemic as failure:
        ledger.tell_interrupted(trial)
        _explain(failure, trial, place, pages)
        progress.ended("failed", reason=failure.reason)
        raise
    except BaseException:
        ledger.tell_interrupted(trial)
        raise
    _teach(rig.gate, trial.user_attrs)
    pages.study()


def _keep(asked: Asked, record: Record, place: Place, rig: Rig) -> None:
    """Writes what is known about a trial into the study and, as a file, beside its logs."""
    facts = {
        "configuration": dict(asked.configuration),
        "effective": record.effective,
        "startup": record.startup.to_dict(),
        "server": {str(level): metrics for level, metrics in record.server.items() if metrics},
        "unflushed": record.unflushed,
        "measurements": {str(level): measurement.to_dict() for level, measurement in record.measurements.items()},
        "durations_s": {stage: round(seconds, 3) for stage, seconds in record.durations_s.items()},
        "versions": versions() | {rig.engine.name: record.engine_version, rig.benchmark.name: rig.benchmark.version()},
        "gpus": record.gpus,
        "folder": str(place.folder),
    }
    for key, value in facts.items():
        if value or key not in OPTIONAL:
            asked.trial.set_user_attr(key, value)
    (place.folder / "trial.json").write_text(json.dumps(facts | {"trial": place.trial, "study": place.study}, indent=2) + "\n")


def _teach(gate: Gate, attributes: Mapping[str, Any]) -> None:
    """Lets the gate learn from a trial that has ended, of this run or an earlier one."""
    if "configuration" in attributes:
        startup = Startup(**attributes.get("startup", {}))
        gate.learn(attributes["configuration"], startup, attributes.get("memory"), attributes.get("outcome") in SERVED)


def _explain(failure: TrialFailure, trial: Trial, place: Place, pages: Pages) -> None:
    (place.folder / "failure.txt").write_text(f"{failure.reason}\n\n{failure.detail}\n")
    pages.failure(trial, failure)


def versions() -> dict[str, str]:
    """Versions of the software on this side of the wire."""
    return {"python": platform.python_version(), "tuner": tuner.__version__, "optuna": optuna.__version__}
