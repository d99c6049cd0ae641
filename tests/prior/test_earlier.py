"""What a study learns from earlier ones in its storage: which they are, what they predict, and what they teach the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest

from tests.doubles import DEFAULTS, SPACE, measurement, settings, timing
from tests.ledger import ask
from tuner.launch import Configuration, Value
from tuner.prior import earlier as module
from tuner.prior.base import Prior
from tuner.prior.earlier import EarlierStudies, known
from tuner.prior.records import lessons, read
from tuner.search.knowledge import Knowledge
from tuner.server_facts import Startup
from tuner.settings import Settings, Workload
from tuner.study import Asked, Ledger

GPU_ENGINE = {"name": "sglang", "model": "some/model", "executable": ["serve"], "version": "0.5.23"}
FACTS: Mapping[str, Mapping[str, Any]] = {
    "host": {"gpus": ["H100, 80 GiB", "H100, 80 GiB"], "cpu_model": "some CPU", "cpus": 8},
    "engine": {"model": "some/model", "model_revision": "abc"},
    "backend": {},
}
WORKLOAD = {"scenario": "D(64,32)", "levels": [1, 4], "warmup_requests": 0}
GRID = [(parallel, batch) for parallel in (1, 2, 4, 8, 16) for batch in (64, 128, 256, 512)]
HALF = [{"n_parallel": p, "n_batch": b, "cont_batching": True, "n_ctx": 8192} for i, (p, b) in enumerate(GRID) if i % 2]
OTHERS = [{"n_parallel": p, "n_batch": b, "cont_batching": True, "n_ctx": 8192} for i, (p, b) in enumerate(GRID) if not i % 2]


def experiment(folder: Path, name: str = "new", /, **changes: Any) -> Settings:
    return settings(folder, **{"study_name": name, "engine": GPU_ENGINE, "workload": WORKLOAD, "trials": 200, **changes})


def latency_s(configuration: Configuration, level: int, factor: float = 1.0) -> float:
    """Least for medium slots; the more users, the more the batch matters."""
    slots = math.log2(float(configuration["n_parallel"]))
    return factor * level * math.exp(0.2 * (slots - 2) ** 2 + 0.1 * level * math.log2(float(configuration["n_batch"]) / 512))


def curve(configuration: Configuration, levels: Sequence[int], factor: float = 1.0) -> dict[int, Any]:
    full = {**DEFAULTS, **configuration}
    return {
        level: measurement(
            level, latency=timing(latency_s(full, level, factor)), output_tokens_per_s=100.0 * level / latency_s(full, level)
        )
        for level in levels
    }


class World:
    """A storage with studies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = optuna.storages.InMemoryStorage()

    def ledger(self, name: str, facts: Mapping[str, Any] = FACTS, defaults: Mapping[str, Value] = DEFAULTS, /, **changes: Any) -> Ledger:
        ledger = Ledger(experiment(self.folder, name, **changes), self.storage, defaults, planned=True)
        for key, value in facts.items():
            ledger.note(key, value)
        return ledger

    def study(
        self,
        name: str,
        configurations: Sequence[Configuration] = HALF,
        facts: Mapping[str, Any] = FACTS,
        /,
        factor: float = 1.0,
        **changes: Any,
    ) -> Ledger:
        """A study that has measured these configurations."""
        ledger = self.ledger(name, facts, **changes)
        for configuration in configurations:
            tell(ledger, ledger.again(configuration, False, {}), factor)
        return ledger

    def told(self, new: Settings, **more: Any) -> EarlierStudies:
        made = EarlierStudies.create(new, read(new, FACTS, self.storage), DEFAULTS, **more)
        assert made is not None
        return made


def tell(ledger: Ledger, asked: Asked, factor: float = 1.0, levels: Sequence[int] = ()) -> None:
    shown = curve(asked.configuration, levels or ledger.settings.workload.levels, factor)
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    asked.trial.set_user_attr("measurements", {str(level): one.to_dict() for level, one in shown.items()})
    asked.trial.set_user_attr("gpus", 1)
    asked.trial.set_user_attr("startup", {"weights_gib": 12.0})
    ledger.tell_measured(asked.trial, shown)


