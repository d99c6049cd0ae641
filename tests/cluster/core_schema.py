"""Schemas of the built-in kinds, read off the official client's models, so that the double refuses what an API server refuses."""

from __future__ import annotations

import base64
import functools
import re
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import models

from tests.cluster.schema import Schema, type_name
from tests.cluster.statuses import ApiError, Cause, error

_SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}
# Quantities may be written as numbers; the server answers with text.
_QUANTITIES = {"limits", "requests", "capacity", "allocatable", "hard", "used"}
# Times to the microsecond, and no less; all others are to the second.
_MICRO_TIMES = {"acquireTime", "eventTime", "lastObservedTime", "renewTime"}
_GO_NAMES = {"integer": "number", "boolean": "bool", "null": "null"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_GO_TYPES = {"integer": "int32", "boolean": "bool", "string": "string", "array": "slice", "object": "map", "number": "float64"}
_ZERO = {"string": "", "integer": 0, "boolean": False}


@functools.cache
def model_schema(name: str) -> Schema:
    """The schema of a model of the client: V1Pod, CoreV1Event ... `x-go-type` is the name of its type in the server."""
    model = getattr(models, name)
    properties = {model.attribute_map[field]: _type_schema(kind) for field, kind in model.openapi_types.items()}
    required = [model.attribute_map[field] for field, info in model.model_fields.items() if info.is_required()]
    go_type = re.sub(r"^(Core)?V\d+(alpha\d+|beta\d+)?", "", name)
    return {"type": "object", "properties": properties, "required": required, "x-go-type": go_type}


def _type_schema(kind: str) -> Schema:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind.startswith("List["):
        return {"type": "array", "items": _type_schema(kind[5:-1])}
    if kind.startswith("Dict["):
        return {"type": "object", "additionalProperties": _type_schema(kind[10:-1])}
    return model_schema(kind)


def decoded(thing: dict[str, Any], schema: Schema, version: str, kind: str) -> dict[str, Any]:
    """`thing` as the server's own types would hold it; a wrong type is answered with 400, as Go's decoder words it."""
    found: dict[str, Any] = _decoded(
        thing, schema, "", schema.get("x-go-type", kind), f'{kind} in version "{version}" cannot be handled as a {kind}'
    )
    return found


def _decoded(value: Any, schema: Schema, path: str, owner: str, prefix: str) -> Any:
    wanted = schema.get("type")
    if value is None or wanted is None:
        return value
    found = type_name(value)
    if path.split(".")[-1] in _QUANTITIES and isinstance(value, dict):
        return {key: str(amount) for key, amount in value.items()}
    if found != wanted and not (wanted == "number" and found == "integer"):
        raise _cannot_unmarshal(found, wanted, path, owner, prefix)
    if wanted == "array":
        return [_decoded(element, schema["items"], path, owner, prefix) for element in value]
    if wanted == "string":
        return _text(value, schema.get("format"), path.split(".")[-1] in _MICRO_TIMES, prefix)
    if wanted != "object":
        return value
    owner = schema.get("x-go-type", owner)
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    # A null is as good as nothing to Go.
    return {
        name: _decoded(element, properties.get(name) or additional or {}, f"{path}.{name}" if name in properties else path, owner, prefix)
        for name, element in value.items()
        if element is not None
    }


def _text(value: str, form: str | None, micro: bool, prefix: str) -> str:
    """A text as the server gives it back: times in UTC."""
    if form == "byte":
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            raise error(400, f"{prefix}: illegal base64 data at input byte 0") from None
    if form != "date-time":
        return value
    found = _TIME.fullmatch(value)
    layout = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
    if found is None or (micro and len(found[1] or "") != 7):
        raise error(400, f'{prefix}: parsing time "{value}" as "{layout}": cannot parse')
    moment = datetime.fromisoformat(value).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _cannot_unmarshal(found: str, wanted: str, path: str, owner: str, prefix: str) -> ApiError:
    was, should = _GO_NAMES.get(found, found), _GO_TYPES[wanted]
    return error(400, f"{prefix}: json: cannot unmarshal {was} into Go struct field {owner}{path} of type {should}")


def missing(value: Any, schema: Schema, path: str = "") -> list[Cause]:
    """Required fields that are not there."""
    if isinstance(value, list):
        return [cause for place, element in enumerate(value) for cause in missing(element, schema.get("items") or {}, f"{path}[{place}]")]
    if not isinstance(value, dict):
        return []
    prefix = f"{path}." if path else ""
    causes = [Cause("FieldValueRequired", "Required value", prefix + name) for name in schema.get("required") or () if name not in value]
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties") or {}
    for name, element in value.items():
        causes += missing(element, properties.get(name) or additional, prefix + name)
    return causes


def zeroed(value: Any, schema: Schema) -> Any:
    """`value` with the zero values that Go writes where a field that cannot be absent was not given."""
    if isinstance(value, list):
        return [zeroed(element, schema.get("items") or {}) for element in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    filled = {name: zeroed(element, properties.get(name) or schema.get("additionalProperties") or {}) for name, element in value.items()}
    for name in schema.get("required") or ():
        if name not in filled and (kind := properties[name].get("type")) in _ZERO:
            filled[name] = _ZERO[kind]
    return filled
