"""The display of a run: live on a terminal, plain lines elsewhere, nothing but results when quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner.benchmark.measurement import Measurement
from tuner.launch import Configuration
from tuner.report import text
from tuner.report.front import front_table
from tuner.settings import Settings
from tuner.study import Ledger

FIGURES = {
    "output_tokens_per_s": "",
    "ttft_p50_s": "ttft p50 ",
    "ttft_p99_s": "ttft p99 ",
    "tpot_p50_s": "tpot p50 ",
    "latency_p99_s": "latency p99 ",
}
"""The figures of a load level that are shown, and what stands before each."""
WIDE = 160
"""Columns of a table in a log or a pipe: room for whole parameters."""


def create_display(settings: Settings, verbosity: int, stream: IO[str]) -> Display:
    """The display that suits `stream` and `verbosity` (-1 quiet, 0 normal, 1 verbose)."""
    terminal = stream.isatty()
    console = Console(file=stream, highlight=False, soft_wrap=not terminal, width=None if terminal else WIDE)
    if verbosity < 0:
        return Display(settings, console)
    return LiveDisplay(settings, console) if console.is_terminal else PlainDisplay(settings, console, verbosity)


class Display:
    """Keeps track of where the run is; shows notices only. Implements `Progress`. A context manager around the trials.

    Args:
        settings: The experiment.
        console: Where to show it.
    """

    shows_trials = False

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.labels = [objective.label(settings.workload.levels) for objective in settings.objectives]
        self.number = 0
        self.configuration = ""
        self.where = ""
        self.finished = 0
        self._begun = time.monotonic()
        self._finished_before = 0
        self._ledger: Ledger | None = None
        self._counting = True

    def notice(self, line: str) -> None:
        """A sentence that the user should see; where no trials are shown, none about those beside the study: the verdict says it all."""
        if self._counting or self.shows_trials:
            self.console.print(Text(line))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile trials are shown that do not belong to the study's own, and not counted."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def following(self, ledger: Ledger) -> Self:
        """Shows this study from now on."""
        self._ledger = ledger
        self.finished = self._finished_before = len(ledger.finished)
        self._begun = time.monotonic()
        return self

    @property
    def headline(self) -> str:
        """What is about to run."""
        settings, size = self.settings, self.settings.space.size
        return (
            f"Study {settings.study_name}: {settings.engine.name} on backend {settings.backend.name}, traffic {settings.workload.scenario} "
            f"at {', '.join(map(str, settings.workload.levels))} users, {settings.trials} trial{'s' if settings.trials > 1 else ''}"
            f"{f' of {size} configurations' if size else ''}"
        )

    @property
    def time_left(self) -> str:
        """An estimate from the trials of this run, empty before the first has ended."""
        here = self.finished - self._finished_before
        left = self.settings.trials - self.finished
        return f"about {text.duration((time.monotonic() - self._begun) / here * left)} left" if here and left > 0 else ""

    def trial(self, number: int, configuration: Configuration, default: bool) -> None:
        self.number = number
        self.configuration = "engine defaults" if default else text.configuration(configuration)

    def stage(self, name: str) -> None:
        self.where = name

    def level(self, level: int, requests: int) -> None:
        self.where = f"level {level} of {list(self.settings.workload.levels)}"

    def requests(self, finished: int) -> None:
        """Only the live display shows single requests."""

    def measured(self, level: int, measurement: Measurement) -> None:
        """Shown by the displays that show levels."""

    def ended(self, outcome: str, values: Sequence[float] = (), reason: str = "") -> None:
        self.where = ""
        if self._ledger is not None:
            self.finished = len(self._ledger.finished)

    def outcome(self, outcome: str, values: Sequence[float], reason: str) -> str:
        """One line on how the trial ended."""
        shown = "  ".join(f"{label} {text.metric(label, value)}" for label, value in zip(self.labels, values, strict=False))
        number = f"#{self.number} " if self._counting else ""  # others have the numbers of another study
        return f"{number}{shown or outcome}{f': {reason}' if reason else ''}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class PlainDisplay(Display):
    """One line for each event, for logs and pipes."""

    shows_trials = True

    def __init__(self, settings: Settings, console: Console, verbosity: int) -> None:
        super().__init__(settings, console)
        self._verbose = verbosity > 0

    def following(self, ledger: Ledger) -> Self:
        super().following(ledger)
        self.notice(self.headline)
        return self

    def trial(self, number: int, configuration: Configuration, default: bool) -> None:
        super().trial(number, configuration, default)
        left = f" ({self.time_left})" if self.time_left else ""
        place = f"trial {self.finished + 1} of {self.settings.trials}{left}: #{number}" if self._counting else " "
        self.notice(f"{place} {self.configuration}")

    def stage(self, name: str) -> None:
        super().stage(name)
        if self._verbose:
            self.notice(f"  {name}")

    def measured(self, level: int, measurement: Measurement) -> None:
        self.notice(f"  level {level}: {level_line(measurement)}")

    def ended(self, outcome: str, values: Sequence[float] = (), reason: str = "") -> None:
        super().ended(outcome, values, reason)
        self.notice(f"  {self.outcome(outcome, values, reason)}")


class LiveDisplay(Display):
    """A picture of the run that is redrawn in place; finished trials scroll by above it."""

    shows_trials = True

    def __init__(self, settings: Settings, console: Console) -> None:
        super().__init__(settings, console)
        self._front: RenderableType = Text("")
        self._goal = 0
        self._requests = 0
        self._stage_begun = time.monotonic()
        # last: it draws at once
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._picture, transient=True)

    def following(self, ledger: Ledger) -> Self:
        super().following(ledger)
        self.notice(self.headline)
        self._draw_front()
        return self

    def _draw_front(self) -> None:
        # here and not in `_picture`, which is drawn four times a second
        if self._ledger is not None and self._ledger.finished:
            self._front = front_table(self._ledger, "Front so far")

    def stage(self, name: str) -> None:
        super().stage(name)
        self._goal, self._stage_begun = 0, time.monotonic()

    def level(self, level: int, requests: int) -> None:
        super().level(level, requests)
        self._goal, self._requests, self._stage_begun = requests, 0, time.monotonic()

    def requests(self, finished: int) -> None:
        self._requests = finished

    def ended(self, outcome: str, values: Sequence[float] = (), reason: str = "") -> None:
        super().ended(outcome, values, reason)
        self._draw_front()
        self.notice(f"{self.outcome(outcome, values, reason)}  ({self.configuration})")

    def _picture(self) -> RenderableType:
        progress = Table.grid(padding=(0, 2))
        total = self.settings.trials
        progress.add_row(Text("trials"), _bar(self.finished, total), Text(f"{self.finished} of {total}  {self.time_left}"))
        if self.where:
            seconds = f"{time.monotonic() - self._stage_begun:.0f} s"
            bar = _bar(self._requests, self._goal) if self._goal else Text("")
            counted = f"{min(self._requests, self._goal)} of {self._goal} requests  " if self._goal else ""
            progress.add_row(Text(f"#{self.number}"), bar, Text(f"{self.where}  {counted}{seconds}"))
            progress.add_row(Text(""), Text(""), Text(self.configuration, style="dim"))
        return Group(Text(""), progress, self._front)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()


def level_line(measurement: Measurement) -> str:
    """The main figures of a load level, and what casts doubt on them."""
    known = [(called, name) for name, called in FIGURES.items() if isfinite(measurement.metric(name))]
    shown = ", ".join(f"{called}{text.metric(name, measurement.metric(name))}" for called, name in known)
    doubts = [
        *([f"{measurement.error_rate:.1%} errors"] if measurement.errors else []),
        *(["client-bound: the load generator, not the server, set the pace"] if measurement.client_bound else []),
        *([f"{measurement.warmup_excluded} requests of the slow first wave left out"] if measurement.warmup_excluded else []),
        *([f"prompt cache: {measurement.cache_reuse:.0%} answered"] if measurement.cache_reuse else []),
    ]
    return f"{shown}{''.join(f' [{doubt}]' for doubt in doubts)}"


def _bar(done: int, total: int, width: int = 24) -> Text:
    filled = min(width, width * done // max(1, total))
    return Text("━" * filled, style="green") + Text("─" * (width - filled), style="dim")
