from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from tests.confirm.studies import Shown, Study, attributes, flat, gaining
from tests.doubles import OBJECTIVES
from tuner.confirm.statistics import PRIOR_DF
from tuner.confirm.verdict import Verdict, verdict_of
from tuner.errors import Infeasible, Systemic, Transient
from tuner.launch import Configuration
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": "min", "max": 0.5}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None)


def verdict(study: Study) -> Verdict:
    return verdict_of(study.confirm())


def kinds(found: Verdict) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_a_clear_gain_is_found_in_three_rounds(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12).search()
    found = verdict(study)
    assert kinds(found) == ["improved", "improved"]
    assert found.deployments == len(study.world.deployed) == 9
    latency, throughput = found.findings
    assert latency.gain is not None
    assert latency.gain.percent == pytest.approx(20, abs=6)
    assert throughput.gain is not None
    assert throughput.gain.percent == pytest.approx(25, abs=7)
    assert throughput.gain.low is not None
    assert throughput.gain.low > 0
    assert throughput.others is not None
    cost = throughput.others["latency_p99_s@1"]
    assert cost is not None
    assert cost.percent == pytest.approx(-11, abs=6)
    assert found.recommended == [latency.trial, throughput.trial]


def test_rounds_alternate_and_are_kept_apart_from_the_study(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12).search()
    before = len(study.ledger.study.trials)
    study.confirm()
    assert [(kept["round"], kept["arm"]) for kept in attributes(study)] == [
        *((0, arm) for arm in (0, 1, 2)),
        *((1, arm) for arm in (2, 1, 0)),
        *((2, arm) for arm in (0, 1, 2)),
    ]
    assert len(study.ledger.study.trials) == before
    assert [bool(kept.get("default")) for kept in attributes(study)] == [kept["arm"] == 0 for kept in attributes(study)]
    assert study.world.deployed[0] == {"n_ctx": 8192}
    assert (study.ledger.settings.study_folder / "confirm" / "trial-0008" / "trial.json").exists()


def test_only_needed_levels_are_run(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.0, trials=12, objectives=OBJECTIVES[1:]).search()
    study.confirm()
    assert "run 1" not in study.world.calls
    assert "run 4" in study.world.calls


@pytest.mark.parametrize("at", ["best", "goodput"])
def test_a_level_that_the_measurements_choose_needs_all(tmp_path: Path, at: str) -> None:
    objectives = [{"metric": "output_tokens_per_s", "at": at, "direction": "maximize"}]
    workload = {"scenario": "D(64,32)", "levels": [1, 4], "warmup_requests": 0}
    goodput = {"goodput": {"bounds": [{"metric": "latency_p99_s", "max": 1.0}], "high": 4}} if at == "goodput" else {}
    study = Study(tmp_path, gaining(1.25, 1.25), 0.0, trials=12, objectives=objectives, workload=workload | goodput).search()
    assert kinds(verdict(study)) == ["improved"]
    assert study.world.calls.count("run 1") == study.world.calls.count("run 4") == 6


def test_equal_configurations_are_told_equal(tmp_path: Path) -> None:
    def slightly(configuration: Any) -> tuple[float, float]:
        return (0.4, 100.0) if "n_parallel" not in configuration else (0.399, 100.1)

    study = Study(tmp_path, slightly, 0.03, trials=8).search()
    found = verdict(study)
    assert kinds(found) == ["same", "same"]
    assert found.recommended == []


def test_a_study_that_found_nothing_better_confirms_nothing(tmp_path: Path) -> None:
    def worse(configuration: Any) -> tuple[float, float]:
        return (0.4, 100.0) if "n_parallel" not in configuration else (0.8, 50.0)

    study = Study(tmp_path, worse, trials=8).search()
    found = verdict(study)
    assert kinds(found) == ["default_best", "default_best"]
    assert study.world.deployed == []
    assert not study.confirmation.pending


def test_no_repeats_no_confirmation(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12, confirm={"repeats": 0}).search()
    found = verdict(study)
    assert kinds(found) == ["unconfirmed", "unconfirmed"]
    assert study.world.deployed == []
    assert found.findings[0].gain is not None
    assert found.findings[0].gain.percent == pytest.approx(20)
    assert found.findings[0].gain.low is None


def test_noise_is_read_from_all_repeats(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.6, 1.6), 0.12, trials=12).search()
    assert [noise.df for noise in study.confirmation.noise] == [PRIOR_DF, PRIOR_DF]
    confirmation = study.confirm()
    assert all(noise.df > PRIOR_DF + 3 for noise in confirmation.noise)
    assert all(0.06 < noise.sd < 0.2 for noise in confirmation.noise)
    assert confirmation.on_front != confirmation.finalists.on_front


