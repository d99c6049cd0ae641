"""OpenAPI schemas of CustomResourceDefinitions: pruning, defaulting and validation in the API server's words, for the double of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from tests.cluster.statuses import Cause

Schema: TypeAlias = Mapping[str, Any]
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_EMBEDDED = "x-kubernetes-embedded-resource"
_ALWAYS_KNOWN = ("apiVersion", "kind", "metadata")


def version_schema(crd: Mapping[str, Any], version: str | None = None) -> Schema:
    """The schema of one version of a CustomResourceDefinition; of the stored one unless named."""
    versions = crd["spec"]["versions"]
    chosen = next(entry for entry in versions if (entry["name"] == version if version else entry["storage"]))
    return chosen.get("schema", {}).get("openAPIV3Schema") or {_PRESERVE: True}


def strict_errors(crd: Mapping[str, Any], thing: Mapping[str, Any]) -> list[str]:
    """What strict validation finds in `thing`: fields that the schema does not know, wrong types and values, missing fields."""
    schema = version_schema(crd, thing["apiVersion"].split("/")[-1])
    found = [f'unknown field "{field}"' for field in prune(copy.deepcopy(dict(thing)), schema)]
    return found + [f"{cause.field}: {cause.message}" for cause in validate(with_defaults(thing, schema), schema)]


def with_defaults(thing: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A copy with the schema's defaults where nothing is said; null says nothing unless the schema allows it."""
    filled = copy.deepcopy(dict(thing))
    _fill(filled, schema)
    return filled


def _fill(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, sub in properties.items():
            if name in value and value[name] is None and not sub.get("nullable"):
                del value[name]
            if name not in value and "default" in sub:
                value[name] = copy.deepcopy(sub["default"])
        for name, element in value.items():
            _fill(element, properties.get(name) or _additional(schema))
    elif isinstance(value, list):
        for element in value:
            _fill(element, schema.get("items") or {})


def _additional(schema: Schema) -> Schema:
    additional = schema.get("additionalProperties")
    return additional if isinstance(additional, Mapping) else {}


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Removes in place what the schema does not know, and tells where it was."""
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [field for place, element in enumerate(value) for field in prune(element, items, f"{path}[{place}]")]
    if not isinstance(value, dict) or _INT_OR_STRING in schema:
        return []
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    keeps = schema.get(_PRESERVE) or additional is True or isinstance(additional, Mapping)
    whole = not path or schema.get(_EMBEDDED)
    gone: list[str] = []
    for name in list(value):
        field = f"{path}.{name}" if path else name
        if whole and name in _ALWAYS_KNOWN:
            continue
        if name in properties:
            gone += prune(value[name], properties[name], field)
        elif not keeps:
            del value[name]
            gone.append(field)
        elif isinstance(additional, Mapping):
            gone += prune(value[name], additional, field)
    return gone


def validate(value: Any, schema: Schema) -> list[Cause]:
    """What the schema forbids in `value`."""
    return list(_validate(value, schema, ""))


def type_name(value: Any) -> str:
    """The OpenAPI type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _validate(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if value is None and schema.get("nullable"):
        return
    found = type_name(value)
    wanted = schema.get("type")
    if schema.get(_INT_OR_STRING):
        if found not in ("integer", "string"):
            yield _wrong_type(path, "integer,string", found)
            return
    elif wanted and found != wanted and not (wanted == "number" and found == "integer"):
        yield _wrong_type(path, wanted, found)
        return
    yield from _combined(value, schema, path)
    if isinstance(value, dict):
        yield from _validate_object(value, schema, path)
    elif isinstance(value, list):
        yield from _validate_list(value, schema, path)
    elif isinstance(value, str):
        yield from _validate_text(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _validate_number(value, schema, path)
    choices = schema.get("enum")
    if choices and value not in choices:
        told = ", ".join(json.dumps(choice) for choice in choices)
        yield Cause("FieldValueNotSupported", f"Unsupported value: {json.dumps(value)}: supported values: {told}", path)


def _validate_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Cause]:
    prefix = f"{path}." if path else ""
    for name in schema.get("required") or ():
        if name not in value:
            yield Cause("FieldValueRequired", "Required value", prefix + name)
    properties = schema.get("properties") or {}
    additional = _additional(schema)
    for name, element in value.items():
        # The server checks metadata by rules of its own.
        if not path and name == "metadata":
            continue
        yield from _validate(element, properties.get(name) or additional, prefix + name)
    if (count := schema.get("maxProperties")) is not None and len(value) > count:
        yield Cause("FieldValueTooMany", f"Too many: {len(value)}: must have at most {count} items", path)


def _validate_list(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    for place, element in enumerate(value):
        yield from _validate(element, schema.get("items") or {}, f"{path}[{place}]")
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        yield Cause("FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items", path)
    if (least := schema.get("minItems")) is not None and len(value) < least:
        yield _bad(path, len(value), f"should have at least {least} items")
    yield from _duplicates(value, schema, path)


def _duplicates(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("map", "set"):
        return
    seen: set[str] = set()
    for place, element in enumerate(value):
        if kind == "map":
            if not isinstance(element, dict):
                continue
            element = {key: element.get(key) for key in schema["x-kubernetes-list-map-keys"] if key in element}
        text = json.dumps(element, sort_keys=True, separators=(",", ":"))
        if text in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {text}", f"{path}[{place}]")
        seen.add(text)


def _validate_text(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    # Go's and Python's expressions differ only in what no CRD here uses.
    if (pattern := schema.get("pattern")) and not re.search(pattern, value):
        yield _bad(path, value, f"should match '{pattern}'")
    if (most := schema.get("maxLength")) is not None and len(value) > most:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", path)
    if (least := schema.get("minLength")) is not None and len(value) < least:
        yield _bad(path, value, f"should be at least {least} chars long")


def _validate_number(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    if (least := schema.get("minimum")) is not None and value < least:
        yield _bad(path, value, f"should be greater than or equal to {least}")
    if (most := schema.get("maximum")) is not None and value > most:
        yield _bad(path, value, f"should be less than or equal to {most}")


def _combined(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    for part in schema.get("allOf") or ():
        yield from _validate(value, part, path)
    choices = schema.get("anyOf")
    if choices and not any(_fits(value, part, path) for part in choices):
        yield _bad(path, value, "must validate at least one schema (anyOf)")
    choices = schema.get("oneOf")
    if choices and sum(_fits(value, part, path) for part in choices) != 1:
        yield _bad(path, value, "must validate one and only one schema (oneOf)")
    if (part := schema.get("not")) is not None and _fits(value, part, path):
        yield _bad(path, value, "must not validate the schema (not)")


def _fits(value: Any, schema: Schema, path: str) -> bool:
    return next(_validate(value, schema, path), None) is None


def _wrong_type(path: str, wanted: str, found: str) -> Cause:
    shown = path or "<nil>"
    message = f'Invalid value: "{found}": {shown} in body must be of type {wanted}: "{found}"'
    return Cause("FieldValueTypeInvalid", message, shown)


def _bad(path: str, value: Any, rule: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {path} in body {rule}", path)
