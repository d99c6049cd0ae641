"""Flags that were spelled differently in older versions. Configurations use the newest spelling; the image in use may be older."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from tuner.errors import ConfigError
from tuner.launch import Value


@dataclass(frozen=True, slots=True)
class Drift:
    """A flag that got a new name.

    Attributes:
        name: The parameter, as it is called now.
        since: First version that knows it so.
        before: The parameter that did the same before.
        switch: Second parameter that had to be on for `before` to mean this; empty where none had to.
        source: Where this was read.
    """

    name: str
    since: Version
    before: str
    source: str
    switch: str = ""


_GRAPHS = "server_args.py of the wheels: new names in 0.5.14, not in 0.5.13.post1; old ones there up to 0.5.19, gone in 0.5.20"

SGLANG = (
    Drift("cuda_graph_max_bs_decode", Version("0.5.14"), "cuda_graph_max_bs", _GRAPHS),
    Drift("cuda_graph_bs_decode", Version("0.5.14"), "cuda_graph_bs", _GRAPHS),
    Drift(
        "attn_dp_size",
        Version("0.5.22"),
        "dp_size",
        "server_args.py of the wheels: in 0.5.22, not in 0.5.21; arg_groups/parallel_hook.py of 0.5.23 resolves the old spelling so",
        switch="enable_dp_attention",
    ),
)

_TAG_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)*(?:\.?(?:post|rc|dev)\d+)?)(?:[-_].*)?")


def renamed(name: str, drifts: Sequence[Drift]) -> str:
    """Today's name of a parameter that was only renamed, or else `name`."""
    return next((drift.name for drift in drifts if drift.before == name and not drift.switch), name)


def combined(given: Mapping[str, Value], drifts: Sequence[Drift]) -> dict[str, Value]:
    """`given` with each pair of parameters that meant together what one says today replaced by that one."""
    named = dict(given)
    for drift in drifts:
        if drift.switch and named.pop(drift.switch, False) is True and named.get(drift.name, 1) == 1 and drift.before in named:
            named[drift.name] = named.pop(drift.before)
    return named


def of_version(version: Version, given: Mapping[str, Value], drifts: Sequence[Drift]) -> dict[str, Value]:
    """`given`, which has the names of today, with those of `version`."""
    named = dict(given)
    for drift in drifts:
        if version < drift.since and drift.name in named:
            value = named.pop(drift.name)
            if not drift.switch:
                named[drift.before] = value
            elif value != 1:
                named |= {drift.before: value, drift.switch: True}
    return named


def version_of(setting: str | None, image: str | None, official: str) -> Version | None:
    """The version of an engine that the user named, or else that the tag of its official image names; None where neither does.

    Args:
        setting: `engine.version`.
        image: `engine.image`.
        official: Last part of the name of the engine's official image: the tags of others count something else.

    Raises:
        ConfigError: `setting` is no version.
    """
    if setting is not None:
        try:
            return Version(Version(setting).public)
        except InvalidVersion as error:
            raise ConfigError(f"engine.version={setting}: no version; write it like 0.5.23") from error
    repository, _, tag = (image or "").partition("@")[0].rpartition("/")[2].partition(":")
    found = _TAG_VERSION.fullmatch(tag)
    return Version(found[1]) if found and repository == official else None