@pytest.mark.parametrize("stage", ["deploy", "ready", "run 4", "close"])
@pytest.mark.parametrize("hit", [1, 5])
def test_interrupted_it_goes_on_exactly(tmp_path: Path, stage: str, hit: int) -> None:
    straight = Study(tmp_path / "a", gaining(1.25, 1.25), trials=12).search()
    expected = verdict(straight)
    study = Study(tmp_path / "b", gaining(1.25, 1.25), trials=12).search()
    study.world.at = once(stage, hit, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        study.confirm()
    assert study.confirmation.pending
    found = verdict(study)
    assert found == expected
    assert not study.confirmation.pending
    done = [(kept["round"], kept["arm"]) for kept in attributes(study) if kept["outcome"] == "measured"]
    assert done == [(kept["round"], kept["arm"]) for kept in attributes(straight)]
    before = len(study.world.deployed)
    assert verdict(study) == found
    assert len(study.world.deployed) == before


def test_broken_off_between_any_two_writes_it_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that is written down by several writes could go on as half of another."""
    expected = verdict(Study(tmp_path / "straight", gaining(1.25, 1.25), trials=4).search())
    written = {"create_new_trial", "set_trial_user_attr", "set_trial_system_attr", "set_trial_param", "set_trial_state_values"}
    broken = 0
    while True:
        study, left = Study(tmp_path / str(broken), gaining(1.25, 1.25), trials=4).search(), broken

        def strike(write: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            nonlocal left
            result = write(*arguments, **named)
            if (left := left - 1) == -1:
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch:
            for name in written:
                patch.setattr(study.storage, name, partial(strike, getattr(study.storage, name)))
            with pytest.raises(KeyboardInterrupt):
                study.confirm()
        if len(study.world.deployed) > 2:
            break
        with monkeypatch.context() as patch:
            patch.setattr("tuner.owner.Owner.alive", lambda owner: False)
            assert verdict(study).findings == expected.findings, f"broken off after write {broken}"
        broken += 1
    assert broken > 2 * len(written)


def test_what_a_killed_process_left_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    monkeypatch.setattr(Ledger, "tell_interrupted", lambda ledger, trial: None)
    study.world.at = once("ready", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        study.confirm()
    study.confirm()
    assert study.progress.lines[-1].startswith("Another process is confirming")
    monkeypatch.setattr("tuner.owner.Owner.alive", lambda owner: False)
    assert kinds(verdict(study)) == ["improved", "improved"]


def test_a_transient_failure_is_tried_again(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.world.at = once("deploy", 2, Transient("no port"))
    found = verdict(study)
    assert kinds(found) == ["improved", "improved"]
    assert found.deployments == 10


def test_a_deployment_that_keeps_failing_is_left_out_of_its_round(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.world.at = raising("deploy", {2: Transient("no port"), 3: Transient("no port")})
    found = verdict(study)
    assert kinds(found) == ["improved", "improved"]
    assert [finding.rounds for finding in found.findings] == [3, 3]


def test_a_host_that_fails_stops_the_confirmation(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.world.at = once("deploy", 4, Systemic("no daemon"))
    with pytest.raises(Systemic):
        study.confirm()
    study.world.at = lambda stage: None
    assert kinds(verdict(study)) == ["improved", "improved"]


def test_a_finalist_that_cannot_be_deployed_again_is_not_recommended(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.world.at = once("deploy", 2, Infeasible("out of memory"))
    found = verdict(study)
    assert sorted(kinds(found)) == ["failed", "improved"]
    failed = next(finding for finding in found.findings if finding.kind == "failed")
    assert failed.reason == f"trial #{failed.trial} did not hold when deployed again: out of memory"
    assert failed.trial not in found.recommended


def test_defaults_that_cannot_be_deployed_again(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.world.at = once("deploy", 1, Infeasible("out of memory"))
    found = verdict(study)
    assert kinds(found) == ["failed", "failed"]
    assert found.findings[0].reason == "the defaults did not hold when deployed again: out of memory"
    assert not study.confirmation.pending


def test_defaults_that_were_never_measured(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12)
    asked = study.ledger.ask()
    assert asked is not None
    study.ledger.tell_infeasible(asked.trial, "out of memory")
    study.search()
    found = verdict(study)
    assert found.default_missing == "out of memory"
    assert kinds(found) == ["unconfirmed", "unconfirmed"]
    assert found.findings[0].gain is None
    assert len(found.recommended) == 2
    assert study.world.deployed == []


def test_a_finalist_that_misses_an_slo_is_not_recommended(tmp_path: Path) -> None:
    better = gaining(1.25, 1.25)
    study = Study(tmp_path, better, trials=12, constraints=[SLO], confirm={"finalists": 2}).search()
    study.shown = slow_with_many_slots(0.6, better)
    found = verdict(study)
    assert kinds(found) == ["improved", "misses"]
    assert found.findings[1].slo == "latency_p99_s@1<=0.5"
    assert found.findings[1].slo_chance < 0.01
    assert found.findings[1].trial not in found.recommended


def test_a_finalist_that_certainly_misses_an_slo_costs_no_further_rounds(tmp_path: Path) -> None:
    better = gaining(1.25, 1.05)
    study = Study(tmp_path, better, trials=12, constraints=[SLO]).search()
    study.shown = slow_with_many_slots(0.6, better)
    found = verdict(study)
    assert kinds(found) == ["improved", "misses"]
    assert found.deployments == 9


def test_a_finalist_near_a_bound_is_not_recommended(tmp_path: Path) -> None:
    better = gaining(1.25, 1.25)
    study = Study(tmp_path, better, trials=12, constraints=[SLO]).search()
    study.shown = slow_with_many_slots(0.5001, better)
    found = verdict(study)
    assert kinds(found) == ["improved", "misses"]
    assert 0.3 < found.findings[1].slo_chance < 0.6


def test_defaults_that_miss_an_slo(tmp_path: Path) -> None:
    def shown(configuration: Any) -> tuple[float, float]:
        return (0.6, 100.0) if "n_parallel" not in configuration else (0.4, 100.1)

    study = Study(tmp_path, shown, 0.02, trials=8, constraints=[SLO]).search()
    found = verdict(study)
    assert found.default_misses == ("latency_p99_s@1<=0.5",)
    assert kinds(found) == ["improved", "same"]
    assert found.recommended == [found.findings[0].trial]


def test_one_objective(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12, objectives=OBJECTIVES[1:]).search()
    found = verdict(study)
    assert kinds(found) == ["improved"]
    assert found.deployments == 6


def test_three_objectives(tmp_path: Path) -> None:
    third = {"metric": "latency_p50_s", "at": "max", "direction": "minimize"}
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12, objectives=[*OBJECTIVES, third]).search()
    assert kinds(verdict(study)) == ["improved"] * 3


def test_one_finalist_stands_for_all_objectives(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), 0.03, trials=12, confirm={"finalists": 1}).search()
    found = verdict(study)
    assert len({finding.trial for finding in found.findings}) == 1
    assert len(study.confirmation.arms) == 2


def test_a_longer_search_with_other_finalists_is_confirmed_anew(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=4)
    worth = {1: (0.3, 120.0), 4: (0.2, 150.0)}
    numbers: dict[str, int] = {}

    def shown(configuration: Any) -> tuple[float, float]:
        number = numbers.setdefault(str(sorted(configuration.items())), len(numbers))
        return worth.get(number, (0.4, 100.0))

    study.shown = shown
    study.search()
    assert [finding.trial for finding in verdict(study).findings] == [1, 1]
    study.changes["trials"] = 6
    study.ledger = study._open()
    study.search()
    found = verdict(study)
    assert [finding.trial for finding in found.findings] == [4, 4]
    assert kinds(found) == ["improved", "improved"]
    assert {kept["race"] for kept in attributes(study)} == {"0,1", "0,4"}


def test_without_a_feasible_trial_nothing_is_confirmed(tmp_path: Path) -> None:
    study = Study(tmp_path, flat, trials=4, constraints=[{"metric": "latency_p99_s", "at": 1, "max": 0.2}]).search()
    found = verdict(study)
    assert found.findings == ()
    assert found.nearest is not None


def test_zero_has_no_ratio(tmp_path: Path) -> None:
    objectives = [OBJECTIVES[1], {"metric": "error_rate", "at": "max", "direction": "minimize"}]
    study = Study(tmp_path, gaining(1.25, 1.25), 0.0, trials=12, objectives=objectives).search()
    found = verdict(study)
    assert found.findings[0].kind == "improved"
    assert np.isfinite(found.findings[0].gain.percent) if found.findings[0].gain else False


def test_the_storage_holds_what_it_needs(tmp_path: Path) -> None:
    study = Study(tmp_path, gaining(1.25, 1.25), trials=12).search()
    study.confirm()
    names = {summary.study_name for summary in optuna.get_all_study_summaries(study.storage)}
    assert names == {"some-study", "some-study.confirm"}


def slow_with_many_slots(latency: float, otherwise: Shown) -> Shown:
    def shown(configuration: Configuration) -> tuple[float, float]:
        before, throughput = otherwise(configuration)
        return (latency if float(configuration.get("n_parallel", 0)) >= 8 else before), throughput

    return shown


def once(stage: str, hit: int, error: BaseException) -> Callable[[str], None]:
    return raising(stage, {hit: error})


def raising(stage: str, errors: dict[int, BaseException]) -> Callable[[str], None]:
    """Raises at these visits of a stage."""
    visits = 0

    def at(reached: str) -> None:
        nonlocal visits
        visits += reached == stage
        if reached == stage and visits in errors:
            raise errors[visits]

    return at
