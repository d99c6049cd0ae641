"""The pruner as a whole: which trials it stops, and what it never stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from tests.doubles import measured, measurement, settings, timing
from tests.ledger import ask, open_ledger, tell
from tests.search.servers import LEVELS, Server, seen
from tuner.benchmark.measurement import Measurement
from tuner.course import Course, EveryLevel
from tuner.errors import ConfigError
from tuner.goodput import GoodputCourse
from tuner.search.pruner import Pruner
from tuner.search.pruning import course_of
from tuner.settings import Settings

NOISE = 0.03
FAST = {"metric": "ttft_p99_s", "at": 16, "direction": "minimize"}
MUCH = {"metric": "output_tokens_per_s", "at": 64, "direction": "maximize"}
SOON = {"metric": "ttft_p99_s", "at": 64, "max": 0.8}


def study(folder: Path, /, **changes: Any) -> Settings:
    workload = {"scenario": "D(64,32)", "levels": list(LEVELS), "warmup_requests": 0}
    return settings(folder, **{"workload": workload, "objectives": [FAST, MUCH], "constraints": [SOON], **changes})


def run(course: Course, curve: Mapping[int, Measurement]) -> tuple[dict[int, Measurement], str | None]:
    """What a trial shows under a course, and why it was stopped."""
    shown: dict[int, Measurement] = {}
    reason = None
    while reason is None and (level := course.next_level(shown)) is not None:
        shown[level] = curve[level]
        reason = course.hopeless(shown)
    return shown, reason


def after(given: Settings, *ttfts: float) -> Pruner:
    """The pruner after trials that were measured, with these times to the first token at all levels, seconds."""
    pruner = Pruner(given)
    pruner.learn([seen(i, {level: measurement(level, ttft=timing(ttft)) for level in LEVELS}) for i, ttft in enumerate(ttfts)])
    return pruner


def search(given: Settings, rng: np.random.Generator, trials: int, noise: float) -> list[tuple[Server, str | None]]:
    """The servers of a random search, and why they were stopped."""
    pruner, history, done = Pruner(given), [], []
    for number in range(trials):
        pruner.learn(history)
        server = Server.drawn(rng)
        shown, reason = run(pruner.course(1, NOISE), server.curve(rng, noise))
        history.append(seen(number, shown, "pruned" if reason else "measured"))
        done.append((server, reason))
    return done


def truth(server: Server) -> tuple[float, float, bool]:
    curve = server.curve(np.random.default_rng(), 0.0)
    return curve[16].ttft.p99, -curve[64].output_tokens_per_s, curve[64].ttft.p99 <= SOON["max"]


def hopeful(done: list[tuple[Server, str | None]]) -> list[str | None]:
    """Of the trials that truly belong to the front of what was there before them: why they were stopped."""
    known: list[tuple[float, float]] = []
    found = []
    for server, reason in done:
        fast, much, feasible = truth(server)
        if feasible and not any(a <= fast and b <= much and (a, b) != (fast, much) for a, b in known):
            found.append(reason)
        if feasible:
            known.append((fast, much))
    return found


def test_a_level_that_decides_comes_first_although_it_was_always_run_last(tmp_path: Path) -> None:
    def shown(late: float) -> dict[int, Measurement]:
        return {each: measurement(each, ttft=timing(late if each == 64 else 0.1), duration_s=float(each)) for each in LEVELS}

    pruner = Pruner(study(tmp_path))
    pruner.learn([seen(0, shown(late=0.4))])
    assert pruner.course(1, NOISE).next_level({}) == 16, "it is the cheaper one"
    pruner.learn([seen(number, shown(late=0.4 if number == 0 else 2.0)) for number in range(9)])
    assert pruner.course(1, NOISE).next_level({}) == 64


@pytest.mark.parametrize("order", ["auto", "up", "down"])
def test_without_noise_no_member_of_the_front_is_stopped_and_most_others_are(tmp_path: Path, order: str) -> None:
    rng = np.random.default_rng(1)
    given = study(tmp_path, pruner={"order": order})
    for _ in range(4):
        done = search(given, rng, 60, 0.0)
        assert hopeful(done).count(None) == len(hopeful(done)) > 0
        assert sum(reason is not None for _, reason in done) > 15


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_share_of_wrong_stops_is_no_larger_than_was_asked_for(tmp_path: Path, confidence: float) -> None:
    rng = np.random.default_rng(2)
    given = study(tmp_path, pruner={"confidence": confidence})
    found = [reason for _ in range(40) for reason in hopeful(search(given, rng, 40, NOISE))]
    assert len(found) > 100
    assert sum(reason is not None for reason in found) / len(found) <= 1 - confidence


def test_an_slo_that_is_missed_beyond_noise_stops(tmp_path: Path) -> None:
    assert Pruner(study(tmp_path)).course(1, NOISE).next_level({}) == 64, "the busiest while nothing is known"
    course = after(study(tmp_path), 0.7).course(1, NOISE)
    reason = course.hopeless({64: measurement(64, ttft=timing(0.93))})
    assert reason == "ttft_p99_s@64 is 0.93 s, 0.13 s above the SLO; it meets it with a probability below 1 %"
    assert course.hopeless({64: measurement(64, ttft=timing(0.83))}) is None, "noise explains this"


def test_an_slo_that_a_lower_load_misses_already_stops(tmp_path: Path) -> None:
    reason = after(study(tmp_path), 0.7).course(1, NOISE).hopeless({16: measurement(16, ttft=timing(1.5))})
    assert reason == "ttft_p99_s@64 is at least about 1.5 s, 0.7 s above the SLO; it meets it with a probability below 1 %"


def test_while_nothing_meets_the_slo_what_comes_nearer_to_it_than_all_before_goes_on(tmp_path: Path) -> None:
    course = after(study(tmp_path), 4.0, 3.0, 5.0).course(1, NOISE)
    assert course.hopeless({64: measurement(64, ttft=timing(2.5))}) is None
    assert course.hopeless({64: measurement(64, ttft=timing(3.1))}) is None, "noise explains this"
    assert course.hopeless({16: measurement(16, ttft=timing(2.0))}) is None, "at the busiest it may be nearer"
    reason = course.hopeless({64: measurement(64, ttft=timing(3.5))})
    assert reason == "ttft_p99_s@64 is 3.5 s, 2.7 s above the SLO; it comes nearer to the SLOs than trial #1 with a probability below 1 %"


def test_the_first_trial_is_measured_whatever_it_misses(tmp_path: Path) -> None:
    assert Pruner(study(tmp_path)).course(1, NOISE).hopeless({64: measurement(64, ttft=timing(900.0))}) is None


def test_trials_that_never_ended_set_no_mark(tmp_path: Path) -> None:
    pruner = after(study(tmp_path), 4.0)
    stopped = [seen(1, {64: measurement(64, ttft=timing(1.0))}, "pruned"), seen(2, {64: measurement(64, ttft=timing(1.0))}, "infeasible")]
    pruner.learn([seen(0, {}), *stopped])
    assert pruner.course(1, NOISE).hopeless({64: measurement(64, ttft=timing(3.0))}) is None


def test_of_trials_that_all_miss_the_slo_the_nearest_is_measured_and_many_are_stopped(tmp_path: Path) -> None:
    done = search(study(tmp_path, constraints=[{**SOON, "max": 0.001}]), np.random.default_rng(5), 40, NOISE)
    found = [server.curve(np.random.default_rng(), 0.0)[64].ttft.p99 for server, _ in done]
    assert done[int(np.argmin(found))][1] is None, "the nearest is measured"
    assert 10 < sum(reason is not None for _, reason in done) < 38


def test_an_slo_that_peers_missed_after_showing_the_same_stops(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pruner = Pruner(study(tmp_path, constraints=[{"metric": "tpot_p99_s", "at": 16, "max": 0.001}]))
    good = {level: measurement(level, tpot=timing(0.0009)) for level in LEVELS}
    pruner.learn([*(seen(number, Server.drawn(rng).curve(rng, NOISE)) for number in range(30)), seen(30, {16: good[16]})])
    reason = pruner.course(1, NOISE).hopeless({64: Server(0.01, 16).at(64, rng, NOISE)})
    assert reason is not None
    assert reason.startswith("tpot_p99_s@16 is expected to be about 0.01")


def test_a_dominated_trial_says_by_which_and_in_what(tmp_path: Path) -> None:
    pruner = Pruner(study(tmp_path, constraints=[]))
    best = {level: measurement(level, ttft=timing(0.1), output_tokens_per_s=2000) for level in LEVELS}
    pruner.learn([seen(7, best)])
    poor = {4: measurement(4, ttft=timing(0.5), output_tokens_per_s=400), 64: measurement(64, output_tokens_per_s=400)}
    assert pruner.course(1, NOISE).hopeless(poor) == (
        "dominated by trial #7 with a probability above 99 %: ttft_p99_s@16 is at least about 0.5 s against 0.1 s, "
        "output_tokens_per_s@64 is 400 against 2e+03"
    )
    assert Pruner(study(tmp_path, constraints=[], pruner={"name": "slo"})).course(1, NOISE).hopeless(poor) is None


def test_what_has_shown_all_that_is_asked_for_is_measured_and_the_rest_is_run_for_the_front_only(tmp_path: Path) -> None:
    pruner = Pruner(study(tmp_path, constraints=[]))
    best = {level: measurement(level, ttft=timing(0.1), output_tokens_per_s=2000) for level in LEVELS}
    pruner.learn([seen(0, best, default=True)])
    course = pruner.course(1, NOISE)
    worse = {level: measurement(level, ttft=timing(0.11), output_tokens_per_s=1900) for level in LEVELS}
    better = {level: measurement(level, ttft=timing(0.09), output_tokens_per_s=1900) for level in LEVELS}
    assert run(course, worse) == ({16: worse[16], 64: worse[64]}, None)
    assert run(course, better) == (better, None)


def test_one_level_leaves_nothing_to_stop(tmp_path: Path) -> None:
    one = study(tmp_path, workload={"scenario": "D(64,32)", "levels": [16]}, objectives=[FAST], constraints=[{**SOON, "at": 16}])
    curve = {16: measurement(16, ttft=timing(9.0))}
    assert run(Pruner(one).course(1, NOISE), curve) == (curve, None)


def test_objectives_at_their_best_level_and_three_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    wanted = [FAST, {**MUCH, "at": "best", "per": None}, {"metric": "tpot_mean_s", "at": 4, "direction": "minimize"}]
    done = search(study(tmp_path, objectives=wanted), rng, 40, NOISE)
    assert 0 < sum(reason is not None for _, reason in done) < 40


def test_goodput_is_looked_for_after_the_levels_and_its_bounds_must_hold_at_the_lowest(tmp_path: Path) -> None:
    workload = {"scenario": "D(64,32)", "levels": [4, 16], "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.5}]}}
    goal = [{"metric": "concurrency", "at": "goodput", "direction": "maximize"}]
    pruner = Pruner(study(tmp_path, workload=workload, objectives=goal, constraints=[]))
    course = pruner.course(0, NOISE)
    good, bad = measurement(4, ttft=timing(0.1)), measurement(16, ttft=timing(0.9))
    assert course.next_level({4: good, 16: bad}) == 8
    assert course.hopeless({4: measurement(4, ttft=timing(0.9))}) is None, "no trial was measured yet"
    pruner.learn([seen(0, {4: good, 16: bad})])
    reason = course.hopeless({4: measurement(4, ttft=timing(0.9))})
    assert reason == "ttft_p99_s@4 is 0.9 s, 0.4 s above the SLO; it meets it with a probability below 1 %"


class TestCourseOf:
    def test_the_default_and_a_study_without_pruner_run_every_level(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        ledger = open_ledger(tmp_path, storage)
        assert isinstance(course_of(ledger, ask(ledger)), EveryLevel)
        plain = open_ledger(tmp_path, storage, study_name="plain", pruner={"name": "none"})
        tell(plain, ask(plain))
        assert isinstance(course_of(plain, ask(plain)), EveryLevel)

    def test_the_default_looks_for_goodput(self, tmp_path: Path) -> None:
        workload = {"scenario": "D(64,32)", "levels": [1, 4], "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.5}]}}
        goal = [{"metric": "concurrency", "at": "goodput", "direction": "maximize"}]
        ledger = open_ledger(tmp_path, optuna.storages.InMemoryStorage(), workload=workload, objectives=goal)
        assert isinstance(course_of(ledger, ask(ledger)), GoodputCourse)

    def test_a_study_learns_from_its_trials_and_one_that_goes_on_from_all_before(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        ledger = open_ledger(tmp_path, storage, trials=9)
        asked = ask(ledger)
        curve = {level: measured(asked.configuration, level) for level in (1, 4)}
        asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
        tell(ledger, asked)
        poor = {1: measurement(1, latency=timing(9.0)), 4: measurement(4, latency=timing(9.0), output_tokens_per_s=1.0)}
        again = ask(ledger)
        for known in (ledger, open_ledger(tmp_path, storage, trials=9)):
            assert run(course_of(known, again), poor) == (poor, None), "all is shown after two levels"
            assert course_of(known, again, noise=0.01).hopeless({4: poor[4]}) is None, "latency of one user is unknown"


@pytest.mark.parametrize(
    ("pruner", "line"),
    [
        ({"confidence": 1.5}, "pruner.confidence"),
        ({"confidence": 0.5}, "pruner.confidence"),
        ({"name": "hyperband"}, "pruner.name"),
        ({"order": "busiest"}, "pruner.order"),
        ({"patience": 3}, "pruner.patience"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path, pruner: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(tmp_path, pruner=pruner)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
