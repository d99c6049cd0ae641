"""Where the configuration files are, and how they are composed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_HERE = Path(__file__).resolve().parent
CONF = next((path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir()), _HERE.parent / "conf")
"""The shipped configuration: inside the installed package, or beside it in a source tree."""

VERSION_BASE = "1.3"
ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


class UserConf(SearchPathPlugin):
    """Adds `conf/` of the working directory, so that a user's `conf/experiment/mine.yaml` is found beside the shipped ones.

    It comes last: a user's file adds an option, it does not silently replace a shipped one.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        user = Path.cwd() / "conf"
        if user.is_dir() and user != CONF:
            search_path.append(provider="working directory", path=user.as_uri())


def compose(overrides: list[str], config_dir: str | None = None) -> DictConfig:
    """Composes without running an app.

    Args:
        overrides: Hydra overrides.
        config_dir: A directory of the user's own files, as with `--config-dir`.
    """
    Plugins.instance().register(UserConf)
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        return hydra.compose("config", overrides=[*extra, *overrides])


def groups() -> list[str]:
    """The groups of the shipped configuration."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name.isidentifier())


def options(group: str) -> list[str]:
    """The options of a group, of the shipped configuration and of the working directory."""
    return sorted({path.stem for folder in (CONF, Path.cwd() / "conf") for path in (folder / group).glob("*.yaml")})


def content(group: str, option: str) -> dict[str, Any]:
    """What an option of a group sets; empty where there is no such file."""
    found = (folder / group / f"{option}.yaml" for folder in (CONF, Path.cwd() / "conf"))
    return next((yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in found if path.is_file()), {})


def keys(*overrides: str) -> list[str]:
    """All dotted keys of a composition; those of the defaults where `overrides` do not compose."""
    try:
        config = compose(list(overrides))
    except ERRORS:
        config = compose([])
    return list(_dotted(OmegaConf.to_container(config, resolve=False), ""))


def _dotted(value: Any, prefix: str) -> Iterator[str]:
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield f"{prefix}{key}"
        if isinstance(child, dict | list):
            yield from _dotted(child, f"{prefix}{key}.")