def fail(ledger: Ledger, configuration: Configuration, stage: str) -> None:
    asked = ledger.again(configuration, False, {})
    asked.trial.set_user_attr("configuration", dict(asked.configuration))
    asked.trial.set_user_attr("startup", {"weights_gib": 12.0})
    asked.trial.set_user_attr("memory", stage)
    ledger.tell_infeasible(asked.trial, "out of memory")


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def errors(prior: Prior, configurations: Sequence[Configuration], level: int, factor: float = 1.0) -> Any:
    """How far predictions of latency are off, as logarithms."""
    told = [prior.predict(configuration, level) for configuration in configurations]
    return np.array(
        [math.log((one or {})["latency_p99_s"] / latency_s(c, level, factor)) for one, c in zip(told, configurations, strict=True)]
    )


def test_reads_studies_of_the_same_engine_model_and_gpus(world: World) -> None:
    world.study("same")
    world.study("other-workload", workload={**WORKLOAD, "scenario": "D(999,99)", "levels": [2]})
    world.study("other-space", space={"n_batch": SPACE["n_batch"]})
    world.study("fewer-gpus", HALF, {**FACTS, "host": {**FACTS["host"], "gpus": ["H100, 80 GiB"]}})
    world.study("other-model", engine={**GPU_ENGINE, "model": "another/model"})
    world.study("other-engine", engine={**GPU_ENGINE, "name": "vllm"})
    world.study("other-gpus", HALF, {**FACTS, "host": {**FACTS["host"], "gpus": ["L40S, 48 GiB"]}})
    world.study("new")
    world.study("same.confirm")
    world.study("same.control")
    world.study("no-sibling.confirm")
    world.study("never-began", HALF, {})
    optuna.create_study(storage=world.storage, study_name="a stranger's")
    found = read(experiment(world.folder), FACTS, world.storage)
    assert [study.name for study in found] == ["same", "other-workload", "other-space", "fewer-gpus", "no-sibling.confirm"]
    assert [len(study.trials) for study in found] == [10, 10, 10, 10, 10]
    assert found[1].workload.levels == (2,)


def test_without_gpus_the_cluster_or_the_processor_is_the_machine(world: World) -> None:
    cpu = {**FACTS, "host": {"gpus": [], "cpu_model": "a", "cpus": 8}}
    other = {**cpu, "host": {**cpu["host"], "cpu_model": "b"}}
    cluster = {**cpu, "backend": {"cluster": "c1", "runtime": "r"}}
    same_cluster = {**other, "backend": {"cluster": "c1", "runtime": "r", "image": "newer"}}
    for name, facts in (("a", cpu), ("b", other), ("c", cluster), ("d", same_cluster)):
        world.study(name, HALF, facts)
    new = experiment(world.folder)
    assert [study.name for study in read(new, cpu, world.storage)] == ["a"]
    assert [study.name for study in read(new, cluster, world.storage)] == ["c", "d"]


def test_a_study_that_cannot_be_read_is_left_out(world: World) -> None:
    broken, odd = world.study("broken"), world.study("odd")
    broken.note("settings", {**broken.settings.identity, "workload": {"unheard": "of"}})
    odd.note("settings", "no settings")
    world.study("same")
    assert [study.name for study in read(experiment(world.folder), FACTS, world.storage)] == ["same"]


def test_only_what_was_deployed_and_has_ended(world: World) -> None:
    ledger = world.study("same", HALF[:4])
    fail(ledger, OTHERS[0], "load")
    ledger.tell_failed(ledger.again(OTHERS[1], False, {}).trial, "the port was taken")
    ledger.again(OTHERS[2], False, {})
    (found,) = read(experiment(world.folder), FACTS, world.storage)
    assert [trial.seen.outcome for trial in found.trials] == ["measured"] * 4 + ["infeasible"]
    assert found.trials[4].memory == "load"
    assert found.trials[0].startup == Startup(weights_gib=12.0)


def test_the_same_workload_is_predicted_almost_as_measured(world: World) -> None:
    world.study("same")
    prior = world.told(experiment(world.folder))
    assert (prior.studies, prior.trials) == (["same"], 10)
    for level in (1, 4):
        assert np.abs(errors(prior, HALF, level)).max() < 0.1
        assert np.abs(errors(prior, OTHERS, level)).mean() < 0.15
    assert prior.predict(HALF[0], 64) is None, "no level of this study"
    assert set(prior.predict(HALF[0], 1) or ()) == {"latency_p99_s", "output_tokens_per_s"}


