"""tuner's own sampler in real studies: what it suggests, repeats, leaves out and survives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest

from tests.doubles import measured, measurement, settings, timing
from tests.ledger import ask, tell
from tests.test_space import every_kind
from tuner.launch import Configuration, Value
from tuner.prior.base import Prior
from tuner.search.knowledge import Knowledge
from tuner.search.proposal import Proposer
from tuner.search.tried import key
from tuner.storage import open_storage
from tuner.study import Asked, Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

FAST = {"metric": "latency_p99_s", "at": "min", "direction": "minimize"}
MUCH = {"metric": "output_tokens_per_s", "at": "max", "direction": "maximize"}
SOON = {"metric": "ttft_p99_s", "at": 4, "direction": "minimize"}
EVERY_KIND = {
    "n_parallel": {"type": "int", "low": 1, "high": 3},
    "n_batch": {"type": "power_of_two", "low": 64, "high": 256},
    "n_ubatch": {"type": "power_of_two", "low": 64, "high": 256},
    "speculative": {"type": "categorical", "choices": [True, False]},
    "draft": {"type": "int", "low": 1, "high": 3, "when": "speculative"},
    "draft_share": {"type": "float", "low": 0.1, "high": 0.5, "step": 0.2, "when": "draft >= 2"},
    "chunk": {"type": "ordinal", "choices": [512, 768], "when": "not speculative and n_batch > 64"},
    "n_ctx": 8192,
    "constraints": ["n_ubatch <= n_batch", "draft <= n_parallel"],
}
"""`tests.test_space.every_kind` as a configuration writes it."""
DEFAULT = {"n_parallel": 1, "n_batch": 256, "n_ubatch": 128, "speculative": False, "draft": 1, "draft_share": 0.1, "chunk": 512}
CONTINUOUS = {
    "n_parallel": {"type": "int", "low": 1, "high": 64, "log": True},
    "share": {"type": "float", "low": 0.0, "high": 1.0},
    "rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    "constraints": ["share <= 0.9"],
}


@pytest.fixture(autouse=True)
def _warnings_are_faults() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def ledger(
    folder: Path,
    storage: optuna.storages.BaseStorage | None = None,
    defaults: Mapping[str, Value] = DEFAULT,
    knowledge: Knowledge | None = None,
    **changes: Any,
) -> Ledger:
    composed: dict[str, Any] = {
        "space": EVERY_KIND,
        "trials": 100,
        "sampler": {"name": "ehvi", "startup_trials": 3},
        "objectives": [FAST, MUCH],
    }
    return Ledger(
        settings(folder, **composed | changes), storage or optuna.storages.InMemoryStorage(), defaults, knowledge=knowledge or Knowledge()
    )


def run(study: Ledger, trials: int, told: Callable[[Ledger, Asked], object] = tell) -> list[dict[str, Any]]:
    """The configurations of so many trials, in their order."""
    found = []
    for _ in range(trials):
        asked = ask(study)
        told(study, asked)
        found.append(dict(asked.configuration))
    return found


def keys(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [key(configuration) for configuration in found]


def infeasible(study: Ledger, asked: Asked) -> None:
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    study.tell_infeasible(asked.trial, "ran out of memory")


def pruned(study: Ledger, asked: Asked) -> None:
    """Ends after the lower level."""
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    curve = {1: measured(asked.configuration, 1)}
    asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
    study.tell_pruned(asked.trial, curve, "dominated")


def kept(study: Ledger, asked: Asked) -> None:
    """As the runner does: what was measured stays with the trial."""
    curve = {level: measured(asked.configuration, level) for level in study.settings.workload.levels}
    asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
    asked.trial.set_user_attr("gpus", 1)
    tell(study, asked)


def test_the_configuration_stands_for_every_kind(tmp_path: Path) -> None:
    assert ledger(tmp_path).space == every_kind()


def test_the_same_seed_suggests_the_same(tmp_path: Path) -> None:
    first, again, other = (run(ledger(tmp_path, seed=seed), 9, kept) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_configuration_twice_and_none_that_breaks_a_constraint(tmp_path: Path) -> None:
    study = ledger(tmp_path)
    found = run(study, 20, kept)
    assert len(set(keys(found[1:]))) == 19, "the default is deployed as the engine has it"
    assert study.refused == []
    assert len(study.study.trials) == 20, "nothing was suggested in vain"
    assert all(study.space.violated(configuration) is None for configuration in found)


def test_finds_the_best_sooner_than_chance(tmp_path: Path) -> None:
    # least latency with one slot, most tokens with three and the largest batch: the front is 3 of 75 configurations
    study = ledger(tmp_path, objectives=[MUCH])
    run(study, 12, kept)
    best = max(trial.values[0] for trial in study.finished if trial.values and not trial.user_attrs.get("default"))
    assert best == pytest.approx(50 * 3 + 2.56)


def test_goes_on_from_a_database_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    before = run(ledger(tmp_path, open_storage(url)), 6, kept)
    after, again = (run(ledger(tmp_path, open_storage(url)), 2, kept) for _ in range(2))
    assert len(set(keys([*before[1:], *after, *again]))) == 9


def test_a_space_that_is_known_ends_the_study(tmp_path: Path) -> None:
    study = ledger(
        tmp_path,
        defaults={"n_parallel": 1},
        space={
            "n_parallel": {"type": "power_of_two", "low": 1, "high": 4},
            "n_batch": {"type": "ordinal", "choices": [64, 128], "default": 64},
        },
    )
    found = run(study, 6, kept)
    assert len(set(keys(found[1:]))) == 5
    assert study.ask() is None


def test_an_endless_space(tmp_path: Path) -> None:
    study = ledger(tmp_path, space=CONTINUOUS, defaults={"n_parallel": 4, "share": 0.5, "rate": 0.1})
    found = run(study, 10, kept)
    assert len(set(keys(found[1:]))) == 9
    assert all(0.001 <= configuration["rate"] <= 1 and configuration["share"] <= 0.9 for configuration in found[1:])


def test_what_is_refused_is_never_suggested(tmp_path: Path) -> None:
    def refuse(configuration: Configuration) -> str | None:
        return "too many" if configuration.get("n_parallel", 1) != 1 else None

    study = ledger(tmp_path)
    for _ in range(12):
        asked = study.ask(refuse)
        assert asked is not None
        assert asked.default or asked.configuration["n_parallel"] == 1
        kept(study, asked)
    assert study.refused == []


def test_where_all_is_refused_the_study_ends(tmp_path: Path) -> None:
    study = ledger(tmp_path)
    kept(study, ask(study))
    assert study.ask(lambda configuration: "never") is None


def test_what_runs_elsewhere_is_not_suggested(tmp_path: Path) -> None:
    study = ledger(tmp_path)
    run(study, 5, kept)
    asked = [ask(study) for _ in range(8)]
    assert len(set(keys([dict(one.configuration) for one in asked]))) == 8
    for one in asked:
        kept(study, one)
    done = [trial.user_attrs["configuration"] for trial in study.finished if not trial.user_attrs.get("default")]
    assert len(set(keys(done))) == len(done)


@pytest.mark.parametrize("trials", [2, 6], ids=["before the models", "with them"])
def test_what_another_process_is_just_about_to_begin_is_no_harm(tmp_path: Path, trials: int) -> None:
    study = ledger(tmp_path, knowledge=Knowledge(risk=lambda configuration: float(configuration["n_parallel"])))
    run(study, trials, kept)
    study.study.ask().suggest_int("n_parallel", 1, 3)  # the parameters of a trial are written one after the other
    ask(study)


def test_asked_by_many_before_anything_is_known(tmp_path: Path) -> None:
    study = ledger(tmp_path)
    assert len(set(keys([dict(ask(study).configuration) for _ in range(8)]))) == 8


@pytest.mark.parametrize("objectives", [[FAST], [MUCH], [FAST, MUCH, SOON]], ids=["one", "one upwards", "three"])
def test_any_number_of_objectives(tmp_path: Path, objectives: list[Any]) -> None:
    assert len(set(keys(run(ledger(tmp_path, objectives=objectives), 8, kept)))) == 8


@pytest.mark.parametrize(
    "constraints",
    [
        [{"metric": "latency_p99_s", "at": "max", "max": 0.9}],
        [{"metric": "latency_p99_s", "at": "max", "max": 1e-6}],
        [{"metric": "error_rate", "at": "max", "max": 0.01}],
        [{"metric": "output_tokens_per_s", "at": "max", "min": 100}, {"metric": "latency_p99_s", "at": "min", "max": 0.25}],
    ],
    ids=["met by some", "met by none", "no errors", "of objectives"],
)
def test_constraints(tmp_path: Path, constraints: list[Any]) -> None:
    assert len(set(keys(run(ledger(tmp_path, constraints=constraints), 8, kept)))) == 8


def test_a_bound_leads_to_the_best_that_meets_it(tmp_path: Path) -> None:
    # latency at the top is 0.4 s for each slot: without the bound three of them are best, with it one
    study = ledger(tmp_path, objectives=[MUCH], constraints=[{"metric": "latency_p99_s", "at": "max", "max": 0.5}])
    found = run(study, 10, kept)[1:]
    assert any(configuration["n_parallel"] == 1 and configuration["n_batch"] == 256 for configuration in found)
    assert study.front[0].values[0] == pytest.approx(50 + 2.56)


def test_nothing_but_failures(tmp_path: Path) -> None:
    assert len(set(keys(run(ledger(tmp_path), 10, infeasible)[1:]))) == 9


def test_failures_among_others_and_trials_that_were_stopped(tmp_path: Path) -> None:
    study = ledger(tmp_path)
    found = [run(study, 1, how)[0] for how in (kept, infeasible, pruned, kept, infeasible, pruned, pruned, kept, infeasible, kept)]
    assert len(set(keys(found[1:]))) == 9


@pytest.mark.parametrize("objective", ["output_tokens_per_s@best", "concurrency@goodput"])
def test_nothing_measured_to_the_end(tmp_path: Path, objective: str) -> None:
    metric, _, at = objective.partition("@")
    workload = {"scenario": "D(64,32)", "levels": [1, 4], "warmup_requests": 0}
    if at == "goodput":
        workload["goodput"] = {"bounds": [{"metric": "latency_p99_s", "max": 2.0}]}
    study = ledger(tmp_path, objectives=[{"metric": metric, "at": at, "direction": "maximize"}], workload=workload)
    assert len(set(keys(run(study, 7, pruned)[1:]))) == 6


def test_goodput(tmp_path: Path) -> None:
    workload = {
        "scenario": "D(64,32)",
        "levels": [1, 4],
        "warmup_requests": 0,
        "goodput": {"bounds": [{"metric": "latency_p99_s", "max": 1.0}]},
    }
    study = ledger(tmp_path, objectives=[{"metric": "output_tokens_per_s", "at": "goodput", "direction": "maximize"}], workload=workload)

    def told(study: Ledger, asked: Asked) -> None:
        assert study.settings.workload.goodput is not None
        curve: dict[int, Any] = {}
        while (level := study.settings.workload.goodput.limit((1, 4), curve).next_level) is not None:
            curve[level] = measurement(level, latency=timing(0.15 * level), output_tokens_per_s=30.0 * level)
        asked.trial.set_user_attr("configuration", dict(asked.configuration))
        asked.trial.set_user_attr("measurements", {str(level): shown.to_dict() for level, shown in curve.items()})
        study.tell_measured(asked.trial, curve)

    assert len(set(keys(run(study, 7, told)[1:]))) == 6


class Right(Prior):
    """Says what will be measured."""

    name: ClassVar[str] = "right"

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        shown = measured(configuration, level)
        return {"latency_p99_s": shown.latency.p99, "output_tokens_per_s": shown.output_tokens_per_s}


class Nominal(Right):
    """Says it of another model."""

    trust: ClassVar[float] = 0.3


def test_priors_lead_from_the_second_trial_on(tmp_path: Path) -> None:
    study = ledger(tmp_path, objectives=[MUCH], knowledge=Knowledge(priors=(Right(),)))
    second = run(study, 2, kept)[1]
    assert (second["n_parallel"], second["n_batch"]) == (3, 256)


def test_earlier_trials_lead_from_the_second_trial_on(tmp_path: Path) -> None:
    # the fewer slots the faster, and the farthest from the default, which counts as one slot, has three
    first = ledger(tmp_path, objectives=[FAST])
    run(first, 14, kept)
    for seed in range(3):
        study = ledger(tmp_path, objectives=[FAST], seed=seed, knowledge=Knowledge(known=first.history.seen()[1:]))
        assert run(study, 2, kept)[1]["n_parallel"] == 1


def test_earlier_trials_lead_where_the_default_fails(tmp_path: Path) -> None:
    first = ledger(tmp_path, objectives=[FAST])
    run(first, 14, kept)
    for seed in range(3):
        study = ledger(tmp_path, objectives=[FAST], seed=seed, knowledge=Knowledge(known=first.history.seen()[1:]))
        run(study, 1, infeasible)
        assert run(study, 1, kept)[0]["n_parallel"] == 1


def test_earlier_failures_lead_away_from_their_like(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    run(first, 30, lambda study, asked: infeasible(study, asked) if asked.configuration.get("n_parallel") == 3 else kept(study, asked))
    failed = [seen for seen in first.history.seen()[1:] if not seen.curve]
    assert len(failed) >= 2
    for seed in range(3):
        study = ledger(tmp_path, seed=seed, knowledge=Knowledge(known=failed))
        run(study, 1, infeasible)
        assert run(study, 1, kept)[0]["n_parallel"] != 3, "the farthest from the default, by itself"


def test_earlier_trials_are_not_of_the_front(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    run(first, 10, kept)
    study = ledger(tmp_path, study_name="another", knowledge=Knowledge(known=first.history.seen()[1:]))
    assert study.front == []
    run(study, 1, kept)
    assert [trial.number for trial in study.front] == [0]
    run(study, 8, kept)
    tried = {key(trial.params) for trial in study.finished}
    assert tried & {key(seen.parameters) for seen in first.history.seen()[1:]}, "what was best is measured again"


@pytest.mark.parametrize(
    ("knowledge", "first"),
    [
        (Knowledge(), 4),
        (Knowledge(priors=(Nominal(),)), 4),
        (Knowledge(priors=(Right(),)), 1),
        (Knowledge(priors=(Nominal(), Right())), 1),
    ],
    ids=["nothing", "of another model", "of this one", "of both"],
)
def test_only_who_knows_this_model_needs_no_look_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knowledge: Knowledge, first: int
) -> None:
    modelled: list[int] = []
    study = ledger(tmp_path, knowledge=knowledge)
    rank = Proposer.rank

    def spy(*given: Any) -> Any:
        modelled.append(len(study.finished))
        return rank(*given)

    monkeypatch.setattr(Proposer, "rank", spy)
    run(study, 6, kept)
    assert modelled == list(range(first, 6))


@pytest.mark.parametrize("startup_trials", [1, 4], ids=["with the models", "before them"])
def test_what_is_risky_is_avoided(tmp_path: Path, startup_trials: int) -> None:
    def told(study: Ledger, asked: Asked) -> None:
        (infeasible if asked.configuration.get("n_parallel") == 3 else kept)(study, asked)

    def failures(knowledge: Knowledge) -> int:
        count = 0
        for seed in range(3):
            sampler = {"name": "ehvi", "startup_trials": startup_trials}
            study = ledger(tmp_path, objectives=[MUCH], seed=seed, knowledge=knowledge, sampler=sampler)
            count += sum(configuration.get("n_parallel") == 3 for configuration in run(study, 6, told))
        return count

    def risk(configuration: Configuration) -> float:
        return 2.0 if configuration["n_parallel"] == 3 else -1.0

    assert failures(Knowledge(risk=risk)) < 0.5 * failures(Knowledge())
