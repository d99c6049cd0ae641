"""The flags of one version of an engine, as read from its wheel: which there are, and how a value is written on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Self

from packaging.version import Version

from tuner.engines.runtime_flags import Spelling
from tuner.errors import Infeasible
from tuner.explain import nearest
from tuner.launch import Value

MANY = 30
"""From here on choices are counted, not listed."""

HUMAN_READABLE = frozenset({"max_model_len", "max_num_batched_tokens", "max_num_scheduled_tokens", "kv_cache_memory_bytes"})
"""Numbers that vLLM also takes as `8k` or `auto` [`human_readable_int` of vllm/engine/arg_utils.py]."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: As a configuration spells it (`mem_fraction_static`).
        flag: As the command line spells it (`--mem-fraction-static`).
        type: `bool`, `int`, `float` or `str`.
        switch: Whether it is given without a value.
        off: Words that turn a switch off; empty where leaving it out is the only way.
        nargs: As argparse means it; None for exactly one value.
        choices: What the parser accepts; None where that is anything.
        aliases: Other spellings on the command line.
        deprecated: What the engine says against its use; empty where nothing.
    """

    name: str
    flag: str
    type: str
    switch: bool
    off: tuple[str, ...]
    nargs: str | None
    choices: tuple[str | int, ...] | None
    aliases: tuple[str, ...]
    deprecated: str

    @classmethod
    def unlisted(cls, name: str, negatable: bool) -> Self:
        """A flag of another version, known by its name alone."""
        kebab = name.replace("_", "-")
        return cls(name, f"--{kebab}", "str", False, (f"--no-{kebab}",) if negatable else (), "?", None, (), "")

    @property
    def spellings(self) -> dict[str, Spelling]:
        """What each of its words means."""
        on = dict.fromkeys((self.flag, *self.aliases), Spelling(self.name, self.type, self.nargs))
        return on | dict.fromkeys(self.off, Spelling(self.name, self.type, self.nargs, alone=False))

    def words(self, value: Value) -> tuple[str, ...]:
        """The words that give it `value`."""
        if value is True:
            return (self.flag,)
        if value is False:
            return self.off[:1]
        return (self.flag, *self._values(value))

    def check(self, value: Value) -> None:
        """Refuses what the engine's parser would.

        Raises:
            Infeasible: wrong type, or none of the choices; says what is allowed.
        """
        if self.switch:
            if not isinstance(value, bool):
                raise Infeasible("a switch, true or false")
        elif isinstance(value, bool):
            if self.nargs != "?" or not value:
                raise Infeasible(f"no switch, it takes a value of type {self.type}")
        elif not (isinstance(value, str) and self.name in HUMAN_READABLE):
            self._check_words(value)

    def _check_words(self, value: Value) -> None:
        for word in self._values(value):
            if not _parses(word, self.type):
                raise Infeasible(f"must be of type {self.type}")
            if self.choices is not None and word not in (allowed := [str(choice) for choice in self.choices]):
                shown = f"use one of {', '.join(allowed)}" if len(allowed) < MANY else f"none of its {len(allowed)} choices"
                raise Infeasible(f"{shown}{nearest(word, allowed)}")

    def _values(self, value: Value) -> tuple[str, ...]:
        # several values are given as one text with spaces between; JSON may hold some of its own
        several = self.nargs in ("+", "*") and isinstance(value, str) and not value.lstrip().startswith(("{", "["))
        return tuple(str(value).split()) if several else (str(value),)


class FlagTable:
    """The flags of one version of an engine.

    Args:
        engine: `sglang` or `vllm`.
        version: Of the engine.
        flags: All of its flags, by name.
    """

    def __init__(self, engine: str, version: Version, flags: Mapping[str, Flag]) -> None:
        self.engine = engine
        self.version = version
        self._flags = {alias.lstrip("-").replace("-", "_"): flag for flag in flags.values() for alias in flag.aliases} | dict(flags)

    @classmethod
    @cache
    def newest(cls, engine: str) -> Self:
        """The table of the newest version of `engine` that is known here."""
        folder = files("tuner.engines") / "flags"
        tables = {
            Version(file.name.removeprefix(f"{engine}-").removesuffix(".json")): file
            for file in folder.iterdir()
            if _is_of(engine, file.name)
        }
        version = max(tables)
        content = json.loads(tables[version].read_text())
        return cls(engine, version, {name: _flag(name, fields) for name, fields in content["flags"].items()})

    @property
    def flags(self) -> tuple[Flag, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(self._flags.values()))

    @property
    def names(self) -> frozenset[str]:
        """Every name that a configuration may hold, aliases among them."""
        return frozenset(self._flags)

    def find(self, name: str) -> Flag | None:
        """The flag of that name or alias."""
        return self._flags.get(name)


def _is_of(engine: str, file: str) -> bool:
    return file.startswith(f"{engine}-") and file.endswith(".json")


def _flag(name: str, fields: Mapping[str, object]) -> Flag:
    return Flag(name=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})  # type: ignore[arg-type]


def _parses(word: str, kind: str) -> bool:
    """Whether argparse's `type` takes the word."""
    try:
        {"int": int, "float": float, "str": str}[kind](word)
    except ValueError:
        return False
    return True
