"""vLLM's flags: `add_argument` calls that spread what `get_kwargs` makes of a config's field, whose rules are repeated here."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tools.flag_tables.flag import SCALARS, Flag, calls_of, deprecation, explicit, named, option_strings, text_of
from tools.flag_tables.wheel import NotConstant, Wheel, defines

SOURCE = "vllm/engine/arg_utils.py, vllm/entrypoints/common/cli_args.py and the classes of vllm/config/"
ENGINE = "vllm.engine.arg_utils"
FRONTEND = "vllm.entrypoints.common.cli_args"
INVERSES = {"--enable-": "--disable-", "--disable-": "--enable-"}
"""`EnableDisableAction` of vllm/utils/argparse_utils.py: `--disable-x` turns `--enable-x` off, and the other way round."""


def read(wheel: Wheel) -> dict[str, Flag]:
    flags = dict(_registered(wheel, FRONTEND, _function(wheel, FRONTEND, "make_arg_parser")))
    flags |= dict(_frontend(wheel))
    for owner in ("EngineArgs", "AsyncEngineArgs"):
        flags |= dict(_registered(wheel, ENGINE, _function(wheel, ENGINE, owner, "add_cli_args")))
    return {name: _with_inverses(flag) for name, flag in flags.items()}


def _function(wheel: Wheel, module: str, *path: str) -> ast.AST:
    node: ast.AST = ast.Module([found for _, found in wheel.module(module).values() if isinstance(found, ast.stmt)], [])
    for name in path:
        node = next(
            child for child in ast.iter_child_nodes(node) if isinstance(child, ast.ClassDef | ast.FunctionDef) and child.name == name
        )
    return node


def _with_inverses(flag: Flag) -> Flag:
    if not flag.off:
        return flag
    written = [name for name in (flag.flag, *flag.aliases) if name.startswith("--")]
    inverses = [inverse + name.removeprefix(prefix) for name in written for prefix, inverse in INVERSES.items() if name.startswith(prefix)]
    return replace(flag, off=["--no-" + name.removeprefix("--") for name in written] + inverses)


# What argparse is told for a field


@dataclass(frozen=True, slots=True)
class Hint:
    """One member of a field's type: a builtin's name, `Literal` with its values, a container with its element, or `object` for the rest."""

    name: str
    values: tuple[Any, ...] = ()
    element: str = "str"


def _hints(node: ast.expr, wheel: Wheel, module: str) -> list[Hint]:
    match node:
        case ast.Constant(None):
            return [Hint("None")]
        case ast.Constant(str() as text):
            return _hints(ast.parse(text, mode="eval").body, wheel, module)
        case ast.BinOp(left, ast.BitOr(), right):
            return _hints(left, wheel, module) + _hints(right, wheel, module)
        case ast.Subscript(ast.Name("Literal")):
            return [Hint("Literal", tuple(wheel.value(node, module)))]
        case ast.Subscript(ast.Name("Annotated"), ast.Tuple([inner, *_])) | ast.Subscript(ast.Name("SkipValidation" | "InitVar"), inner):
            return _hints(inner, wheel, module)
        case ast.Subscript(ast.Name("list" | "set" | "tuple" | "dict" as container), element):
            kind = ast.unparse(element)
            return [Hint(container, element=kind if kind in SCALARS else "str")]
        case ast.Name(name) if found := wheel.find(name, module):
            if isinstance(found[1], ast.Assign | ast.AnnAssign) and found[1].value is not None:
                return _hints(found[1].value, wheel, found[0])
            return [Hint("object")]
        case ast.Name(name) if name in (*SCALARS, "list", "set", "tuple", "dict"):
            return [Hint(name)]
    return [Hint("object")]


def _from_type(node: ast.expr, wheel: Wheel, module: str) -> Flag:
    hints = {hint.name: hint for hint in _hints(node, wheel, module)}
    if hints.keys() == {"bool", "str", "None"}:
        return Flag("", "str", nargs="?")
    if "bool" in hints:
        return Flag("", "bool", switch=True, off=["--no-"])
    if "Literal" in hints:
        values = sorted(hints["Literal"].values)
        return Flag("", type(values[0]).__name__, choices=None if "str" in hints else values)
    for container in ("tuple", "list", "set"):
        if container in hints:
            return Flag("", hints[container].element, nargs="+")
    return Flag("", next((kind for kind in ("int", "float") if kind in hints), "str"))


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a config class: its type, the module whose names the type uses, and what is written below it."""

    annotation: ast.expr
    module: str
    doc: str


