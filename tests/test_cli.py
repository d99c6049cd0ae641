"""The command line: verbs, options, exit codes, errors of one line. No study runs here: `run_study` only notes what it was asked for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tuner import cli, parties, session
from tuner.composition import CONF
from tuner.errors import NotReadyError, Systemic, TunerError
from tuner.settings import Settings

Asked = list[tuple[Settings, int]]


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The studies that were asked for, on a host without a GPU, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tuner"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("tuner.host.nvidia_device", lambda: None)
    studies: Asked = []

    def run_study(settings: Settings, verbosity: int) -> int:
        studies.append((settings, verbosity))
        return 0

    monkeypatch.setattr(session, "run_study", run_study)
    monkeypatch.setattr(parties, "decide", lambda settings: settings)
    return studies


def tuner_(*arguments: str) -> int:
    """What `main` does, without the exit."""
    try:
        return cli.dispatch(list(arguments))
    except TunerError as error:
        return cli.complain(error)


def command(*arguments: str, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "tuner"]
    return subprocess.run([sys.executable, *start, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


ACCEPTANCE: list[tuple[list[str], int, str]] = [
    (["+experiment=lama1b"], 2, r"experiment=lama1b: no such option \(did you mean llama1b\?\); available: .*"),
    (["+experiment=llama1b", "samplr=tpe"], 2, r"samplr: no such key \(did you mean sampler\?\); .*"),
    (["+experiment=llama1b", "backend=dokcer"], 2, r"backend=dokcer: no such option \(did you mean docker\?\); available: .*"),
    (["+experiment=llama1b", "workload.levels=[]"], 2, r"workload\.levels: \[\] is empty; give at least one.*"),
    (["+experiment=llama1b", "workload.levels=[a]"], 2, r"workload\.levels\.0: 'a' is no whole number.*"),
    (["+experiment=llama1b", "objectives=[]"], 2, r"objectives: \[\] is empty; give at least one.*"),
    (["+experiment=llama1b", "trials=-3"], 2, r"trials: -3 must be above 0.*"),
    (["+experiment=llama1b", "space.n_parallel.low=32"], 2, r"space\.n_parallel: low=32 is above high=16; swap them.*"),
    (["trials=abc"], 2, r"trials: 'abc' is no whole number"),
    (["dashbord"], 2, r"'dashbord': neither a verb \(doctor, dashboard, clean\) nor key=value \(did you mean dashboard\?\)"),
    (["trials=3", "dashbord"], 2, r"'dashbord': neither a verb .*"),
    (["clean", "dashboard"], 2, r"clean dashboard: give one verb at a time"),
    (["=3"], 2, r"'=3': neither a verb .*"),
    (["--foo"], 2, r"unrecognized arguments: --foo; .*"),
    (["engine=sglang"], 2, r"engine\.model: missing; it needs a value, for example engine\.model=\.\.\."),
]


@pytest.mark.parametrize(("arguments", "code", "line"), ACCEPTANCE, ids=[" ".join(arguments) for arguments, _, _ in ACCEPTANCE])
def test_one_line_and_the_exit_code(arguments: list[str], code: int, line: str, asked: Asked, capfd: pytest.CaptureFixture[str]) -> None:
    assert tuner_(*arguments) == code
    output = capfd.readouterr()
    assert re.fullmatch(f"tuner: {line}\n", output.err), output.err
    assert output.out == ""
    assert not asked


@pytest.mark.slow
class TestWholeCommand:
    """What only a process of its own shows. Few: each takes half a second."""

    @pytest.mark.parametrize(
        ("arguments", "code", "line"),
        [
            (["+experiment=lama1b"], 2, r"experiment=lama1b: no such option .*"),
            (["+experiment=llama1b", "workload.levels=[a]"], 2, r"workload\.levels\.0: 'a' is no whole number.*"),
            (
                ["+experiment=llama1b", "storage.url=sqlite:////nonexistent/x.db"],
                3,
                r"storage\.url: the folder /nonexistent does not exist; .*",
            ),
            (["study_name=${engine.nam}"], 2, r"study_name: Interpolation key 'engine\.nam' not found"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_errors(self, tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == code
        assert re.fullmatch(f"tuner: {line}\n", done.stderr), done.stderr
        assert done.stdout == ""

    def test_help_names_everything_and_waits_for_no_library(self, tmp_path: Path) -> None:
        heavy = ("optuna", "pydantic", "docker", "genai_bench", "matplotlib", "numpy", "sqlalchemy", "httpx", "rich", "xllamacpp")
        code = (
            "import sys; from tuner.cli import main\n"
            "try: main()\n"
            f"finally: sys.stderr.write(' '.join(name for name in {heavy} if name in sys.modules))"
        )
        done = command("--help", cwd=tmp_path, code=code)
        assert done.returncode == 0
        assert done.stderr == "", "these were imported"
        for word in [*cli.VERBS, *(path.name for path in CONF.iterdir() if path.is_dir()), "trials:", "--cfg job", "llama1b_cpu"]:
            assert word in done.stdout, word

    def test_cfg_job_shows_the_composition(self, tmp_path: Path) -> None:
        done = command("--cfg", "job", "+experiment=llama1b_cpu", "trials=77", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "trials: 77\n" in done.stdout
        assert "stand_in_for: llama1b\n" in done.stdout
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
    def test_signals_end_it_in_order(self, tmp_path: Path, number: signal.Signals) -> None:
        code = """
