"""Bodies of requests: read, and refused in the words of the API server, for the double of it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.cluster.core_kinds import Kind
from tests.cluster.schema import type_name
from tests.cluster.statuses import ApiError, Cause, error, invalid

_OBJECT_TYPES = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
_SHOWN = 30
"""So much of a body is shown where it cannot be read, in characters."""


def unsupported(accepted: str) -> ApiError:
    return error(415, f"the body of the request was in an unknown format - accepted media types include: {accepted}")


def read_object(raw: bytes, content_type: str, kind: Kind) -> dict[str, Any]:
    """The object in the body of a create or a replacement, of the kind that the address names."""
    media = content_type.split(";")[0].strip()
    if media not in ("application/json", "application/yaml", ""):
        raise unsupported(_OBJECT_TYPES)
    thing = _parsed(raw, media, kind)
    check_kind(thing, kind, raw.decode(errors="replace"))
    thing.setdefault("apiVersion", kind.api_version)
    thing.setdefault("kind", kind.kind)
    if not isinstance(thing.setdefault("metadata", {}), dict):
        raise error(400, f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: metadata is no object')
    return thing


def _parsed(raw: bytes, media: str, kind: Kind) -> dict[str, Any]:
    text = raw.decode(errors="replace")
    try:
        thing = yaml.safe_load(text) if media == "application/yaml" else json.loads(text)
    except json.JSONDecodeError as failure:
        raise _unrecognized(kind, f"couldn't get version/kind; json parse error: {_go_words(failure)}", text) from None
    except yaml.YAMLError as failure:
        raise _unrecognized(kind, f"couldn't get version/kind; yaml parse error: {failure}", text) from None
    if not isinstance(thing, dict):
        message = "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct"
        raise _unrecognized(kind, message, text)
    return thing


def check_kind(thing: dict[str, Any], kind: Kind, text: str) -> None:
    """Refuses an object of another kind or version. Only built-in kinds may leave both out."""
    if kind.custom:
        for field, name in (("kind", "Kind"), ("apiVersion", "apiVersion")):
            if not thing.get(field):
                raise _unrecognized(kind, f"Object '{name}' is missing in '{text}'", text)
    if thing.get("apiVersion", kind.api_version) != kind.api_version:
        told = f"the API version in the data ({thing['apiVersion']}) does not match the expected API version ({kind.api_version})"
        raise error(400, told)
    other = thing.get("kind", kind.kind)
    if other != kind.kind:
        cause = Cause("FieldValueInvalid", f'Invalid value: "{other}": must be {kind.kind}', "kind")
        raise invalid(other, kind.group, (thing.get("metadata") or {}).get("name", ""), [cause])


def _unrecognized(kind: Kind, message: str, text: str) -> ApiError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
    return error(400, f"the object provided is unrecognized (must be of type {kind.kind}): {message} ({shown})")


def _go_words(failure: json.JSONDecodeError) -> str:
    if failure.pos >= len(failure.doc):
        return "unexpected end of JSON input"
    where = "object key string" if "property name" in failure.msg else "value"
    return f"invalid character '{failure.doc[failure.pos]}' looking for beginning of {where}"


def read_patch(raw: bytes, wanted: type, go_type: str) -> Any:
    """The body of a merge patch (dict) or a JSON patch (list)."""
    try:
        patch = json.loads(raw)
    except json.JSONDecodeError as failure:
        raise error(400, f"error decoding patch: {_go_words(failure)}") from None
    if not isinstance(patch, wanted):
        found = type_name(patch)
        raise error(400, f"error decoding patch: json: cannot unmarshal {found} into Go value of type {go_type}")
    return patch


def read_options(raw: bytes) -> dict[str, Any]:
    """The DeleteOptions in the body of a delete; nothing where there is no body."""
    if not raw.strip():
        return {}
    try:
        options = json.loads(raw)
    except json.JSONDecodeError as failure:
        raise error(400, f"couldn't get version/kind; json parse error: {_go_words(failure)}") from None
    return options if isinstance(options, dict) else {}
