"""Turns what libraries say about a wrong configuration into one line: key, value, what is allowed, the nearest right spelling."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:  # the command line needs `nearest`, and must not wait for pydantic
    from pydantic import BaseModel, ValidationError

SHOWN = 80
"""Characters of a wrong value that are repeated in a message."""

NOT_GLOBAL = "experiment: a file of an experiment must begin with the line '# @package _global_'"

_SAYS = {
    "bool_type": "is neither true nor false",
    "dict_type": "is no mapping of keys to values",
    "finite_number": "must be finite",
    "float_type": "is no number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "is no whole number",
    "int_type": "is no whole number",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "mapping_type": "is no mapping of keys to values",
    "model_type": "is no mapping of keys to values",
    "string_too_short": "is empty; it needs a value",
    "string_type": "is no text",
    "tuple_type": "is no list; put it into [ ]",
}
"""What is told for pydantic's types of errors, https://docs.pydantic.dev/latest/errors/validation_errors/"""


def nearest(wrong: str, right: Iterable[str]) -> str:
    """` (did you mean X?)` when a right spelling is close, else nothing."""
    close = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def one_line(error: ValidationError, model: type[BaseModel], prefix: str = "", also: Iterable[str] = ()) -> str:
    """The first complaint of `error`, as `key: what is wrong`.

    Args:
        error: What pydantic found.
        model: The model that was validated; its fields are what is allowed.
        prefix: Key of the place where the model stands, without a dot at the end.
        also: Keys that a user may have meant although the model has no field for them.
    """
    # an unknown key often explains a missing one beside it: it is told first
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    where, fields = _locate(first["loc"], model)
    key = ".".join(part for part in (prefix, *where) if part)
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key{nearest(where[-1], [*fields, *also])}; known here: {', '.join(sorted(fields))}"
    if kind == "missing":
        return f"{key}: missing; it needs a value"
    if kind == "too_short":
        return f"{key}: {show(value)} is empty; give at least one"
    if kind in ("literal_error", "union_tag_invalid"):
        key += ".name" if kind == "union_tag_invalid" else ""
        allowed = str(context.get("expected") or context.get("expected_tags")).replace("'", "")
        words = [word.strip() for word in allowed.replace(" or ", ", ").split(",")]
        wrong = context.get("tag", value)
        return f"{key}: {show(wrong)} is not allowed; use one of {', '.join(words)}{nearest(str(wrong), words)}"
    if kind == "union_tag_not_found":
        return f"{key}.name: missing; it needs a value"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if first["loc"][-1:] == ("bool",):  # the first branch of a union of all scalars
        return f"{key}: {show(value)} is no single value: a number, a text, true or false"
    says = _SAYS[kind].format(**context) if kind in _SAYS else first["msg"].removeprefix("Input ").removeprefix("String ")
    if kind == "string_type" and isinstance(value, bool | int | float):
        says += f"; quote it, on the command line as '{key}=\"{show(value)}\"'"
    return f"{key}: {show(value)} {says}" if key else f"{show(value)} {says}"


def show(value: Any) -> str:
    """A wrong value as the user wrote it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = " ".join(repr(list(value) if isinstance(value, tuple) else value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _locate(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The key as the user wrote it, without the tags pydantic puts in for unions, and the fields known at its last step."""
    where: list[str] = []
    here: list[type[BaseModel]] = [model]
    for part in loc:
        fields = {name: field for m in here for name, field in m.model_fields.items()}
        if isinstance(part, int):
            where.append(str(part))
            continue
        if part not in fields and any(part == tag for m in here for tag in _tags(m)):
            here = [m for m in here if part in _tags(m)]
            continue
        if "[" in part or part in ("int", "float", "bool", "str", "none"):
            continue  # the branch of a union, not a key
        where.append(part)
        if part in fields:
            here = _models(fields[part].annotation) or here
    return where, sorted({name for m in here for name in m.model_fields})


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []
