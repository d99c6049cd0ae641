"""Composition: every shipped option, and the user's own files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.composing import complaint, experiment, run, settings, work
from tuner import composition
from tuner.composition import CONF, compose, groups, options
from tuner.errors import ConfigError
from tuner.hydra_app import with_stand_in
from tuner.settings import load

__all__ = ["work"]

MODEL = "engine.model=some/model"
GPUS = ["engine=sglang", "space=sglang", MODEL]
NEEDS = {
    "engine=replay": ["engine.table=some.csv"],
    "objectives=latency_per_gpu": GPUS,
}
"""What an option does not go without; an engine needs a model."""


class TestShipped:
    def test_groups(self) -> None:
        assert groups() == ["backend", "engine", "experiment", "objectives", "pruner", "sampler", "space", "storage", "workload"]

    @pytest.mark.parametrize("name", options("experiment"))
    def test_every_experiment_is_right(self, name: str) -> None:
        right = settings(f"+experiment={name}")
        if right.stand_in is not None:
            assert settings(f"+experiment={right.stand_in}").stand_in_for == name

    @pytest.mark.parametrize(
        ("group", "name"),
        [(group, name) for group in groups() if group != "experiment" for name in options(group)],
    )
    def test_every_option_is_right(self, group: str, name: str) -> None:
        right = settings(f"{group}={name}", *NEEDS.get(f"{group}={name}", [MODEL]))
        if group in ("engine", "backend", "sampler", "pruner"):
            assert getattr(right, group).name == name

    def test_every_engine_has_a_space_of_its_name_but_replay_which_takes_that_of_its_table(self) -> None:
        assert set(options("space")) == set(options("engine")) - {"replay"}

    @pytest.mark.parametrize("space", options("space"))
    def test_every_space_goes_with_its_engine_and_constraints_of_it_can_be_overridden(self, space: str) -> None:
        right = settings(f"engine={space}", f"space={space}", MODEL, "space.constraints=['1 > 0']").space
        assert right.searched
        assert right.constraints[0].text == "1 > 0"

    @pytest.mark.parametrize("workload", options("workload"))
    @pytest.mark.parametrize("objectives", options("objectives"))
    def test_options_of_a_group_go_together(self, workload: str, objectives: str) -> None:
        right = settings(*GPUS, f"workload={workload}", f"objectives={objectives}")
        assert right.objectives
        assert (right.workload.goodput is not None) == (objectives == "goodput")

    def test_experiment_overrides_win(self) -> None:
        right = settings("+experiment=llama1b_cpu", "trials=99", "space.n_parallel.high=4", "workload.levels=[2]", "seed=5")
        assert (right.trials, right.seed, right.workload.levels) == (99, 5, (2,))


class TestOfTheUser:
    def test_the_experiment_that_readme_shows(self, work: Path) -> None:
        readme = (CONF.parent / "README.md").read_text()
        experiment(work / "conf", "mine", readme.partition("```yaml\n")[2].partition("```")[0])
        mine = settings("+experiment=mine")
        assert (mine.study_name, mine.engine.name, mine.workload.levels) == ("qwen-vllm", "vllm", (4, 16, 64))
        assert [slo.label(mine.workload.levels) for slo in mine.constraints] == ["ttft_p99_s@16<=0.5"]

    MINE = "# @package _global_\ndefaults:\n  - override /engine: vllm\n  - override /space: vllm\ntrials: 77\nengine: {model: m}\n"

    def test_found_in_the_working_directory(self, work: Path) -> None:
        experiment(work / "conf", "mine", self.MINE)
        (job,) = run("+experiment=mine")
        assert (job["trials"], job["engine"]["name"], job["engine"]["model"]) == (77, "vllm", "m")
        load(job)

    def test_options_of_other_groups_too(self, work: Path) -> None:
        (work / "conf/workload").mkdir(parents=True)
        (work / "conf/workload/mine.yaml").write_text("scenario: D(1,2)\nlevels: [3]\n")
        (job,) = run("workload=mine")
        assert job["workload"]["levels"] == [3]

    @pytest.mark.parametrize("form", ["--config-dir {}", "--config-dir={}", "-cd {}"])
    def test_found_in_a_named_directory(self, tmp_path: Path, form: str) -> None:
        experiment(tmp_path / "elsewhere", "mine", self.MINE)
        (job,) = run(*form.format(tmp_path / "elsewhere").split(), "+experiment=mine")
        assert job["trials"] == 77

    def test_compose_takes_the_directory_too(self, tmp_path: Path) -> None:
        experiment(tmp_path / "elsewhere", "mine", self.MINE)
        assert compose(["+experiment=mine"], str(tmp_path / "elsewhere")).trials == 77

    def test_a_shipped_name_is_not_replaced_and_that_is_told(self, work: Path, caplog: pytest.LogCaptureFixture) -> None:
        experiment(work / "conf", "llama1b_cpu", "# @package _global_\ntrials: 77\n")
        (job,) = run("+experiment=llama1b_cpu")
        assert job["trials"] == compose(["+experiment=llama1b_cpu"]).trials != 77
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning == "conf/experiment/llama1b_cpu.yaml is not read: tuner has its own file of this name; rename yours"

    def test_a_copy_of_a_shipped_file_is_no_reason_to_warn(self, work: Path, caplog: pytest.LogCaptureFixture) -> None:
        experiment(work / "conf", "llama1b_cpu", (CONF / "experiment/llama1b_cpu.yaml").read_text())
        run("+experiment=llama1b_cpu")
        assert not caplog.records

    def test_the_clone_itself_is_no_directory_of_a_user(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.chdir(CONF.parent)
        run("trials=3")
        assert not caplog.records

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("# @package _global_\nstudy_name: [a\n", r"not valid YAML: .*mine\.yaml.*, line 2, column 13 .*"),
            ("# @package _global_\ntrials: 3\n\tseed: 1\n", r"not valid YAML: .*'\\t' .*mine\.yaml.*, line 3, column 1"),
            ("# @package _global_\ntrials: 3\ntrials: 4\n", r"not valid YAML: .* duplicate key trials .*"),
            ("# @package _global_\ndefaults:\n  - override /engin: vllm\n", r"engin: no such group \(did you mean engine\?\)"),
            ("# @package _global_\ndefaults:\n  - override /engine: vlm\n", r"engine=vlm: no such option \(did you mean vllm\?\); .*"),
            ("# @package _global_\ndefaults:\n  - /engine: vllm\n", r"engine: chosen twice; .*in a file 'override /engine: \.\.\.' .*"),
            ("defaults:\n  - override /engine: vllm\n", r"experiment: .*must begin with the line '# @package _global_'"),
            ("# @package _global_\nengine: 5\n", r"study_name: .*engine.*"),
        ],
    )
    def test_wrong_files(self, work: Path, text: str, line: str) -> None:
        experiment(work / "conf", "mine", text)
        message = complaint("+experiment=mine")
        assert re.fullmatch(line, message), message

    def test_forgotten_package_line(self, work: Path) -> None:
        experiment(work / "conf", "mine", "trials: 3\n")
        with pytest.raises(ConfigError, match="must begin with the line '# @package _global_'"):
            load(run("+experiment=mine")[0])

    def test_a_file_that_is_no_text(self, work: Path) -> None:
        experiment(work / "conf", "mine", "").write_bytes(b"\xff\xfe")
        assert with_stand_in(["+experiment=mine"]) == ["+experiment=mine"]
        assert "decode" in complaint("+experiment=mine")

    def test_spelling_of_a_users_experiment_is_proposed(self, work: Path) -> None:
        experiment(work / "conf", "mine", self.MINE)
        available = "llama1b, llama1b_cpu, llama1b_ome, mine, replay_demo"
        assert complaint("+experiment=min") == f"experiment=min: no such option (did you mean mine?); available: {available}"


def test_configuration_is_where_the_package_says() -> None:
    assert (composition.CONF / "config.yaml").is_file()
