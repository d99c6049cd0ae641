"""The metadata of objects: what the API server sets, keeps, refuses and drops, for the double of it."""

from __future__ import annotations

import json
import random
import re
import string
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.core_schema import decoded, model_schema
from tests.cluster.schema import prune
from tests.cluster.statuses import Cause

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "name",
    "namespace",
    "uid",
)
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_DNS_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric "
    "character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_DNS_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an "
    "alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_ANNOTATION_BYTES = 256 * 1024


def now(ahead_s: float = 0) -> str:
    """The time as Kubernetes writes it, to the second; `ahead_s` seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def cleaned(kind: Kind, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Metadata with known fields only and without what is empty; and the fields that are unknown."""
    schema = model_schema("V1ObjectMeta")
    wrapped = {"type": "object", "properties": {"metadata": schema}, "x-go-type": kind.kind}
    typed = decoded({"metadata": dict(metadata)}, wrapped, kind.version, kind.kind)["metadata"]
    unknown = prune(typed, schema, "metadata")
    return {name: value for name, value in typed.items() if value not in ({}, [], None, "")}, unknown


def fresh(kind: Kind, metadata: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    """The metadata of a new object."""
    for name in (
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "namespace",
        "resourceVersion",
        "selfLink",
    ):
        metadata.pop(name, None)
    if "name" not in metadata and "generateName" in metadata:
        metadata["name"] = metadata["generateName"] + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
    if kind.namespaced:
        metadata["namespace"] = namespace
    if kind.counts_generations:
        metadata["generation"] = 1
    return metadata | {"uid": str(uuid.uuid4()), "creationTimestamp": now()}


def kept(old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata after a change: what only the server sets stays as it was."""
    mine = {name: value for name, value in asked.items() if name not in _SERVER_FIELDS and name not in ("managedFields", "resourceVersion")}
    return mine | {name: old[name] for name in _SERVER_FIELDS if name in old}


def check(kind: Kind, metadata: Mapping[str, Any]) -> list[Cause]:
    """What is wrong with metadata."""
    causes = list(_check_name(kind, metadata))
    causes += check_labels(metadata.get("labels") or {}, "metadata.labels")
    annotations = metadata.get("annotations") or {}
    for name in annotations:
        # Annotations may be written in upper case; labels too, only for them the server says so.
        causes += _check_key(name, "metadata.annotations")
    if sum(len(name) + len(value) for name, value in annotations.items()) > _ANNOTATION_BYTES:
        causes.append(Cause("FieldValueTooLong", f"Too long: may not be more than {_ANNOTATION_BYTES} bytes", "metadata.annotations"))
    for owner in metadata.get("ownerReferences") or []:
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                causes.append(Cause("FieldValueInvalid", 'Invalid value: "": must not be empty', f"metadata.ownerReferences.{name}"))
    return causes


def _check_name(kind: Kind, metadata: Mapping[str, Any]) -> Iterable[Cause]:
    name = metadata.get("name")
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
        return
    if kind.group == "rbac.authorization.k8s.io":
        return
    pattern, text, most = _SUBDOMAIN, _SUBDOMAIN_TEXT, 253
    if kind.kind == "Namespace":
        pattern, text, most = _DNS_LABEL, _DNS_LABEL_TEXT, 63
    elif kind.kind == "Service":
        pattern, text, most = _DNS_1035, _DNS_1035_TEXT, 63
    if not pattern.fullmatch(name):
        yield _bad("metadata.name", name, text)
    # Its Jobs get eleven characters more.
    most = 52 if kind.kind == "CronJob" else most
    if len(name) > most:
        yield _bad("metadata.name", name, f"must be no more than {most} bytes")


def check_labels(labels: Mapping[str, str], field: str) -> list[Cause]:
    causes: list[Cause] = []
    for name, value in labels.items():
        causes += _check_key(name, field)
        if not _LABEL_VALUE.fullmatch(value):
            causes.append(_bad(field, value, _LABEL_TEXT))
        if len(value) > 63:
            causes.append(_bad(field, value, "must be no more than 63 bytes"))
    return causes


def _check_key(key: str, field: str) -> Iterable[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        yield _bad(field, key, f"prefix part {_SUBDOMAIN_TEXT}")
    if not _QUALIFIED.fullmatch(name):
        yield _bad(field, key, _QUALIFIED_TEXT)
    if len(name) > 63:
        yield _bad(field, key, "name part must be no more than 63 bytes")


def check_finalizers(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Cause]:
    """An object that is being deleted gets no new finalizers. Of custom resources the server says so twice."""
    before = old.get("finalizers") or []
    added = [finalizer for finalizer in new.get("finalizers") or [] if finalizer not in before]
    if "deletionTimestamp" not in old or not added:
        return []
    listed = ", ".join(json.dumps(finalizer) for finalizer in added)
    message = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"
    return [Cause("FieldValueForbidden", message, "metadata.finalizers")] * (2 if kind.custom else 1)


def _bad(field: str, value: str, text: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {text}", field)
