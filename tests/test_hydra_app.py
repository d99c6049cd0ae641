"""The Hydra application: options and overrides, the stand-in, jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.composing import experiment, run, work
from tuner.errors import ConfigError
from tuner.hydra_app import option, quote_scenario, refuse_overruled, run_app, split, with_stand_in

__all__ = ["work"]


def test_an_error_of_the_task_is_not_taken_for_hydras(capfd: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig, overrides: list[str]) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_app(task, [])


def test_jobs_know_their_overrides_as_they_were_given() -> None:
    seen: list[list[str]] = []
    run_app(lambda config, overrides: seen.append(overrides), ["-m", "sampler=tpe,random", "study_name=x-${sampler.name}"])
    assert [overrides[0] for overrides in seen] == ["sampler=tpe", "sampler=random"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["+experiment=llama1b", "objectives=goodput"],
        ["+experiment=llama1b", "objectives=tpot_throughput", "objectives.0.at=4"],
        ["+experiment=replay_demo"],
        ["+experiment=replay_demo", "objectives.0.at=8"],
        ["objectives.0.at=4"],
    ],
)
def test_objectives_of_the_command_line_that_count(arguments: list[str], work: Path) -> None:
    run_app(refuse_overruled, arguments)


@pytest.mark.parametrize("others", [[], ["objectives.0.at=8"]])
def test_objectives_that_an_experiment_overrules_are_refused(others: list[str], work: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^objectives=goodput: the experiment has a list `objectives` of its own[^\n]*single keys of it without this, as in [^\n]*$",
    ):
        run_app(refuse_overruled, ["+experiment=replay_demo", "objectives=goodput", *others])


class TestSplit:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["-m", "--config-dir", "d", "a=1", "b=2"],
            ["a=1", "-m", "--config-dir", "d", "b=2"],
            ["a=1", "b=2", "-m", "--config-dir", "d"],
        ],
    )
    def test_any_order(self, arguments: list[str]) -> None:
        assert split(arguments) == (["-m", "--config-dir", "d"], ["a=1", "b=2"])

    def test_values_with_dashes_and_tildes(self) -> None:
        assert split(["~space.x", "seed=-1", "--cfg=job"]) == (["--cfg=job"], ["~space.x", "seed=-1"])

    def test_nothing(self) -> None:
        assert split([]) == ([], [])


class TestStandIn:
    @pytest.mark.parametrize(
        "others",
        [[], ["trials=3"], ["backend=auto"], ["-m", "sampler=tpe,random"], ["--cfg", "job"], ["engine.args.x=1"], ["stand_in=llama1b_cpu"]],
        ids=" ".join,
    )
    def test_exchanged(self, others: list[str]) -> None:
        assert with_stand_in([*others, "+experiment=llama1b"]) == [*others, "+experiment=llama1b_cpu"]
        assert with_stand_in(["+experiment=llama1b", *others]) == ["+experiment=llama1b_cpu", *others]

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["trials=3"],
            ["+experiment=llama1b", "engine=vllm"],
            ["+experiment=llama1b", "engine=sglang", "backend=auto"],
            ["+experiment=llama1b", "backend=local"],
            ["+experiment=llama1b", "backend=docker"],
            ["+experiment=llama1b", "backend.name=docker"],
            ["+experiment=llama1b", "++engine.name=vllm"],
            ["+experiment=llama1b", "stand_in=null"],
            ["+experiment=llama1b_cpu"],
            ["+experiment=nosuch"],
            ["-m", "+experiment=llama1b,llama1b_cpu"],
            ["experiment=llama1b"],
        ],
        ids=" ".join,
    )
    def test_left_alone(self, arguments: list[str]) -> None:
        assert with_stand_in(arguments) == arguments

    def test_of_the_users_own(self, tmp_path: Path) -> None:
        experiment(tmp_path / "d", "big", "# @package _global_\nstand_in: small\n")
        experiment(tmp_path / "d", "small", "# @package _global_\nstand_in_for: big\n")
        named = ["--config-dir", str(tmp_path / "d"), "+experiment=big"]
        assert with_stand_in(named) == [*named[:2], "+experiment=small"]

    def test_where_the_experiment_chose_a_backend(self, work: Path) -> None:
        experiment(work / "conf", "big", "# @package _global_\ndefaults: [override /backend: local]\nstand_in: llama1b_cpu\n")
        assert with_stand_in(["+experiment=big"]) == ["+experiment=big"]


class TestScenario:
    @pytest.mark.parametrize("scenario", ["D(100,32)", "N(900,300)/(200,50)", "U(50,100)/(10,20)", "U(100,200)"])
    def test_needs_no_quotes(self, scenario: str) -> None:
        (job,) = run(f"workload.scenario={scenario}")
        assert job["workload"]["scenario"] == scenario

    def test_several_of_a_multirun(self) -> None:
        jobs = run("-m", "workload.scenario=D(100,32),D(500,64)", "trials=1,2")
        assert [(job["workload"]["scenario"], job["trials"]) for job in jobs] == [
            (scenario, trials) for scenario in ("D(100,32)", "D(500,64)") for trials in (1, 2)
        ]

    @pytest.mark.parametrize(
        "word", ["workload.scenario='D(1,2)'", "workload.scenario=dataset", "study_name=D(1,2)", "workload.levels=[1]"]
    )
    def test_other_words_stay(self, word: str) -> None:
        assert quote_scenario(word) == word


def test_option() -> None:
    arguments = ["-m", "--config-dir", "a", "x=1"]
    assert option(arguments, "--config-dir", "-cd") == "a"
    assert option(["--config-dir=a"], "--config-dir") == "a"
    assert option(["--config-dir"], "--config-dir") is None
    assert option(["x=1"], "--config-dir") is None
