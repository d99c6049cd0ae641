from __future__ import annotations

import json
import os
import platform
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.doubles import (
    DEFAULTS,
    SPACE,
    BackendDouble,
    BenchmarkDouble,
    EngineDouble,
    GateDouble,
    ProgressDouble,
    World,
    measured,
    measurement,
    settings,
)
from tuner import __version__, study
from tuner.errors import Infeasible, Systemic, Transient, TrialFailure
from tuner.owner import Owner
from tuner.report.pages import Pages
from tuner.runner import Patience, run_trials
from tuner.server_facts import Startup
from tuner.storage import open_storage
from tuner.study import Ledger
from tuner.trial import Rig

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def run(folder: Path, storage: optuna.storages.BaseStorage, world: World, **changes: Any) -> tuple[Ledger, ProgressDouble]:
    """A run of the same command: what the session does around the trials."""
    config = settings(folder, **changes)
    ledger = Ledger(config, storage, DEFAULTS)
    ledger.recover()
    progress = ProgressDouble(world)
    rig = Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), config.workload)
    run_trials(ledger, rig, progress, Pages(ledger, folder / "artifacts"))
    return ledger, progress


def raising(stage: str, *errors: BaseException | None) -> Callable[[str], None]:
    """Raises one error after the other each time that `stage` is reached."""
    rest = list(errors)

    def at(reached: str) -> None:
        if reached == stage and rest and (error := rest.pop(0)) is not None:
            raise error

    return at


def assert_exact(ledger: Ledger, trials: int) -> None:
    """As many finished trials as asked for, each another configuration, the default one of them, nothing in progress."""
    assert len(ledger.finished) == trials
    assert len({(str(t.params), t.user_attrs.get("default")) for t in ledger.finished}) == trials
    assert sum(bool(t.user_attrs.get("default")) for t in ledger.finished) == 1
    assert not ledger.study.get_trials(states=(TrialState.RUNNING,))
    assert ledger.remaining == 0


class TestPatience:
    def test_as_many_of_a_kind_in_a_row_end_the_study(self) -> None:
        patience = Patience(3, measured=False)
        patience.failed(Transient("a"))
        patience.failed(Transient("b"))
        with pytest.raises(Systemic, match=r"^3 trials in a row failed \(max_consecutive_failures\): no port$") as caught:
            patience.failed(Transient("no port", "the log"))
        assert caught.value.detail == "the log"

    def test_infeasible_from_the_start(self) -> None:
        patience = Patience(2, measured=False)
        patience.failed(Infeasible("a"))
        with pytest.raises(Systemic, match=r"^2 trials in a row were infeasible"):
            patience.failed(Infeasible("out of memory"))

    def test_infeasible_ones_end_nothing_once_something_was_measured(self) -> None:
        patience = Patience(2, measured=True)
        for _ in range(5):
            patience.failed(Infeasible("out of memory"))

    @pytest.mark.parametrize("measured", [True, False])
    def test_another_kind_breaks_the_row(self, measured: bool) -> None:
        patience = Patience(2, measured)
        for failure in (Transient("a"), Infeasible("b"), Transient("c"), Infeasible("d")):
            patience.failed(failure)

    def test_a_measured_trial_breaks_the_row(self) -> None:
        patience = Patience(2, measured=False)
        for _ in range(3):
            patience.failed(Transient("a"))
            patience.measured()
        patience.failed(Transient("a"))
        with pytest.raises(Systemic):
            patience.failed(Transient("a"))

    def test_a_limit_of_one_stops_at_once(self) -> None:
        with pytest.raises(Systemic):
            Patience(1, measured=True).failed(Transient("a"))