def test_what_a_configuration_does_not_give_is_the_default(world: World) -> None:
    world.study("same")
    prior = world.told(experiment(world.folder))
    assert prior.predict({"n_batch": 512}, 4) == prior.predict({"n_batch": 512, "n_parallel": 4, "cont_batching": True, "n_ctx": 8192}, 4)


def test_too_little_is_nothing(world: World) -> None:
    new = experiment(world.folder)
    assert EarlierStudies.create(new, [], DEFAULTS) is None
    ledger = world.study("same", HALF[:3])
    for configuration in OTHERS[:5]:
        fail(ledger, configuration, "load")
    assert EarlierStudies.create(new, read(new, FACTS, world.storage), DEFAULTS) is None


def test_another_workload_tells_the_shape(world: World) -> None:
    world.study("slow", factor=7.0, workload={**WORKLOAD, "scenario": "D(999,99)"})
    wrong = errors(world.told(experiment(world.folder)), OTHERS, 4)
    assert wrong.mean() == pytest.approx(math.log(7), abs=0.15)
    assert wrong.std() < 0.2


def test_other_levels_are_between_or_beyond(world: World) -> None:
    world.study("same", [*HALF, *OTHERS], workload={**WORKLOAD, "levels": [1, 4, 8]})
    prior = world.told(experiment(world.folder, workload={**WORKLOAD, "levels": [2, 16]}))
    for level in (2, 16):
        truth = np.log([latency_s(c, level) for c in (*HALF, *OTHERS)])
        told = truth + errors(prior, [*HALF, *OTHERS], level)
        assert np.corrcoef(truth, told)[0, 1] > 0.8


