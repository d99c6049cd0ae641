"""The Python sources in a wheel, read without importing anything: names are followed through imports, constants are put together."""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any


class NotConstant(Exception):
    """The value of an expression is known at run time only."""


class Wheel:
    """The Python sources in a wheel, and what the names in them stand for."""

    def __init__(self, path: Path) -> None:
        self._files = zipfile.ZipFile(path)
        self._names = set(self._files.namelist())
        self.version = path.name.split("-")[1]
        self.name = path.name

    @cache  # noqa: B019  the program ends with its one wheel
    def module(self, name: str) -> Mapping[str, tuple[str, ast.AST]]:
        """The top-level definitions of a module: name to the module that defines it, and the node that does."""
        path = name.replace(".", "/")
        path = f"{path}.py" if f"{path}.py" in self._names else f"{path}/__init__.py"
        if path not in self._names:
            return {}
        statements = list(_runs(ast.parse(self._files.read(path)).body))
        # The first definition wins: SGLang makes a struct of its ServerArgs under the same name afterwards.
        return {defined: (name, node) for node in reversed(statements) for defined in defines(node)}

    def find(self, name: str, module: str) -> tuple[str, ast.AST] | None:
        """The definition behind `name` in `module`, through imports; None for a builtin or another package."""
        found = self.module(module).get(name)
        if found is None or not isinstance(found[1], ast.ImportFrom):
            return found
        source = found[1].module or ""
        original = next(alias.name for alias in found[1].names if (alias.asname or alias.name) == name)
        return self.find(original, source)

    def modules(self, package: str) -> list[str]:
        """The modules directly in a package, without its `__init__`."""
        prefix = package.replace(".", "/") + "/"
        return sorted(name.removesuffix(".py").replace("/", ".") for name in self._names if re.fullmatch(f"{prefix}[a-z]\\w*\\.py", name))

    def value(self, node: ast.AST | None, module: str, local: Mapping[str, ast.AST] | None = None) -> Any:
        """What an expression of constants, lists and names of them stands for.

        Raises:
            NotConstant: it is computed by something else.
        """
        local = local or {}
        match node:
            case ast.Constant(value):
                return value
            case ast.List(items) | ast.Tuple(items) | ast.Set(items):
                return [self.value(item, module, local) for item in items]
            case ast.Dict():
                return [self.value(key, module, local) for key in node.keys]
            case ast.BinOp(left, ast.Add(), right):
                return self.value(left, module, local) + self.value(right, module, local)
            case ast.Subscript(ast.Name("Literal"), options):
                members = options.elts if isinstance(options, ast.Tuple) else [options]
                values = [self.value(member, module, local) for member in members]
                return [value for member in values for value in (member if isinstance(member, list) else [member])]
            case ast.Call(ast.Name("list" | "set" | "frozenset" | "tuple" | "sorted" | "get_args"), [items]):
                return self.value(items, module, local)
            case ast.Call(ast.Name(function), []) if (found := self.find(function, module)) and isinstance(found[1], ast.FunctionDef):
                return self.value(*_returned(found))
            case ast.Name(name) if name in local:
                return self.value(local[name], module, {key: value for key, value in local.items() if key != name})
            case ast.Name(name) if found := self.find(name, module):
                return self.value(_assigned(found[1]), found[0])
            case ast.Attribute(ast.Name(name), attribute) if (found := self.find(name, module)) and isinstance(found[1], ast.ClassDef):
                own = {defined: member for member in found[1].body for defined in defines(member)}
                return self.value(_assigned(own.get(attribute)), found[0], {defined: _assigned(member) for defined, member in own.items()})
        raise NotConstant(ast.unparse(node) if node else "nothing")


def _runs(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body that run, without those for type checkers only."""
    for node in body:
        match node:
            case ast.If(test) if "TYPE_CHECKING" in ast.unparse(test):
                yield from _runs(node.orelse)
            case ast.If():
                yield from _runs([*node.body, *node.orelse])
            case ast.Try():
                yield from _runs(node.body)
            case _:
                yield node


def defines(node: ast.AST | None) -> list[str]:
    """The names that a statement binds; none where it binds anything but plain names."""
    match node:
        case ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names]
        case ast.ClassDef(name) | ast.FunctionDef(name):
            return [name]
        case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
            return [name]
    return []


def _assigned(node: ast.AST | None) -> ast.AST:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        return node.value
    raise NotConstant(ast.unparse(node) if node else "nothing")


def _returned(found: tuple[str, ast.AST]) -> tuple[ast.AST | None, str, dict[str, ast.AST]]:
    """What a function without arguments returns in the end: the expression, and the module that its name comes from."""
    module, function = found
    statements = list(ast.walk(function))
    result = max((node for node in statements if isinstance(node, ast.Return)), key=lambda node: node.lineno).value
    if isinstance(result, ast.Call) and result.args:
        result = result.args[0]
    for node in statements:
        if isinstance(node, ast.ImportFrom) and isinstance(result, ast.Name) and result.id in defines(node):
            return result, node.module or "", {}
    return result, module, {}