def _fields(config: str, wheel: Wheel, module: str) -> dict[str, Field]:
    """The fields of a config class and of those it derives from."""
    found = wheel.find(config, module)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return {}
    fields: dict[str, Field] = {}
    for base in found[1].bases:
        fields |= _fields(ast.unparse(base), wheel, found[0])
    for member, below in pairwise([*found[1].body, ast.Pass()]):
        if isinstance(member, ast.AnnAssign) and "ClassVar" not in ast.unparse(member.annotation):
            doc = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            fields |= {name: Field(member.annotation, found[0], " ".join(str(doc).split())) for name in defines(member)}
    return fields


# The calls


def _registered(wheel: Wheel, module: str, function: ast.AST) -> Iterator[tuple[str, Flag]]:
    """The flags of a function's `add_argument` calls."""
    local = {name: node.value for node in ast.walk(function) if isinstance(node, ast.Assign) for name in defines(node)}
    for call in calls_of(function, "add_argument"):
        if not option_strings(call):
            continue
        name, flag = explicit(call, wheel, module, local)
        spread = next((keyword.value for keyword in call.keywords if keyword.arg is None), None)
        if spread is not None:
            variable, config, field = _field(spread, local)
            found = _fields(config, wheel, module)[field]
            amended = _amended(_from_type(found.annotation, wheel, found.module), variable, field, function, wheel, module)
            said = [deprecation(found.doc), *(deprecation(text_of(node, wheel, module)) for node in _help(spread))]
            flag = named(replace(amended, deprecated=next(filter(None, said), "")), option_strings(call))
        yield name, flag


def _frontend(wheel: Wheel) -> Iterator[tuple[str, Flag]]:
    """The flags of the HTTP server: one for each field."""
    for field, found in _fields("FrontendArgs", wheel, FRONTEND).items():
        flag = replace(_from_type(found.annotation, wheel, found.module), deprecated=deprecation(found.doc))
        for owner in ("BaseFrontendArgs", "FrontendArgs"):
            customize = _function(wheel, FRONTEND, owner, "_customize_cli_kwargs")
            flag = _amended(flag, "frontend_kwargs", field, customize, wheel, FRONTEND)
        yield field, named(flag, ["--" + field.replace("_", "-")])


def _field(node: ast.AST, local: Mapping[str, ast.AST]) -> tuple[str, str, str]:
    """Behind `x_kwargs["field"]`: the variable, the config class whose fields it holds, and the field."""
    match node:
        case ast.Dict([None, *_], [first, *_]):
            return _field(first, local)
        case ast.Subscript(ast.Name(variable), ast.Constant(str() as field)):
            return variable, _field_owner(local[variable]), field
        case ast.Subscript(ast.Call() as call, ast.Constant(str() as field)):
            return "", _field_owner(call), field
        case ast.Name(name):
            return _field(local[name], local)
    raise NotConstant(ast.unparse(node))


def _help(node: ast.AST) -> list[ast.expr]:
    """The help text that a call puts in the place of the field's."""
    if not isinstance(node, ast.Dict):
        return []
    return [value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant) and key.value == "help"]


def _field_owner(node: ast.AST) -> str:
    match node:
        case ast.Call(ast.Name("get_kwargs"), [ast.Name(config)]):
            return config
    raise NotConstant(ast.unparse(node))


def _amended(flag: Flag, variable: str, field: str, function: ast.AST, wheel: Wheel, module: str) -> Flag:
    """The flag after the changes that the function makes to `variable[field]` before it registers it."""
    for node in ast.walk(function):
        match node:
            case ast.Delete([ast.Subscript(ast.Subscript(ast.Name(name), ast.Constant(key)), ast.Constant("nargs"))]):
                if (name, key) == (variable, field):
                    flag = replace(flag, nargs=None)
            case ast.Call(
                ast.Attribute(ast.Subscript(ast.Subscript(ast.Name(name), ast.Constant(key)), ast.Constant("choices")), "remove"), [gone]
            ):
                if (name, key) == (variable, field):
                    gone_value = wheel.value(gone, module)
                    flag = replace(flag, choices=[choice for choice in flag.choices or [] if choice != gone_value])
    return flag
