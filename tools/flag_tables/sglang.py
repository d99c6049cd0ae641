"""SGLang's flags: annotated fields (`arg_groups/arg_utils.py`, `add_cli_args_from_dataclass`), and those registered by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tools.flag_tables.flag import CONVERTERS, SCALARS, Flag, arguments, calls_of, deprecation, explicit, text_of, unknown
from tools.flag_tables.wheel import NotConstant, Wheel, defines

SOURCE = "sglang/srt/arg_groups/fields/*.py and add_cli_args of sglang/srt/server_args.py"
FIELDS = "sglang.srt.arg_groups.fields"
SERVER_ARGS = "sglang.srt.server_args"


def read(wheel: Wheel) -> dict[str, Flag]:
    flags = {name: flag for module in wheel.modules(FIELDS) for name, flag in _fields(wheel, module)}
    _, server_args = wheel.module(SERVER_ARGS)["ServerArgs"]
    function = next(node for node in ast.walk(server_args) if isinstance(node, ast.FunctionDef) and node.name == "add_cli_args")
    local = {name: node.value for node in function.body if isinstance(node, ast.Assign) for name in defines(node)}
    return flags | {name: flag for call in calls_of(function, "add_argument") for name, flag in [explicit(call, wheel, SERVER_ARGS, local)]}


def _fields(wheel: Wheel, module: str) -> Iterator[tuple[str, Flag]]:
    for _, node in wheel.module(module).values():
        for member in node.body if isinstance(node, ast.ClassDef) else []:
            match member:
                case ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name("A"), ast.Tuple([hint, ast.Call(ast.Name("Arg")) as call]))):
                    given: Mapping[str, ast.expr] = arguments(call)
                case ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name("A"), ast.Tuple([hint, ast.expr() as help_text]))):
                    if isinstance(help_text, ast.Call):
                        continue  # derived by the server, not given to it
                    given = {"help": help_text}
                case _:
                    continue
            if "no_cli" not in given:
                yield name, _flag(name, hint, given, wheel, module)


def _flag(name: str, hint: ast.expr, given: Mapping[str, ast.expr], wheel: Wheel, module: str) -> Flag:
    def value(key: str) -> Any:
        return wheel.value(given[key], module) if key in given else None

    written = value("cli_name") or "--" + name.replace("_", "-")
    flag = Flag(flag=written, aliases=value("aliases") or [], deprecated=deprecation(text_of(given.get("help"), wheel, module)))
    inner = hint.slice if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Optional" else hint
    kind, nargs, choices = _type(inner)
    match given:
        case {"action": ast.Attribute(attr="BooleanOptionalAction")}:
            return replace(flag, type="bool", switch=True, off=["--no-" + written.removeprefix("--")])
        case {"action": _, "action_kwargs": ast.Dict(keys, values)}:
            kind, nargs = (
                "str",
                wheel.value(dict(zip((wheel.value(key, module) for key in keys if key), values, strict=True))["nargs"], module),
            )
        case {"type_parser": converter}:
            kind, nargs = CONVERTERS.get(ast.unparse(converter), "str"), None
        case _ if kind == "bool":
            return replace(flag, type="bool", switch=True)
    try:
        choices = value("choices") or choices
    except NotConstant as error:
        unknown(written, error)
    return replace(flag, type=kind, nargs=value("nargs") or nargs, choices=choices)


def _type(hint: ast.expr) -> tuple[str, str | None, list[Any] | None]:
    """The type of one value, `nargs` of a list, and the values of a literal."""
    match hint:
        case ast.Name(name) if name in SCALARS:
            return name, None, None
        case ast.Subscript(ast.Name("Literal"), options):
            values = [
                option.value
                for option in (options.elts if isinstance(options, ast.Tuple) else [options])
                if isinstance(option, ast.Constant)
            ]
            return type(values[0]).__name__ if values[0] is not None else "str", None, values
        case ast.Subscript(ast.Name("List"), ast.Name(element)):
            return element if element in SCALARS else "str", "+", None
        case ast.Subscript(ast.Name("List")):
            return "str", "+", None
    return "str", None, None
