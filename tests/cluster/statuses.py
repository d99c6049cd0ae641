"""The Status answers of a Kubernetes API server, in its own words, for the double of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """A request that is refused. `body` is the Status object, or a string for an answer in text/plain."""

    def __init__(self, code: int, body: dict[str, Any] | str) -> None:
        super().__init__(body if isinstance(body, str) else body["message"])
        self.code = code
        self.body = body


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object. `reason` is Kubernetes' (FieldValueInvalid ...), `field` a dotted path."""

    reason: str
    message: str
    field: str


def status(code: int, message: str, reason: str | None = "", details: dict[str, Any] | None = None) -> dict[str, Any]:
    """A Status object; the usual reason of `code` unless told another; None leaves the reason out."""
    body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    if reason == "":
        reason = _REASONS.get(code)
    if reason is not None:
        body["reason"] = reason
    if details is not None:
        body["details"] = details
    return body | {"code": code}


def error(code: int, message: str, reason: str | None = "", details: dict[str, Any] | None = None) -> ApiError:
    return ApiError(code, status(code, message, reason, details))


def details(name: str, group: str, kind: str) -> dict[str, Any]:
    """Details without what is empty: the core group has no name."""
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def page_not_found() -> ApiError:
    return ApiError(404, "404 page not found\n")


def not_found(plural: str, group: str, name: str) -> ApiError:
    return error(404, f'{qualified(plural, group)} "{name}" not found', details=details(name, group, plural))


def already_exists(plural: str, group: str, name: str, terminating: bool) -> ApiError:
    prefix = "object is being deleted: " if terminating else ""
    message = f'{prefix}{qualified(plural, group)} "{name}" already exists'
    return error(409, message, "AlreadyExists", details(name, group, plural))


def conflict(kind: str, group: str, name: str, message: str = MODIFIED) -> ApiError:
    text = f'Operation cannot be fulfilled on {qualified(kind, group)} "{name}": {message}'
    return error(409, text, details=details(name, group, kind))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """422 with one cause or several; a text that occurs twice is told once, its causes are not."""
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    told = details(name, group, kind) | {
        "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    }
    return error(422, f'{qualified(kind, group)} "{name}" is invalid: {joined}', details=told)


def forbidden(user: str, verb: str, group: str, resource: str, namespace: str, name: str, cluster_scope: bool) -> ApiError:
    """403 as RBAC words it. `resource` names the subresource too: `pods/log`."""
    plural = resource.split("/")[0]
    subject = f'{qualified(plural, group)} "{name}"' if name else qualified(plural, group)
    where = "at the cluster scope" if cluster_scope else f'in the namespace "{namespace}"'
    message = f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}'
    return error(403, message, details=details(name, group, plural))


def expired(asked: int, oldest: int) -> dict[str, Any]:
    return status(410, f"too old resource version: {asked} ({oldest})")


def success(name: str, group: str, plural: str, uid: str) -> dict[str, Any]:
    """What a delete answers that removed the object at once."""
    told = details(name, group, plural) | {"uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": told}
