"""Label and field selectors as a Kubernetes API server reads them, for the double of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from tests.cluster.statuses import ApiError, error

Matcher: TypeAlias = Callable[[Mapping[str, Any]], bool]
_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|[^\s=!,()]+)")
_SYMBOLS = {"=", "==", "!=", "!", ",", "(", ")"}
_END = ""


def _everything(_: Mapping[str, Any]) -> bool:
    return True


def labels_of(thing: Mapping[str, Any]) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}


def label_matcher(selector: str) -> Matcher:
    """What tells if an object has the labels that `selector` asks for. A selector that cannot be read is answered with 400."""
    if not selector.strip():
        return _everything
    tokens = _TOKEN.findall(selector)
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    while tokens:
        tests.append(_requirement(tokens))
        if tokens and tokens.pop(0) != ",":
            raise error(400, "unable to parse requirement: expected: ',' or 'end of string'")
    return lambda thing: all(test(labels_of(thing)) for test in tests)


def _requirement(tokens: list[str]) -> Callable[[Mapping[str, str]], bool]:
    first = tokens.pop(0)
    if first == "!":
        absent = _identifier(tokens)
        return lambda labels: absent not in labels
    if first in _SYMBOLS:
        raise _unexpected(first, "!, identifier, or 'end of string'")
    operator = tokens[0] if tokens else _END
    if operator in (_END, ","):
        return lambda labels: first in labels
    tokens.pop(0)
    if operator in ("=", "=="):
        value = _value(tokens)
        return lambda labels: labels.get(first) == value
    if operator == "!=":
        value = _value(tokens)
        return lambda labels: labels.get(first) != value
    if operator in ("in", "notin"):
        values = _values(tokens)
        wanted = operator == "in"
        return lambda labels: (labels.get(first) in values) == wanted
    raise _unexpected(operator, "in, notin, =, ==, !=, gt, lt")


def _identifier(tokens: list[str]) -> str:
    token = tokens.pop(0) if tokens else _END
    if token in _SYMBOLS or not token:
        raise _unexpected(token, "identifier")
    return token


def _value(tokens: list[str]) -> str:
    """An empty value is allowed: `key=`."""
    if not tokens or tokens[0] == ",":
        return ""
    return _identifier(tokens)


def _values(tokens: list[str]) -> Collection[str]:
    if not tokens or tokens.pop(0) != "(":
        raise _unexpected(_END, "'('")
    values = set()
    while tokens and tokens[0] != ")":
        if (token := tokens.pop(0)) != ",":
            values.add(token)
    if not tokens:
        raise _unexpected(_END, "',' or ')'")
    tokens.pop(0)
    return values


def _unexpected(found: str, expected: str) -> ApiError:
    return error(400, f"found '{found}', expected: {expected}")


def field_matcher(selector: str, supported: Collection[str]) -> Matcher:
    """What tells if an object has the fields that `selector` asks for; a field outside `supported` is answered with 400."""
    if not selector.strip():
        return _everything
    tests: list[tuple[str, bool, str]] = []
    for term in selector.split(","):
        parts = re.fullmatch(r"([^!=]+)(==|!=|=)(.*)", term.strip())
        if parts is None:
            raise error(400, f"invalid selector: '{selector}'; can't understand '{term}'")
        if parts[1] not in supported:
            raise error(400, f"field label not supported: {parts[1]}")
        tests.append((parts[1], parts[2] != "!=", parts[3]))
    return lambda thing: all((_field(thing, path) == value) == wanted for path, wanted, value in tests)


def _field(thing: Mapping[str, Any], path: str) -> str:
    """The field as text; what is missing is empty, as in Kubernetes."""
    found: Any = thing
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)
