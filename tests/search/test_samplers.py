"""Samplers are set up as the configuration says, and repeat themselves with a seed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.doubles import measured, settings
from tests.test_space import every_kind
from tuner.errors import NotReadyError
from tuner.search.ehvi import EhviSampler
from tuner.search.knowledge import Knowledge
from tuner.search.samplers import create
from tuner.search_settings import SamplerSettings

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

NAMES = ("tpe", "nsgaii", "random", "qmc", "grid", "gp", "ehvi")
HERE = [name for name in NAMES if name != "gp" or find_spec("torch") is not None]
"""Those that this installation can run."""


def sampler_of(name: str, seed: int | None, **changes: Any) -> optuna.samplers.BaseSampler:
    chosen = settings(Path(), sampler={"name": name, **changes}).model_copy(update={"space": every_kind()})
    return create(chosen, seed, Knowledge())


def drawn(name: str, seed: int | None, trials: int = 24) -> list[dict[str, object]]:
    """The configurations of a study with two objectives, a constraint and conditional parameters."""
    space = every_kind()
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler_of(name, seed, startup_trials=4))
    for number in range(trials):
        trial = study.ask()
        values = space.suggest(trial)
        trial.set_constraint("slo", float(values["n_parallel"]) - 2)
        trial.set_user_attr("outcome", "pruned" if number % 6 == 5 else "measured")
        shown = {} if number % 6 == 5 else {level: measured(values, level).to_dict() for level in (1, 4)}
        trial.set_user_attr("measurements", {str(level): one for level, one in shown.items()})
        if number % 6 == 5:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [float(values["n_batch"]), float(values["n_parallel"])])
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("nsgaii", optuna.samplers.NSGAIISampler),
        ("random", optuna.samplers.RandomSampler),
        ("ehvi", EhviSampler),
    ],
)
def test_kind(name: str, kind: type[optuna.samplers.BaseSampler]) -> None:
    assert type(sampler_of(name, 1)) is kind


def test_every_name_of_the_settings_has_a_sampler() -> None:
    assert set(NAMES) == set(SamplerSettings.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotReadyError, match=r"sampler=gp: .* pip install torch"):
        sampler_of("gp", 1)


@pytest.mark.parametrize("name", HERE)
def test_same_seed_same_search(name: str) -> None:
    assert drawn(name, 1) == drawn(name, 1)
    assert drawn(name, 1) != drawn(name, 2)


@pytest.mark.parametrize("name", HERE)
def test_without_a_seed_each_search_is_another(name: str) -> None:
    assert drawn(name, None, 12) != drawn(name, None, 12)


def test_startup_trials_do_not_count_the_default() -> None:
    at_random: set[int] = set()

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: optuna.trial.FrozenTrial, name: str, distribution: Any) -> Any:
            at_random.add(trial.number)
            return super().sample_independent(study, trial, name, distribution)

    sampler = sampler_of("tpe", 1, startup_trials=4)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    sampler._random_sampler = Spy(seed=1)
    study = optuna.create_study(sampler=sampler)
    default = {"a": 1, "b": 1}
    study.enqueue_trial(default)
    for _ in range(10):
        trial = study.ask()
        study.tell(trial, trial.suggest_int("a", 1, 9) + trial.suggest_int("b", 1, 9))
    assert study.trials[0].params == default
    assert at_random == {1, 2, 3, 4}


def test_the_smallest_population_of_nsgaii_is_two() -> None:
    for startup_trials in (1, 2, 10):
        sampler = sampler_of("nsgaii", 1, startup_trials=startup_trials)
        assert isinstance(sampler, optuna.samplers.NSGAIISampler)
        assert sampler.population_size == max(2, startup_trials)