import signal, sys
from tuner import cli, parties, session

def run_study(settings, verbosity):
    try:
        print("running", flush=True)
        signal.pause()
    finally:
        print("stopped the server", flush=True)

session.run_study = run_study
cli.main()
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(number)
            output, errors = process.communicate(timeout=30)
        assert process.returncode == cli.INTERRUPTED
        assert output == "stopped the server\n"
        assert errors == ""

    def test_a_reader_that_goes_away_is_no_traceback(self, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as closed:
            done = subprocess.run(
                [sys.executable, "-m", "tuner", "--cfg", "job"],
                cwd=tmp_path,
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.stderr == ""
        assert done.returncode == 1


class TestRun:
    def test_settings_reach_the_study(self, asked: Asked) -> None:
        assert tuner_("+experiment=llama1b_cpu", "trials=3", "seed=7") == 0
        ((settings, verbosity),) = asked
        assert (settings.study_name, settings.trials, settings.seed, verbosity) == ("llama1b-cpu", 3, 7, 0)

    @pytest.mark.parametrize(
        ("words", "verbosity"), [(["-q"], -1), (["--quiet"], -1), (["-v"], 1), (["--verbose"], 1), (["-q", "-v"], 0), ([], 0)], ids=str
    )
    def test_verbosity(self, asked: Asked, words: list[str], verbosity: int) -> None:
        assert tuner_("trials=3", *words) == 0
        assert asked[0][1] == verbosity

    def test_without_a_gpu_the_stand_in_runs(self, asked: Asked) -> None:
        assert tuner_("+experiment=llama1b") == 0
        assert asked[0][0].stand_in_for == "llama1b"

    def test_with_a_gpu_the_experiment_itself_runs(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tuner.host.nvidia_device", lambda: "/dev/nvidia0")
        assert tuner_("+experiment=llama1b") == 0
        assert asked[0][0].engine.name == "sglang"

    def test_errors_in_the_stand_in_say_that_it_is_one(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert tuner_("+experiment=llama1b", "space.mem_fraction_static.high=0.8") == 2
        assert capfd.readouterr().err.endswith(" [without an NVIDIA device: +experiment=llama1b_cpu]\n")

    @pytest.mark.parametrize(
        ("error", "code"),
        [(TunerError("broken"), 1), (NotReadyError("no daemon"), 3), (Systemic("no such model"), 3)],
        ids=lambda value: type(value).__name__,
    )
    def test_exit_codes(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: TunerError, code: int) -> None:
        def run_study(settings: Settings, verbosity: int) -> int:
            raise error

        monkeypatch.setattr(session, "run_study", run_study)
        assert tuner_() == code
        output = capfd.readouterr()
        assert output.err == f"tuner: {error}\n"

    def test_version(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert tuner_("--version") == 0
        assert capfd.readouterr().out == f"tuner {tuner.__version__}\n"


class TestVerbs:
    @pytest.mark.parametrize(
        "words", [["clean", "folder=x"], ["folder=x", "clean"], ["-q", "clean", "folder=x"], ["folder=x", "clean", "-v"]], ids=" ".join
    )
    def test_stand_anywhere(self, asked: Asked, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
        cleaned: list[Settings] = []

        def reap_all(settings: Settings) -> int:
            cleaned.append(settings)
            return 0

        monkeypatch.setattr(session, "reap_all", reap_all)
        assert tuner_(*words) == 0
        assert [settings.folder for settings in cleaned] == ["x"]
        assert not asked

    @pytest.mark.parametrize(("words", "as_json"), [(["doctor"], False), (["doctor", "--json"], True), (["--json", "doctor"], True)])
    def test_doctor(self, asked: Asked, monkeypatch: pytest.MonkeyPatch, words: list[str], as_json: bool) -> None:
        examined: list[tuple[str, bool]] = []

        def examine(settings: Settings, as_json: bool, verbosity: int) -> int:
            examined.append((settings.study_name, as_json))
            return 3

        monkeypatch.setattr("tuner.doctor.run", examine)
        assert tuner_(*words, "study_name=x") == 3
        assert examined == [("x", as_json)]
        assert not asked

    def test_json_is_for_doctor_only(self, asked: Asked, capfd: pytest.CaptureFixture[str]) -> None:
        assert tuner_("--json") == 2
        assert capfd.readouterr().err == "tuner: --json: only doctor has it\n"
        assert not asked

    def test_dashboard(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        served: list[int] = []

        def serve(settings: Settings) -> int:
            served.append(settings.dashboard.port)
            return 0

        monkeypatch.setattr("tuner.report.dashboard.serve", serve)
        assert tuner_("dashboard", "dashboard.port=9999") == 0
        assert served == [9999]
        assert not asked


@pytest.mark.slow
class TestMultirun:
    NAME = "study_name=x-${sampler.name}-${trials}"

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_one_study_for_each_value_wherever_the_option_stands(self, asked: Asked, position: int) -> None:
        words = ["sampler=tpe,random", self.NAME]
        assert tuner_(*words[:position], "-m", *words[position:]) == 0
        assert [settings.sampler.name for settings, _ in asked] == ["tpe", "random"]

    def test_a_bad_job_does_not_stop_the_others(self, asked: Asked, capfd: pytest.CaptureFixture[str]) -> None:
        assert tuner_("-m", "trials=1,abc,3", self.NAME) == 2
        assert [settings.trials for settings, _ in asked] == [1, 3]
        error = capfd.readouterr().err
        assert re.fullmatch(r"tuner: trials: 'abc' is no whole number \(job trials=abc .*\)\n", error), error

    def test_the_worst_exit_code_counts(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        def run_study(settings: Settings, verbosity: int) -> int:
            if settings.trials == 2:
                raise NotReadyError("no daemon")
            return 0

        monkeypatch.setattr(session, "run_study", run_study)
        assert tuner_("--multirun", "trials=2,abc,3", self.NAME) == 3
        assert len(capfd.readouterr().err.splitlines()) == 2

    def test_each_job_is_a_study_of_its_own(self, asked: Asked, capfd: pytest.CaptureFixture[str]) -> None:
        """A second job of the same name would only resume the first, and find it finished."""
        assert tuner_("-m", "sampler=tpe,random", "study_name=x") == 2
        assert len(asked) == 1
        error = capfd.readouterr().err
        assert error.startswith("tuner: study_name=x: a job before has this name; give each its own, as 'study_name=x-${sampler.name}'")

    def test_nothing_of_hydra_is_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hydra keeps the whole composition of a multirun in a file, a password in `storage.url` too."""
        (temporary := tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        during: list[Path] = []

        def run_study(settings: Settings, verbosity: int) -> int:
            during.extend(path for path in tmp_path.rglob("*") if path.is_file())
            return 0

        monkeypatch.setattr(session, "run_study", run_study)
        assert tuner_("-m", "trials=1,2", self.NAME, "storage.url='postgresql://user:secret@host/db'") == 0
        assert tuner_("trials=1") == 0
        assert during == []
        assert list(tmp_path.rglob("*")) == [temporary]
