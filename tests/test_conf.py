"""The configuration ships inside the wheel and works from there, in any directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tuner.composition import CONF

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_is_a_mapping(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_global(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n"), "else its keys would stand under `experiment`"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this repository, unpacked as an installer does it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "tuner", "conf"):  # a copy, so that no build files are left in the clone
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source), cwd=folder)
    (wheel,) = folder.glob("tuner-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
class TestWheel:
    def test_ships_every_file(self, site: Path) -> None:
        shipped = {path.relative_to(site / "tuner/conf") for path in (site / "tuner/conf").rglob("*.yaml")}
        assert shipped == {path.relative_to(CONF) for path in CONF.rglob("*.yaml")}

    def test_ships_all_code_and_nothing_else(self, site: Path) -> None:
        modules = {path.relative_to(site) for path in site.rglob("*.py")}
        assert modules == {path.relative_to(ROOT) for path in (ROOT / "tuner").rglob("*.py")}
        assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"tuner"}

    def test_runs_in_an_unrelated_directory(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "conf/experiment").mkdir(parents=True)
        (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\ntrials: 77\n")
        where = run(sys.executable, "-c", "import tuner.composition; print(tuner.composition.CONF)", cwd=tmp_path, PYTHONPATH=str(site))
        assert Path(where.strip()) == site / "tuner/conf"
        for experiment, expected in (("mine", "trials: 77\n"), ("llama1b_cpu", "stand_in_for: llama1b\n")):
            command = [sys.executable, "-m", "tuner", "--cfg", "job", f"+experiment={experiment}"]
            assert expected in run(*command, cwd=tmp_path, PYTHONPATH=str(site))