def test_its_own_workload_counts_more_than_another(world: World) -> None:
    def mirrored(configuration: Mapping[str, Value]) -> dict[str, Value]:
        return {**configuration, "n_parallel": 16 // int(configuration["n_parallel"])}

    ledger = world.ledger("mirror", workload={**WORKLOAD, "scenario": "D(999,99)"})
    for configuration in (*HALF, *OTHERS):
        asked = ledger.again(configuration, False, {})
        shown = curve({**mirrored(configuration), "n_batch": 64}, (1, 4), 5.0)
        asked.trial.set_user_attr("configuration", dict(configuration))
        asked.trial.set_user_attr("measurements", {str(level): one.to_dict() for level, one in shown.items()})
        ledger.tell_measured(asked.trial, shown)
    world.study("same")
    prior = world.told(experiment(world.folder))
    assert prior.studies == ["same", "mirror"]
    assert np.abs(errors(prior, HALF, 4)).max() < 0.15


def test_the_default_is_known_by_its_documented_values(world: World) -> None:
    ledger = world.study("same", OTHERS)
    tell(ledger, ledger.again({"n_ctx": 8192}, True, {}), factor=3.0)
    new = experiment(world.folder, space={**SPACE, "n_batch": {"type": "power_of_two", "low": 64, "high": 4096}})
    prior = world.told(new)
    assert prior.trials == len(OTHERS) + 1
    default = {**DEFAULTS, "n_ctx": 8192}
    assert errors(prior, [default], 4)[0] == pytest.approx(math.log(3), abs=0.25), "n_batch=2048 is what the engine takes by itself"


def test_a_parameter_that_was_not_searched_had_its_fixed_or_default_value(world: World) -> None:
    fixed = [{**configuration, "n_batch": 128} for configuration in (*HALF, *OTHERS)]
    world.study("one-batch", fixed[::2], space={**SPACE, "n_batch": 128})
    prior = world.told(experiment(world.folder))
    assert np.abs(errors(prior, fixed[1::2], 4)).mean() < 0.2
    assert np.abs(errors(prior, [{**c, "n_batch": 512} for c in fixed[1::2]], 1)).mean() > 0.0


def test_values_outside_the_range_stand_outside_and_are_not_moved_into_it(world: World) -> None:
    world.study("same", [*HALF, *OTHERS])
    prior = world.told(experiment(world.folder, space={**SPACE, "n_parallel": {"type": "power_of_two", "low": 4, "high": 16}}))
    assert prior.trials == 20
    inside = [c for c in (*HALF, *OTHERS) if int(c["n_parallel"]) >= 4]
    # moved to the nearest inside, those with 1 and 2 would make it look up to twice as slow at 4
    assert np.abs(errors(prior, inside, 4)).max() < 0.15


def test_choices_that_are_none_here_are_left_out(world: World) -> None:
    world.study("same", [*HALF, *({**c, "cont_batching": False} for c in OTHERS)])
    only = {"type": "categorical", "choices": [True]}
    assert world.told(experiment(world.folder, space={**SPACE, "cont_batching": only})).trials == 10
    few = {"type": "ordinal", "choices": [64, 128, 256]}
    assert world.told(experiment(world.folder, space={**SPACE, "n_batch": few})).trials == 15 - 5 + 5


def test_what_is_not_searched_now_sets_a_trial_apart(world: World) -> None:
    ledger = world.ledger("both")
    for configuration in (*HALF, *({**c, "cont_batching": False} for c in (*HALF, *OTHERS))):
        tell(ledger, ledger.again(configuration, False, {}), 1.0 if configuration["cont_batching"] else 20.0)
    prior = world.told(experiment(world.folder, space={**SPACE, "cont_batching": True}))
    assert np.abs(errors(prior, HALF, 4)).max() < 0.3
    args = world.told(
        experiment(world.folder, engine={**GPU_ENGINE, "args": {"cont_batching": True}}, space={**SPACE, "cont_batching": True})
    )
    assert np.abs(errors(args, HALF, 4)).max() < 0.3


def test_trials_that_were_stopped_early_count_as_far_as_they_came(world: World) -> None:
    ledger = world.study("same", HALF)
    for configuration in OTHERS:
        asked = ledger.again(configuration, False, {})
        shown = curve(configuration, (1,))
        asked.trial.set_user_attr("configuration", dict(configuration))
        asked.trial.set_user_attr("measurements", {"1": shown[1].to_dict()})
        ledger.tell_pruned(asked.trial, shown, "dominated")
    prior = world.told(experiment(world.folder))
    assert prior.trials == 20
    assert np.abs(errors(prior, OTHERS, 1)).max() < 0.1


def test_no_more_than_the_most_telling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.study("other", workload={**WORKLOAD, "scenario": "D(999,99)"})
    world.study("same")
    monkeypatch.setattr(module, "MOST", 10)
    assert world.told(experiment(world.folder)).studies == ["same"]


class Analytic(Prior):
    """Knows what hangs on the batch and on the traffic, and nothing of slots."""

    name: ClassVar[str] = "analytic"

    def __init__(self, workload: Workload) -> None:
        self.factor = 7.0 if workload.scenario == "D(999,99)" else 1.0

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        return {"latency_p99_s": latency_s({**DEFAULTS, **configuration, "n_parallel": 4}, level, self.factor)}


def test_corrects_the_analytic_prior_for_another_workload(world: World) -> None:
    world.study("slow", HALF, factor=7.0, workload={**WORKLOAD, "scenario": "D(999,99)"})
    new = experiment(world.folder)
    prior = world.told(new, analytic=Analytic)
    assert np.abs(errors(prior, OTHERS, 4)).max() < 0.25, "that the traffic is faster now it has from the analytic prior"
    assert np.abs(errors(Analytic(new.workload), OTHERS, 4)).max() > 0.7, "and what slots do from the earlier study"


def test_an_analytic_prior_that_knows_only_one_workload_is_left_out(world: World) -> None:
    world.study("slow", workload={**WORKLOAD, "scenario": "D(999,99)"})
    new = experiment(world.folder)
    prior = world.told(new, analytic=lambda workload: Analytic(workload) if workload == new.workload else None)
    assert prior.predict(HALF[0], 4) == world.told(new).predict(HALF[0], 4)


def test_a_study_that_was_told_begins_with_the_best(world: World) -> None:
    world.study("same")
    new = experiment(
        world.folder, objectives=[{"metric": "latency_p99_s", "at": "max", "direction": "minimize"}], sampler={"name": "ehvi"}, trials=5
    )
    ledger = Ledger(new, world.storage, DEFAULTS, knowledge=Knowledge((world.told(new),)))
    tell(ledger, ask(ledger))
    second = ask(ledger).configuration
    assert (second["n_parallel"], second["n_batch"]) == (4, 64)


def test_what_was_measured_alike_is_known(world: World) -> None:
    ledger = world.study("same")
    fail(ledger, OTHERS[0], "load")
    world.study("higher", OTHERS[1:3], workload={**WORKLOAD, "levels": [4, 64]})
    world.study("apart", [{**c, "n_ctx": 4096} for c in OTHERS[3:5]], space={**SPACE, "n_ctx": 4096})
    world.study("other-traffic", workload={**WORKLOAD, "scenario": "D(999,99)"})
    world.study("other-levels", workload={**WORKLOAD, "levels": [2, 64]})
    world.study("other-build", engine={**GPU_ENGINE, "version": "0.5.24"})
    new = experiment(world.folder)
    earlier = read(new, FACTS, world.storage)
    assert [study.name for study in earlier if study.alike] == ["same", "higher", "apart"]
    seen = known(new, earlier, DEFAULTS)
    assert [one.outcome for one in seen] == ["measured"] * 10 + ["infeasible"] + ["measured"] * 2
    assert [dict(one.parameters) for one in seen] == [new.space.encode(c) for c in (*HALF, *OTHERS[:3])]
    narrower = experiment(world.folder, space={**SPACE, "n_parallel": {"type": "power_of_two", "low": 4, "high": 16}})
    assert all(one.parameters["log2_n_parallel"] >= 2 for one in known(narrower, earlier, DEFAULTS))
    assert set(seen[0].curve) == {1, 4}
    assert set(seen[-1].curve) == {4, 64}


def taught(world: World, new: Settings, facts: Mapping[str, Any] = FACTS) -> list[tuple[Configuration, str | None, bool]]:
    found = lessons(new, facts, read(new, facts, world.storage))
    return [(configuration, failed, measured) for configuration, _, failed, measured in found]


@pytest.fixture
def failures(world: World) -> World:
    ledger = world.study("same", HALF[:1], engine={**GPU_ENGINE, "args": {"dtype": "half"}})
    fail(ledger, OTHERS[0], "load")
    fail(ledger, OTHERS[1], "run")
    return world


def test_lessons_of_the_same_workload(failures: World) -> None:
    half = {"dtype": "half"}
    new = experiment(failures.folder, engine={**GPU_ENGINE, "args": half})
    assert taught(failures, new) == [
        ({**half, **HALF[0]}, None, True),
        ({**half, **OTHERS[0]}, "load", False),
        ({**half, **OTHERS[1]}, "run", False),
    ]


@pytest.mark.parametrize("change", [{"scenario": "D(999,99)"}, {"levels": [1, 4, 64]}])
def test_of_another_workload_only_what_comes_before_serving(failures: World, change: dict[str, Any]) -> None:
    new = experiment(failures.folder, workload={**WORKLOAD, **change})
    assert [lesson[1:] for lesson in taught(failures, new)] == [(None, False), ("load", False), (None, False)]


def test_no_lessons_of_another_build_or_of_an_unknown_one(failures: World) -> None:
    assert taught(failures, experiment(failures.folder, engine={**GPU_ENGINE, "version": "0.5.24"})) == []
    assert taught(failures, experiment(failures.folder), {**FACTS, "backend": {"image_id": "sha256:1"}}) == []
    assert taught(failures, experiment(failures.folder), {**FACTS, "engine": {"model_revision": "def"}}) == []
    unknown = {key: value for key, value in GPU_ENGINE.items() if key != "version"}
    failures.study("unknown", HALF, engine=unknown)
    assert taught(failures, experiment(failures.folder, engine=unknown)) == []


def test_no_lessons_where_the_gate_would_take_an_argument_of_now_for_one_of_then(failures: World) -> None:
    new = experiment(failures.folder, engine={**GPU_ENGINE, "args": {"dtype": "half", "kv_cache_dtype": "fp8"}})
    assert taught(failures, new) == []
