from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuner.backend_settings import AutoBackendSettings, DockerBackendSettings, LocalBackendSettings
from tuner.engine_settings import GpuEngineSettings, LlamaCppSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    ("prefix", "sections"),
    [
        ("backend", [AutoBackendSettings, LocalBackendSettings, DockerBackendSettings]),
        ("engine", [LlamaCppSettings, GpuEngineSettings]),
    ],
)
def test_every_option_is_documented_and_no_other(prefix: str, sections: list[type]) -> None:
    documented = set(re.findall(rf"^\| `{prefix}\.(\w+)` \|", (ROOT / "docs/gpu_host.md").read_text(), re.MULTILINE))
    assert documented == {name for section in sections for name in section.model_fields} - {"name"}  # type: ignore[attr-defined]


def test_defaults_in_the_table_are_those_of_the_settings() -> None:
    rows = re.findall(r"^\| `backend\.(\w+)` \| ([^|]+) \|", (ROOT / "docs/gpu_host.md").read_text(), re.MULTILINE)
    shown = {None: "null", (): "[]"}
    for name, default in rows:
        value = DockerBackendSettings(name="docker").model_dump()[name]
        expected = "{}" if value == {} else shown.get(value, f"{value:g}" if isinstance(value, float) else str(value))
        assert default == expected, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
