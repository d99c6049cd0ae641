from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuner.backend_settings import AutoBackendSettings, DockerBackendSettings, LocalBackendSettings
from tuner.benchmark_settings import JobSettings
from tuner.engine_settings import GpuEngineSettings, LlamaCppSettings
from tuner.ome_settings import OmeBackendSettings
from tuner.section import Section

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    ("page", "prefix", "sections"),
    [
        ("gpu_host.md", "backend", [AutoBackendSettings, LocalBackendSettings, DockerBackendSettings]),
        ("gpu_host.md", "engine", [LlamaCppSettings, GpuEngineSettings]),
        ("kubernetes.md", "backend", [OmeBackendSettings]),
        ("kubernetes.md", "benchmark.job", [JobSettings]),
    ],
)
def test_every_option_is_documented_and_no_other(page: str, prefix: str, sections: list[type]) -> None:
    documented = {name for name, _ in rows(page, prefix)}
    assert documented == {name for section in sections for name in section.model_fields} - {"name"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("page", "prefix", "section"),
    [
        ("gpu_host.md", "backend", DockerBackendSettings(name="docker")),
        ("kubernetes.md", "backend", OmeBackendSettings(name="ome")),
        ("kubernetes.md", "benchmark.job", JobSettings()),
    ],
)
def test_defaults_in_the_table_are_those_of_the_settings(page: str, prefix: str, section: Section) -> None:
    shown = {None: "null", (): "[]"}
    for name, default in rows(page, prefix):
        value = section.model_dump()[name]
        if isinstance(value, dict) and value:
            continue  # a reference, of which only the kind has a default
        expected = "{}" if value == {} else shown.get(value, f"{value:g}" if isinstance(value, float) else str(value))
        assert default == expected, name


def rows(page: str, prefix: str) -> list[tuple[str, str]]:
    """Names and defaults in the tables of options."""
    pattern = rf"^\| `{re.escape(prefix)}\.(\w+)` \| ([^|]*?) ?\|"
    return re.findall(pattern, (ROOT / "docs" / page).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
