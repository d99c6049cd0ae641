"""A row of the table, and how `add_argument` calls are read into it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tools.flag_tables.wheel import NotConstant, Wheel

SCALARS = ("int", "float", "str", "bool")
CONVERTERS = {"human_readable_int": "int", "human_readable_int_or_auto": "int"}
"""Functions given to argparse as `type`, where they do not yield a string."""


@dataclass(frozen=True, slots=True)
class Flag:
    flag: str
    type: str = "str"
    switch: bool = False
    off: list[str] = field(default_factory=list)
    nargs: str | None = None
    choices: list[Any] | None = None
    aliases: list[str] = field(default_factory=list)
    deprecated: str = ""


def arguments(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def option_strings(call: ast.Call) -> list[str]:
    words = [word.value for word in call.args if isinstance(word, ast.Constant)]
    return [word for word in words if isinstance(word, str) and word.startswith("-")]


def calls_of(function: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls of a method, in the order of the source."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f".{name}")]
    yield from sorted(found, key=lambda call: call.lineno)


def text_of(node: ast.AST | None, wheel: Wheel, module: str) -> str:
    """A text, also one put together from constants, in one line."""
    try:
        return " ".join(str(wheel.value(node, module)).split())
    except NotConstant:
        return ""


def deprecation(text: str) -> str:
    """What a help text says from where it says that the flag is on its way out."""
    found = re.search(r"^\W*deprecated.*|^.{0,60}\bis deprecated\b.*|\bDeprecated: .*", text, re.IGNORECASE)
    return found[0] if found else ""


def named(flag: Flag, names: list[str]) -> Flag:
    long = [name for name in names if name.startswith("--")]
    return replace(flag, flag=long[0], aliases=[name for name in names if name != long[0]])


def explicit(call: ast.Call, wheel: Wheel, module: str, local: Mapping[str, ast.AST]) -> tuple[str, Flag]:
    """A flag whose `add_argument` says all about it, with its name in Python."""
    given = arguments(call)
    action = ast.unparse(given.get("action", ast.Constant(None)))
    switch = "Boolean" in action or "store_true" in action or "StoreTrue" in action
    flag = named(Flag(""), option_strings(call))
    kind = ast.unparse(given.get("type", ast.Name("str")))
    flag = replace(flag, switch=switch, type="bool" if switch else kind if kind in SCALARS else CONVERTERS.get(kind, "str"))
    if "Boolean" in action:
        flag = replace(flag, off=["--no-" + flag.flag.removeprefix("--")])
    if "choices" in given:
        try:
            flag = replace(flag, choices=wheel.value(given["choices"], module, local))
        except NotConstant as error:
            unknown(flag.flag, error)
    if "nargs" in given and not switch:
        flag = replace(flag, nargs=wheel.value(given["nargs"], module))
    dest = given.get("dest")
    name = str(dest.value) if isinstance(dest, ast.Constant) and "Const" not in action else flag.flag.removeprefix("--").replace("-", "_")
    return name, replace(flag, deprecated=deprecation(text_of(given.get("help"), wheel, module)))


def unknown(flag: str, error: NotConstant) -> None:
    sys.stderr.write(f"{flag}: choices are computed at run time ({error})\n")
