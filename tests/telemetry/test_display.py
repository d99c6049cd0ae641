from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from math import nan
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from tests.doubles import DEFAULTS, BackendDouble, BenchmarkDouble, EngineDouble, GateDouble, World, measurement, settings, timing
from tuner.errors import Infeasible, Transient
from tuner.report.front import front_table
from tuner.report.pages import Pages
from tuner.runner import run_trials
from tuner.study import Ledger
from tuner.telemetry import display
from tuner.telemetry.display import Display, LiveDisplay, PlainDisplay, create_display, level_line
from tuner.trial import Rig

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@dataclass
class Clock:
    """Stands in for `time`: goes on when told to."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def terminal(width: int = 100) -> Console:
    return Console(force_terminal=True, width=width, file=StringIO(), highlight=False, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def watch(shown: Display, folder: Path, world: World, trials: int = 3) -> Ledger:
    config = settings(folder, trials=trials, constraints=[{"metric": "latency_p99_s", "at": 1, "max": 0.5}])
    ledger = Ledger(config, optuna.storages.InMemoryStorage(), DEFAULTS)
    with shown.following(ledger):
        rig = Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), config.workload)
        run_trials(ledger, rig, shown, Pages(ledger, folder / "artifacts"))
    return ledger


def test_the_stream_and_the_verbosity_choose(tmp_path: Path) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    config = settings(tmp_path)
    assert isinstance(create_display(config, 0, StringIO()), PlainDisplay)
    assert type(create_display(config, -1, StringIO())) is Display
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        assert isinstance(create_display(config, 0, Terminal()), LiveDisplay)
        assert type(create_display(config, -1, Terminal())) is Display


class TestPlain:
    def show(self, folder: Path, world: World, verbosity: int = 0, trials: int = 3) -> list[str]:
        stream = StringIO()
        watch(create_display(settings(folder, trials=trials), verbosity, stream), folder, world, trials)
        return stream.getvalue().splitlines()

    def test_a_line_for_each_trial_level_and_outcome(self, tmp_path: Path, clock: Clock) -> None:
        lines = self.show(tmp_path, World(), trials=1)
        assert lines == [
            "Study some-study: llamacpp on backend local, traffic D(64,32) at 1, 4 users, 1 trial of 40 configurations",
            "trial 1 of 1: #0 engine defaults",
            "  level 1: 220 tok/s, ttft p50 50 ms, ttft p99 50 ms, tpot p50 5 ms, latency p99 400 ms",
            "  level 4: 220 tok/s, ttft p50 50 ms, ttft p99 50 ms, tpot p50 5 ms, latency p99 1.60 s",
            "  #0 latency_p99_s@1 400 ms  output_tokens_per_s@4 220 tok/s",
        ]

    def test_verbose_shows_the_stages(self, tmp_path: Path) -> None:
        lines = self.show(tmp_path, World(), verbosity=1)
        assert lines.count("  deploy") == lines.count("  warm-up") == 3

    def test_time_left_is_told_from_the_second_trial_on(self, tmp_path: Path, clock: Clock) -> None:
        def at(stage: str) -> None:
            clock.now += 50 if stage == "run 4" else 0

        lines = [line for line in self.show(tmp_path, World(at)) if line.startswith("trial")]
        assert [line.partition(":")[0] for line in lines] == [
            "trial 1 of 3",
            "trial 2 of 3 (about 1 min 40 s left)",
            "trial 3 of 3 (about 50 s left)",
        ]
        assert "#1 n_parallel=" in lines[1]
        assert "cont_batching=" in lines[1]

    def test_failures_and_missed_slos_say_why(self, tmp_path: Path) -> None:
        errors = [None, Infeasible("the KV cache does not fit: lower n_ctx"), Transient("another process took the port")]

        def at(stage: str) -> None:
            if stage == "deploy" and errors and (error := errors.pop(0)) is not None:
                raise error

        lines = self.show(tmp_path, World(at, measures=lambda configuration, level: measurement(level, latency=timing(0.7))))
        assert "  #0 latency_p99_s@1 700 ms  output_tokens_per_s@4 150 tok/s: misses latency_p99_s@1<=0.5" in lines
        assert "  #1 infeasible: the KV cache does not fit: lower n_ctx" in lines
        assert "  #2 failed, will be tried again: another process took the port" in lines
        assert sum(line.startswith("trial 3 of 3") for line in lines) == 2

    def test_long_lines_are_not_broken(self, tmp_path: Path) -> None:
        stream = StringIO()
        create_display(settings(tmp_path), 0, stream).notice("word " * 100)
        assert stream.getvalue().count("\n") == 1

    def test_a_table_in_a_log_breaks_no_parameter(self, tmp_path: Path) -> None:
        stream = StringIO()
        shown = create_display(settings(tmp_path), 0, stream)
        ledger = watch(shown, tmp_path, World())
        shown.console.print(front_table(ledger, "title"))
        assert re.search(r"n_parallel=\d+ n_batch=\d+ cont_batching=(true|false) n_ctx=8192 +│\n", stream.getvalue())

    def test_brackets_are_text(self, tmp_path: Path) -> None:
        stream = StringIO()
        create_display(settings(tmp_path), 0, stream).notice("[bold] [1, 4] [/nonsense]")
        assert stream.getvalue() == "[bold] [1, 4] [/nonsense]\n"


def test_quiet_shows_notices_only(tmp_path: Path) -> None:
    stream = StringIO()
    shown = create_display(settings(tmp_path), -1, stream)
    watch(shown, tmp_path, World())
    assert stream.getvalue() == ""
    shown.notice("a notice")
    assert stream.getvalue() == "a notice\n"


class TestLive:
    def test_picture_at_every_stage(self, tmp_path: Path, clock: Clock) -> None:
        console = terminal()
        live = LiveDisplay(settings(tmp_path, trials=3), console)
        pictures: dict[str, str] = {}

        def at(stage: str) -> None:
            clock.now += 7
            on_terminal = terminal()
            on_terminal.print(live._picture())
            pictures.setdefault(f"{stage} of #{live.number}", text_of(on_terminal))

        watch(live, tmp_path, World(at))
        assert "0 of 3" in pictures["launch of #0"]
        assert "#0" in pictures["deploy of #0"]
        assert "deploy" in pictures["deploy of #0"]
        assert "engine defaults" in pictures["deploy of #0"]
        assert "warm-up" in pictures["flush of #0"]
        assert "level 1 of [1, 4]" in pictures["run 1 of #0"]
        assert "0 of 16 requests" in pictures["run 1 of #0"]
        assert "7 s" in pictures["run 1 of #0"]
        assert "16 of 16 requests" in pictures["flush of #0"] or "level 4 of [1, 4]" in pictures["run 4 of #0"]
        assert "Front so far" not in pictures["close of #0"]
        assert "1 of 3" in pictures["launch of #1"]
        assert "left" in pictures["launch of #1"]
        assert "n_parallel=" in pictures["deploy of #1"]
        assert "Front so far" in pictures["deploy of #1"]
        assert "400 ms" in pictures["deploy of #1"]

    def test_finished_trials_scroll_by_and_the_picture_goes(self, tmp_path: Path) -> None:
        console = terminal(160)
        watch(LiveDisplay(settings(tmp_path, trials=3), console), tmp_path, World())
        lines = text_of(console).splitlines()
        assert any(line.strip() == "#0 latency_p99_s@1 400 ms  output_tokens_per_s@4 220 tok/s  (engine defaults)" for line in lines)
        assert sum("output_tokens_per_s@4" in line and line.lstrip().startswith(("#1", "#2")) for line in lines) == 2

    def test_requests_are_counted_and_never_beyond_the_goal(self, tmp_path: Path) -> None:
        live = LiveDisplay(settings(tmp_path), terminal())
        live.trial(0, {}, True)
        live.level(4, 16)
        live.requests(9)
        assert "9 of 16 requests" in self.picture(live)
        live.requests(17)
        assert "16 of 16 requests" in self.picture(live)

    def test_stops_the_picture_on_errors(self, tmp_path: Path) -> None:
        console = terminal()
        live = LiveDisplay(settings(tmp_path), console)

        def break_off() -> None:
            with live:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            break_off()
        assert not live._live.is_started

    @pytest.mark.parametrize("width", [20, 40, 200])
    def test_any_width(self, tmp_path: Path, width: int) -> None:
        watch(LiveDisplay(settings(tmp_path), terminal(width)), tmp_path, World())

    def picture(self, live: LiveDisplay) -> str:
        console = terminal()
        console.print(live._picture())
        return text_of(console)


@pytest.mark.parametrize("kind", [Display, LiveDisplay, PlainDisplay])
def test_odd_inputs_raise_nothing(tmp_path: Path, kind: type[Display]) -> None:
    console = terminal()
    shown = PlainDisplay(settings(tmp_path), console, 1) if kind is PlainDisplay else kind(settings(tmp_path), console)
    with shown:
        shown.ended("measured", [nan, 1e300])
        shown.ended("infeasible", (), "")
        shown.ended("measured", [1.0])
        shown.requests(3)
        shown.trial(10**9, {"a": "", "b": 1e-9, "c": False}, False)
        shown.level(1, 0)
        shown.requests(-1)
        shown.measured(1, measurement(tpot=None, output_tokens_per_s=nan, errors={"503": 4}))
        shown.stage("")
        shown.notice("")


def test_level_line_says_what_casts_doubt() -> None:
    line = level_line(measurement(completed=99, errors={"500": 1}, client_bound=True, warmup_excluded=4, cache_reuse=0.25))
    assert line.endswith(
        " [1.0% errors] [client-bound: the load generator, not the server, set the pace]"
        " [4 requests of the slow first wave left out] [prompt cache: 25% answered]"
    )
    assert "[" not in level_line(measurement())


def test_level_line_leaves_out_what_has_no_value() -> None:
    assert level_line(measurement(tpot=None)) == "150 tok/s, ttft p50 50 ms, ttft p99 50 ms, latency p99 200 ms"
    assert level_line(measurement(output_tokens_per_s=nan)).startswith("ttft p50 50 ms, ")
