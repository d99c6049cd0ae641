from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.doubles import DEFAULTS, OBJECTIVES, SPACE
from tests.ledger import ask, count, finish, open_ledger, tell
from tuner import study
from tuner.errors import ConfigError
from tuner.launch import Configuration
from tuner.study import RETRIES

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}
TINY = {"n_parallel": {"type": "power_of_two", "low": 1, "high": 8}}


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


class TestOpening:
    def test_created_with_names_and_directions(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        assert ledger.study.study_name == "some-study"
        assert ledger.study.metric_names == ["latency_p99_s@1", "output_tokens_per_s@4"]
        assert [direction.name for direction in ledger.study.directions] == ["MINIMIZE", "MAXIMIZE"]
        assert [trial.state for trial in ledger.study.trials] == [TrialState.WAITING]

    def test_resumed_as_it_was(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        finish(open_ledger(tmp_path, storage))
        again = open_ledger(tmp_path, storage)
        assert len(again.study.trials) == len(again.finished) == 4
        assert again.remaining == 0
        assert open_ledger(tmp_path, storage, trials=6).remaining == 2

    def test_queue_holds_the_default_once(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        open_ledger(tmp_path, storage)
        assert len(open_ledger(tmp_path, storage).study.trials) == 1

    @pytest.mark.parametrize(
        ("changes", "different"),
        [
            (
                {"workload": {"scenario": "D(64,32)", "levels": [1, 8], "warmup_requests": 0}},
                r"with workload\.levels=\[1, 4\] instead of \[1, 8\]",
            ),
            ({"engine": {"name": "llamacpp", "model": "micro"}}, r"with engine\.model=nano instead of micro"),
            ({"space": SPACE | {"n_ctx": 4096}}, r"with space\.n_ctx\.value=8192 instead of 4096"),
            ({"space": SPACE | {"n_ubatch": 64}}, r"without space\.n_ubatch;"),
            ({"space": {name: SPACE[name] for name in SPACE if name != "n_ctx"}}, r"with space\.n_ctx, which is not there now;"),
            ({"objectives": OBJECTIVES[:1]}, "with objectives="),
            ({"constraints": [SLO]}, r"with constraints=\[\] instead of"),
        ],
    )
    def test_another_experiment_is_refused(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, changes: dict[str, Any], different: str
    ) -> None:
        open_ledger(tmp_path, storage)
        with pytest.raises(ConfigError, match=f"^study_name=some-study: this study exists {different}") as caught:
            open_ledger(tmp_path, storage, **changes)
        assert "\n" not in str(caught.value)
        assert "choose another study_name" in str(caught.value)

    def test_length_seed_sampler_and_place_make_no_other_study(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        open_ledger(tmp_path, storage)
        open_ledger(tmp_path, storage, trials=9, seed=7, sampler={"name": "tpe"}, folder=str(tmp_path), dashboard={"port": 9})

    def test_study_of_another_program_is_refused(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        optuna.create_study(storage=storage, study_name="some-study", directions=["minimize", "maximize"]).ask()
        with pytest.raises(ConfigError, match="that tuner did not make"):
            open_ledger(tmp_path, storage)

    def test_study_with_other_directions_is_refused(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        optuna.create_study(storage=storage, study_name="some-study", directions=["minimize"])
        with pytest.raises(ConfigError, match="that tuner did not make"):
            open_ledger(tmp_path, storage)

    def test_killed_between_creation_and_queueing(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        optuna.create_study(storage=storage, study_name="some-study", directions=["minimize", "maximize"])
        assert ask(open_ledger(tmp_path, storage)).default


class TestDefault:
    def test_is_trial_zero_and_deploys_only_what_is_fixed(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        asked = ask(open_ledger(tmp_path, storage, DEFAULTS | {"n_batch": 256}))
        assert (asked.trial.number, asked.default, dict(asked.configuration)) == (0, True, {"n_ctx": 8192})
        assert asked.trial.params == {"log2_n_parallel": 2, "log2_n_batch": 8, "cont_batching": True}

    def test_value_outside_moves_to_the_nearest(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        assert ask(open_ledger(tmp_path, storage)).trial.params["log2_n_batch"] == 9

    def test_missing_value_is_one_line(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        with pytest.raises(ConfigError, match=r"^space\.n_batch\.default: missing; llamacpp decides its own value at start") as caught:
            open_ledger(tmp_path, storage, {"n_parallel": 4, "cont_batching": True})
        assert "\n" not in str(caught.value)

    def test_declared_value_wins_over_the_engines_and_arguments_over_both(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage
    ) -> None:
        space = {"n_batch": SPACE["n_batch"] | {"default": 128}, "n_parallel": SPACE["n_parallel"] | {"default": 2}}
        engine = {"name": "llamacpp", "model": "nano", "args": {"n_parallel": 8}}
        asked = ask(open_ledger(tmp_path, storage, space=space, engine=engine))
        assert asked.trial.params == {"log2_n_batch": 7, "log2_n_parallel": 3}

    def test_may_break_a_constraint_of_the_space(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        space = TINY | {"constraints": ["n_parallel < 4"]}
        ledger = open_ledger(tmp_path, storage, space=space, trials=9)
        done = finish(ledger)
        assert done[0].default
        assert sorted(a.configuration["n_parallel"] for a in done[1:]) == [1, 2]

    def test_is_told_apart_from_its_twin(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=TINY, trials=9)
        done = finish(ledger)
        assert [asked.default for asked in done] == [True, False, False, False]
        assert ledger.default is not None
        assert ledger.default.number == 0

    def test_is_queued_again_when_a_resumed_study_lacks_it(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        for _ in range(RETRIES + 1):
            asked = ask(ledger)
            assert asked.default
            ledger.tell_failed(asked.trial, "no luck")
        assert not ask(ledger).default
        assert ask(open_ledger(tmp_path, storage)).default

    def test_is_measured_even_where_its_twin_was(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, trials=9)
        while (asked := ask(ledger)).default:
            ledger.tell_failed(asked.trial, "no luck")
        ledger.tell_interrupted(asked.trial)
        ledger.study.enqueue_trial({"log2_n_parallel": 2, "log2_n_batch": 9, "cont_batching": True})
        resumed = open_ledger(tmp_path, storage, trials=9)
        assert sum(asked.default for asked in finish(resumed)) == 1

    def test_is_measured_even_where_all_else_is_known(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=TINY, trials=9)
        for _ in range(RETRIES + 1):
            ledger.tell_failed(ask(ledger).trial, "no luck")
        for exponent in range(4):
            ledger.study.enqueue_trial({"log2_n_parallel": exponent})
        assert len(finish(open_ledger(tmp_path, storage, space=TINY, trials=9))) == 5
        assert open_ledger(tmp_path, storage, space=TINY, trials=9).default is not None


class TestAsking:
    def test_a_known_configuration_is_never_deployed_again(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=SPACE | {"n_batch": 64}, trials=100)
        done = finish(ledger)
        assert len(done) == ledger.space.size == 10
        assert len({tuple(asked.trial.params.items()) for asked in done}) == 10
        assert count(ledger, "repeat") > 0
        assert {t.state for t in ledger.study.trials if t.user_attrs["outcome"] == "repeat"} == {TrialState.FAIL}
        assert ledger.ask() is None
        assert len(ledger.finished) == 10

    def test_a_suggestion_of_a_running_trial_is_a_repeat(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=TINY)
        assert len({str(ask(ledger).trial.params) for _ in range(4)}) == 4
        assert ledger.ask() is None

    def test_steps_that_add_up_differently_are_the_same(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        space = {"x": {"type": "float", "low": 0.8, "high": 0.95, "step": 0.05, "default": 0.85}}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            ledger = open_ledger(tmp_path, storage, space=space, trials=50)
            done = finish(ledger)
        assert sorted(asked.configuration["x"] for asked in done[1:]) == [0.8, 0.9, 0.95]

    def test_broken_constraints_are_told_but_not_deployed(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, space=SPACE | {"constraints": ["n_parallel * 64 <= n_batch"]}, trials=100)
        done = finish(ledger)
        assert all(int(a.configuration["n_parallel"]) * 64 <= int(a.configuration["n_batch"]) for a in done if not a.default)
        refused = [trial for trial in ledger.study.trials if trial.user_attrs["outcome"] == "refused"]
        assert refused
        assert {trial.state for trial in refused} == {TrialState.PRUNED}
        assert refused[0].user_attrs["reason"] == "space.constraints: n_parallel * 64 <= n_batch"
        assert refused[0].constraints["deployable"] > 0
        assert len(ledger.finished) == len(done) == ledger.space.size

    def test_uncountable_space_where_nothing_is_allowed_ends_in_one_line(
        self, tmp_path: Path, storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(study, "HOPELESS", 8)
        space = {"x": {"type": "float", "low": 0.0, "high": 1.0, "default": 0.5}, "constraints": ["x > 2"]}
        ledger = open_ledger(tmp_path, storage, space=space)
        tell(ledger, ask(ledger))
        with pytest.raises(ConfigError, match=r"the last 8 suggestions were known or refused.*the last refusal: space\.constraints: x > 2"):
            ledger.ask()

    def test_what_is_refused_is_told_but_not_deployed(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        def refuse(configuration: Configuration) -> str | None:
            return "too many slots" if configuration.get("n_parallel") in (8, 16) else None

        ledger = open_ledger(tmp_path, storage, trials=100)
        done = finish(ledger, refuse)
        assert len(ledger.finished) == len(done) == 1 + 3 * 4 * 2 - 1  # the default stands for its neighbour too
        assert not any(asked.configuration.get("n_parallel") in (8, 16) for asked in done)
        refused = [trial for trial in ledger.study.trials if trial.user_attrs["outcome"] == "refused"]
        assert {(trial.state, trial.user_attrs["reason"]) for trial in refused} == {(TrialState.PRUNED, "too many slots")}
        assert ledger.refused == ["too many slots"] * len(refused)
        assert all(trial.constraints["deployable"] > 0 for trial in refused)

    def test_refused_defaults_are_not_deployed_either(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage, trials=100)
        done = finish(ledger, lambda configuration: None if configuration.get("n_parallel") == 1 else "too little")
        assert {asked.configuration["n_parallel"] for asked in done} == {1}
        assert ledger.default is None
        assert sum(bool(trial.user_attrs.get("default")) for trial in ledger.study.trials) == 1

    def test_a_space_of_which_all_is_refused_ends(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        ledger = open_ledger(tmp_path, storage)
        assert ledger.ask(lambda configuration: "never") is None
        assert ledger.finished == []
        assert set(ledger.refused) == {"never"}

    def test_constraint_that_cannot_be_evaluated_is_one_line(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        space = {"x": {"type": "float", "low": 0.0, "high": 1.0, "default": 0.5}, "y": 0, "constraints": ["x / y > 1"]}
        ledger = open_ledger(tmp_path, storage, space=space)
        tell(ledger, ask(ledger))
        with pytest.raises(ConfigError, match=r"^space: 'x / y > 1' cannot be evaluated"):
            ledger.ask()
        assert not ledger.study.get_trials(states=(TrialState.RUNNING,))

    def test_resumed_with_the_same_seed_it_suggests_something_new(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        space = {"x": {"type": "float", "low": 0.0, "high": 1.0, "default": 0.5}}
        finish(open_ledger(tmp_path, storage, space=space, trials=10))
        resumed = open_ledger(tmp_path, storage, space=space, trials=20)
        finish(resumed)
        assert count(resumed, "repeat") == 0

    def test_same_seed_same_search(self, tmp_path: Path) -> None:
        asked = [finish(open_ledger(tmp_path, optuna.storages.InMemoryStorage(), trials=8)) for _ in range(2)]
        assert [a.configuration for a in asked[0]] == [a.configuration for a in asked[1]]

    def test_remaining_counts_what_others_run(self, tmp_path: Path, storage: optuna.storages.BaseStorage) -> None:
        mine, other = open_ledger(tmp_path, storage), open_ledger(tmp_path, storage)
        ask(other)
        assert mine.remaining == 3
        tell(mine, ask(mine))
        assert mine.remaining == other.remaining == 2
