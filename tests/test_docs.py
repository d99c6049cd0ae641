from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuner.backend_settings import AutoBackendSettings, DockerBackendSettings, LocalBackendSettings
from tuner.benchmark_settings import JobSettings
from tuner.engine_settings import GpuEngineSettings, LlamaCppSettings, ReplaySettings
from tuner.goodput import Goodput
from tuner.ome_settings import OmeBackendSettings
from tuner.search_settings import ConfirmSettings, ControlSettings, PrunerSettings, SamplerSettings, StopSettings
from tuner.section import Section
from tuner.settings import CostSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    ("page", "prefix", "sections"),
    [
        ("docs/gpu_host.md", "backend", [AutoBackendSettings, LocalBackendSettings, DockerBackendSettings]),
        ("docs/gpu_host.md", "engine", [LlamaCppSettings, GpuEngineSettings]),
        ("docs/kubernetes.md", "backend", [OmeBackendSettings]),
        ("docs/kubernetes.md", "benchmark.job", [JobSettings]),
        ("docs/replay.md", "engine", [ReplaySettings]),
        ("docs/pruning.md", "pruner", [PrunerSettings]),
        ("docs/verdict.md", "confirm", [ConfirmSettings]),
        ("docs/verdict.md", "control", [ControlSettings]),
        ("README.md", "sampler", [SamplerSettings]),
        ("README.md", "pruner", [PrunerSettings]),
        ("README.md", "confirm", [ConfirmSettings]),
        ("README.md", "control", [ControlSettings]),
        ("README.md", "stop", [StopSettings]),
        ("README.md", "workload.goodput", [Goodput]),
        ("README.md", "cost", [CostSettings]),
    ],
)
def test_every_option_is_documented_and_no_other(page: str, prefix: str, sections: list[type[Section]]) -> None:
    assert names(page, prefix) == {name for section in sections for name in section.model_fields} - {"name"}


@pytest.mark.parametrize(
    ("page", "prefix", "section"),
    [
        ("docs/gpu_host.md", "backend", DockerBackendSettings(name="docker")),
        ("docs/kubernetes.md", "backend", OmeBackendSettings(name="ome")),
        ("docs/kubernetes.md", "benchmark.job", JobSettings()),
        ("docs/replay.md", "engine", ReplaySettings(name="replay", table="demo")),
        ("docs/pruning.md", "pruner", PrunerSettings()),
        ("docs/verdict.md", "confirm", ConfirmSettings()),
        ("docs/verdict.md", "control", ControlSettings()),
    ],
)
def test_defaults_in_the_table_are_those_of_the_settings(page: str, prefix: str, section: Section) -> None:
    shown = {None: "null", (): "[]"}
    for name, default in rows(page, prefix):
        value = section.model_dump()[name]
        if isinstance(value, dict) and value:
            continue  # a reference, of which only the kind has a default
        expected = "{}" if value == {} else shown.get(value, f"{value:g}" if isinstance(value, float) else str(value))
        assert default == ("" if type(section).model_fields[name].is_required() else expected), name


def rows(page: str, prefix: str) -> list[tuple[str, str]]:
    """Names and defaults in the tables of options that give one in each row."""
    pattern = rf"^\| `{re.escape(prefix)}\.(\w+)` \| ([^|]*?) ?\|"
    return re.findall(pattern, (ROOT / page).read_text(), re.MULTILINE)


def names(page: str, prefix: str) -> set[str]:
    """Names in the tables of options, where a row may give several."""
    first_cells = re.findall(r"^\| (`[^|]*) \|", (ROOT / page).read_text(), re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(rf"`{re.escape(prefix)}\.(\w+)`", cell)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
