"""What Hydra, OmegaConf and YAML say about a wrong configuration, in one line."""

from __future__ import annotations

import re

import yaml
from hydra.errors import OverrideParseException
from omegaconf.errors import MissingMandatoryValue

from tuner.composition import ERRORS, groups, keys, options
from tuner.explain import NOT_GLOBAL, nearest

OPEN = (
    *("space.", "engine.args.", "workload.request_params.", "backend.environment.", "backend.ulimits.", "backend.container."),
    *("backend.patch.", "benchmark.job.resources.", "benchmark.job.node_selector.", "benchmark.job.patch."),
)
"""Where a user may add keys of any name."""


def explain(error: Exception, arguments: list[str]) -> str:
    """What Hydra, OmegaConf or YAML say, in one line that names the key, the value and the nearest right spelling."""
    text, cause = str(error), str(error.__cause__ or "")
    where = re.search(r"full_key: (\S+)", cause or text)
    key = re.sub(r"\[(\d+)\]", r".\1", where[1]) if where else ""
    if isinstance(error, yaml.YAMLError):
        return f"not valid YAML: {' '.join(text.split())}"
    if isinstance(error, MissingMandatoryValue):
        key = key or text.rpartition(" ")[2]
        return f"{key}: missing; it needs a value, for example {key}=..."
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if found := re.search(r"Could not (?:find|load) '(?P<group>[^'\n]+)/(?P<choice>[^'/\n]+)'", text):
        group, choice = found["group"].removeprefix("/"), found["choice"]
        choices = [line.strip() for line in text.splitlines() if line.startswith("\t") and "provider=" not in line] or options(group)
        return f"{group}={choice}: no such option{nearest(choice, choices)}; available: {', '.join(choices) or 'none'}"
    if found := re.match(r"Error merging override (?P<override>.+)", text):
        reason = "a mapping and a list cannot stand for each other" if "Cannot merge" in cause else cause.partition("\n")[0]
        return f"{found['override']}: {reason}; `--cfg job` shows what stands there"
    if found := re.search(r"Could not override '(?P<key>[^']+)'", text):
        key = max(key, found["key"], key=len)
        if "@experiment." in key:
            return NOT_GLOBAL
        if key == "experiment":
            return "experiment: write it with a plus sign, +experiment=..."
        if "No match in the defaults list" in text:
            return f"{key}: no such group{nearest(key, groups())}"
        hint = f"to add it, write +{key}=..." if key.startswith(OPEN) else "`--cfg job` shows all keys"
        return f"{key}: no such key{_meant(key, arguments)}; {hint}"
    if found := re.search(r"Could not delete from config. '(?P<key>[^']+)' does not exist", text):
        return f"~{found['key']}: no such key{_meant(found['key'], arguments)}; `--cfg job` shows all keys"
    if found := re.search(r"An item is already at '(?P<key>[^']+)'", text):
        return f"+{found['key']}: the key is there already; write {found['key']}=... without the plus sign"
    if found := re.search(r"Multiple values for (?P<group>[\w/]+)\.", text):
        group = found["group"]
        return f"{group}: chosen twice; write {group}=... without a plus sign, or in a file 'override /{group}: ...' in its defaults"
    if found := re.search(r"Ambiguous value for argument '(?P<key>[^'=]+)=(?P<value>[^']+)'", text):
        key, value = found["key"], found["value"]
        return f"{key}={value}: several values; -m runs a study for each, brackets make one list of them: {key}=[{value}]"
    if not isinstance(error, ERRORS) and (wrong := _no_option(arguments)):
        return wrong
    first = " ".join(text.partition("full_key:")[0].split("\n\n")[0].split()) or type(error).__name__
    return f"{key}: {first}" if key else first


def _unreadable(override: str) -> str:
    key, assigned, value = override.partition("=")
    if not assigned:
        return f"'{override}': neither a verb nor key=value"
    quoted = '{name: "a text"}' if value.startswith("{") else f'["{value.strip("[]")}"]' if value.startswith("[") else f'"{value}"'
    return f"{key}: {value!r} cannot be read; text with signs in it needs quotes of its own, as in '{key}={quoted}'"


def _no_option(arguments: list[str]) -> str | None:
    """The complaint about a group whose option is not given by its name, where there is one."""
    for word in arguments:
        group, _, value = word.lstrip("+").partition("=")
        if group in groups() and not re.fullmatch(r"(?!null$)[a-zA-Z_][\w/.-]*", value):
            names, own = ", ".join(options(group)), f"your own conf/{group}/NAME.yaml"
            inside = [key for key in _known([other for other in arguments if other != word]) if key.startswith(f"{group}.")]
            uses = f"{names}, {own}, or single keys as {inside[-1]}=..." if inside else f"{names}, or {own}"
            return f"{word}: no name of an option; use {uses}"
    return None


def _meant(key: str, arguments: list[str]) -> str:
    """The proposal for a key that is not there; never the key itself, which the defaults may have."""
    # keys of one section resemble each other by its name alone: the last parts must do so too
    last = key.rpartition(".")[2]
    return nearest(key, (known for known in _known(arguments) if known != key and nearest(last, [known.rpartition(".")[2]])))


def _known(arguments: list[str]) -> list[str]:
    """The keys of what `arguments` compose; those of the defaults where they do not compose."""
    try:
        return keys(*_choices(arguments))
    except Exception:  # for some wrong choices Hydra has a bare TypeError
        return keys()


def _choices(arguments: list[str]) -> list[str]:
    """The overrides that choose files of the configuration; of several for a multirun the first."""
    names = [*groups(), "+experiment"]
    chosen = [word for word in arguments if word.partition("=")[0] in names]
    return [word if "=[" in word else word.partition(",")[0] for word in chosen]