class TestRun:
    def test_undisturbed(self, tmp_path: Path) -> None:
        world = World()
        ledger, progress = run(tmp_path, optuna.storages.InMemoryStorage(), world)
        assert_exact(ledger, 4)
        assert world.deployed[0] == {"n_ctx": 8192}
        assert world.open == 0
        assert progress.lines[0] == "trial 0 default"
        assert progress.lines.count("ended measured") == 4

    def test_keeps_what_is_known_in_the_study_and_beside_the_logs(self, tmp_path: Path) -> None:
        ledger, _ = run(tmp_path, optuna.storages.InMemoryStorage(), World(), trials=1)
        attributes = ledger.study.trials[0].user_attrs
        assert attributes["configuration"] == {"n_ctx": 8192}
        assert attributes["effective"] == {"n_parallel": 4, "n_ctx_slot": 2048}
        assert attributes["startup"] == {"weights_gib": 0.0}
        assert attributes["server"] == {"1": {"running_max": 2, "preemptions": 1}, "4": {"running_max": 2, "preemptions": 0}}
        assert attributes["measurements"]["4"] == measured({"n_ctx": 8192}, 4).to_dict()
        assert set(attributes["durations_s"]) == {"deploy", "warm-up", "load"}
        assert attributes["versions"] == {
            "python": platform.python_version(),
            "tuner": __version__,
            "optuna": optuna.__version__,
            "llamacpp": "double 1.0",
            "genai_bench": "0.0.5",
        }
        folder = tmp_path / "studies/some-study/trial-0000"
        assert attributes["folder"] == str(folder)
        kept = json.loads((folder / "trial.json").read_text())
        assert kept.items() >= {"trial": 0, "study": "some-study", "configuration": {"n_ctx": 8192}}.items()
        assert kept["measurements"] == attributes["measurements"]
        assert not (folder / "failure.txt").exists()

    def test_the_gate_learns_from_each_trial_and_again_when_the_study_goes_on(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        world = World(raising("run 4", None, Infeasible("out of memory", memory="run")))
        run(tmp_path, storage, world, trials=2)
        taught = [(configuration, failed, measured) for configuration, _, failed, measured in world.taught]
        assert taught == [({"n_ctx": 8192}, None, True), (world.deployed[1], "run", False)]
        assert {startup for _, startup, _, _ in world.taught} == {Startup(weights_gib=0.0)}
        resumed = World()
        run(tmp_path, storage, resumed, trials=3)
        assert resumed.taught[:2] == world.taught
        assert len(resumed.taught) == 3

    def test_what_is_refused_is_never_deployed(self, tmp_path: Path) -> None:
        world = World(refuses=lambda configuration: "too many" if configuration.get("n_parallel") == 16 else None)
        ledger, _ = run(tmp_path, optuna.storages.InMemoryStorage(), world, trials=100)
        assert len(ledger.finished) == len(world.deployed) == 32
        assert set(ledger.refused) == {"too many"}
        assert not any(configuration.get("n_parallel") == 16 for configuration in world.deployed)

    def test_missed_slo_is_said(self, tmp_path: Path) -> None:
        _, progress = run(tmp_path, optuna.storages.InMemoryStorage(), World(), constraints=[SLO | {"max": 0.05}], trials=1)
        assert progress.lines[-1] == "ended measured misses latency_p99_s@1<=0.05"

    def test_infeasible_keeps_what_was_measured_before(self, tmp_path: Path) -> None:
        world = World(raising("run 4", None, Infeasible("out of memory", "the log's end")))
        ledger, progress = run(tmp_path, optuna.storages.InMemoryStorage(), world)
        assert_exact(ledger, 4)
        trial = ledger.study.trials[1]
        assert (trial.state, trial.user_attrs["outcome"], trial.user_attrs["reason"]) == (TrialState.PRUNED, "infeasible", "out of memory")
        assert list(trial.user_attrs["measurements"]) == ["1"]
        folder = tmp_path / "studies/some-study/trial-0001"
        assert list(json.loads((folder / "trial.json").read_text())["measurements"]) == ["1"]
        assert (folder / "failure.txt").read_text() == "out of memory\n\nthe log's end\n"
        assert "ended infeasible out of memory" in progress.lines

    def test_no_value_for_an_objective_is_infeasible(self, tmp_path: Path) -> None:
        objectives = [{"metric": "tpot_p99_s", "direction": "minimize"}]
        world = World(measures=lambda configuration, level: measurement(level, tpot=None))
        with pytest.raises(Systemic, match=r"3 trials in a row were infeasible.*tpot_p99_s@4 has no value"):
            run(tmp_path, optuna.storages.InMemoryStorage(), world, objectives=objectives)

    def test_transient_is_tried_again(self, tmp_path: Path) -> None:
        world = World(raising("deploy", None, Transient("no port", "the log's end")))
        ledger, progress = run(tmp_path, optuna.storages.InMemoryStorage(), world)
        assert_exact(ledger, 4)
        failed, retried = ledger.study.trials[1:3]
        assert (failed.state, failed.user_attrs["outcome"], failed.user_attrs["reason"]) == (TrialState.FAIL, "failed", "no port")
        assert retried.params == failed.params
        assert retried.user_attrs["retry_of"] == 1
        assert (tmp_path / "studies/some-study/trial-0001/failure.txt").read_text().startswith("no port")
        assert "ended failed, will be tried again no port" in progress.lines

    def test_a_configuration_that_always_fails_does_not_stop_the_study(self, tmp_path: Path) -> None:
        def at(stage: str) -> None:
            if stage == "ready" and world.deployed[-1].get("n_parallel") == 16:
                raise Transient("not ready in time")

        world = World(at)
        space = {"n_parallel": SPACE["n_parallel"]}
        ledger, progress = run(tmp_path, optuna.storages.InMemoryStorage(), world, space=space, trials=9)
        assert "ended failed not ready in time" in progress.lines
        assert Counter(str(c.get("n_parallel")) for c in world.deployed) == {"None": 1, "1": 1, "2": 1, "8": 1, "16": study.RETRIES + 1}
        assert len(ledger.finished) == 4

    def test_systemic_stops_at_once_and_the_study_goes_on_later(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        world = World(raising("deploy", None, Systemic("no such executable", "PATH=...")))
        with pytest.raises(Systemic, match="no such executable"):
            run(tmp_path, storage, world)
        assert len(world.deployed) == 1
        assert world.open == 0
        assert (tmp_path / "studies/some-study/trial-0001/failure.txt").read_text() == "no such executable\n\nPATH=...\n"
        ledger, _ = run(tmp_path, storage, World())
        assert_exact(ledger, 4)
        assert ledger.study.trials[2].params == ledger.study.trials[1].params

    def test_broken_infrastructure_stops_the_study_and_the_default_is_measured_later(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        world = World(raising("deploy", *[Transient("no port")] * 99))
        with pytest.raises(Systemic, match=r"^3 trials in a row failed \(max_consecutive_failures\): no port"):
            run(tmp_path, storage, world)
        assert world.calls.count("deploy") == 3
        ledger, _ = run(tmp_path, storage, World())
        assert_exact(ledger, 4)

    def test_ends_when_the_space_is_known(self, tmp_path: Path) -> None:
        ledger, _ = run(tmp_path, optuna.storages.InMemoryStorage(), World(), space={"n_parallel": SPACE["n_parallel"]}, trials=50)
        assert len(ledger.finished) == 5
        assert ledger.remaining == 45

    def test_a_trial_that_a_killed_neighbour_left_is_taken_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = optuna.storages.InMemoryStorage()
        neighbour = Ledger(settings(tmp_path), storage, DEFAULTS).ask()
        assert neighbour is not None

        def at(stage: str) -> None:
            if stage == "run 1":
                monkeypatch.setattr(Owner, "alive", lambda owner: False)

        ledger, _ = run(tmp_path, storage, World(at))
        assert_exact(ledger, 4)

    def test_what_others_run_is_left_to_them(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        Ledger(settings(tmp_path), storage, DEFAULTS).ask()
        ledger, _ = run(tmp_path, storage, World())
        assert len(ledger.finished) == 3


def test_what_was_measured_stays_where_only_the_removal_is_interrupted(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    world = World(at=raising("close", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, storage, world, trials=2)
    [trial] = optuna.load_study(storage=storage, study_name="some-study").get_trials(states=(TrialState.COMPLETE,))
    assert trial.user_attrs["outcome"] == "measured"
    again = World()
    ledger, _ = run(tmp_path, storage, again, trials=2)
    assert_exact(ledger, 2)
    assert len(again.deployed) == 1


def test_what_was_measured_in_part_is_measured_again(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, storage, World(at=raising("run 4", KeyboardInterrupt())), trials=1)
    again = World()
    ledger, _ = run(tmp_path, storage, again, trials=1)
    assert_exact(ledger, 1)
    assert len(again.deployed) == 1


class Interruption:
    """Strikes once, at the given one of all points that are passed."""

    def __init__(self, strike: Callable[[], None], at: int = -1) -> None:
        self.strike = strike
        self.at = at
        self.passed = 0

    def point(self, *_: Any) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.strike()


class BrittleStorage(optuna.storages.InMemoryStorage):
    """Passes a point before and after each write. Once `dead`, it takes none: what a killed process would have written is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.point: Callable[[], None] = lambda: None
        self.dead = False

    def _write(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._check()
        self.point()
        self._check()
        result = getattr(super(), name)(*arguments, **options)
        self.point()
        self._check()
        return result

    def _check(self) -> None:
        if self.dead:
            raise KeyboardInterrupt


for _name in (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_state_values",
):

    def _writes(self: BrittleStorage, *arguments: Any, _name: str = _name, **options: Any) -> Any:
        return self._write(_name, *arguments, **options)

    setattr(BrittleStorage, _name, _writes)


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Each run belongs to an owner of its own, who is dead when the next begins. Append to begin another life."""
    lives = [0]
    monkeypatch.setattr(Owner, "current", classmethod(lambda cls: Owner("here", lives[-1], 0.0)))
    monkeypatch.setattr(Owner, "alive", lambda owner: owner.pid == lives[-1])
    monkeypatch.setattr(study, "UNSIGNED", timedelta(0))
    return lives


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, Transient, Infeasible, Systemic])
def test_exactly_n_whatever_happens_at_any_stage(tmp_path: Path, lives: list[int], error: type[BaseException]) -> None:
    def strike() -> None:
        raise error("struck")

    def struck(interruption: Interruption) -> Callable[[str], None]:
        # a failure of the trial comes from the engine, the backend or the benchmark; anything else may come from anywhere
        anywhere = not issubclass(error, TrialFailure)
        return lambda stage: interruption.point() if anywhere or not stage.startswith("progress") else None

    counter = Interruption(strike)
    run(tmp_path / "count", BrittleStorage(), World(struck(counter)), trials=3, constraints=[SLO])
    assert counter.passed > 25
    for at in range(1, counter.passed + 1):
        storage, world = BrittleStorage(), World(struck(Interruption(strike, at)))
        for _ in range(3):
            lives.append(len(lives))
            try:
                ledger, _ = run(tmp_path / str(at), storage, world, trials=3, constraints=[SLO])
                break
            except error:
                assert world.open == 0
        assert_exact(ledger, 3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_exactly_n_whatever_write_is_the_last(tmp_path: Path, lives: list[int], killed: bool) -> None:
    counter, storage = Interruption(lambda: None), BrittleStorage()
    storage.point = counter.point
    run(tmp_path / "count", storage, World(), trials=3, constraints=[SLO])
    assert counter.passed > 100
    for at in range(1, counter.passed + 1):
        storage, world = BrittleStorage(), World()

        def strike(storage: BrittleStorage = storage) -> None:
            storage.dead = killed
            raise KeyboardInterrupt

        storage.point = Interruption(strike, at).point
        for _ in range(3):
            lives.append(len(lives))
            try:
                ledger, _ = run(tmp_path / str(at), storage, world, trials=3, constraints=[SLO])
                break
            except KeyboardInterrupt:
                storage.dead = False
        assert_exact(ledger, 3)
        assert ledger.study.user_attrs["fingerprint"] == ledger.settings.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["launch", "deploy", "ready", "run 4", "close", "progress trial", "progress ended"])
def test_exactly_n_after_a_real_kill(tmp_path: Path, stage: str) -> None:
    def run_and_die() -> None:
        seen = Counter[str]()

        def at(reached: str) -> None:
            seen[reached] += 1
            if reached == stage and seen[reached] == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        run(tmp_path, open_storage(settings(tmp_path).storage.url), World(at), trials=3)

    if (child := os.fork()) == 0:
        try:
            run_and_die()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    ledger, _ = run(tmp_path, open_storage(settings(tmp_path).storage.url), World(), trials=3)
    assert_exact(ledger, 3)
