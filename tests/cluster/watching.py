"""Watches of the double of an API server: an endless answer of events, as JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.cluster.core_kinds import Kind
from tests.cluster.operations import key
from tests.cluster.selectors import Matcher
from tests.cluster.statuses import error, expired
from tests.cluster.store import Change, Store, Thing

_LONGEST_S = 1800
_TICK_S = 0.5
"""How often a quiet watch looks if anybody is still there."""


def watch(
    store: Store, kind: Kind, namespace: str | None, matcher: Matcher, version: str, timeout_s: float, bookmarks: bool
) -> Iterator[bytes]:
    """Events as lines, from `version` on, or from the present objects on; an empty one now and then while nothing happens.

    A version that is no number is answered with 500, as the real server does.
    """
    if version and not version.isdigit():
        text = f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        raise error(500, text, None)
    return _events(store, kind, namespace, matcher, int(version or 0), timeout_s or _LONGEST_S, bookmarks)


def _events(
    store: Store, kind: Kind, namespace: str | None, matcher: Matcher, version: int, timeout_s: float, bookmarks: bool
) -> Iterator[bytes]:
    deadline = time.monotonic() + timeout_s
    with store.lock:
        seen = version or store.version
        present = [] if version else [thing for thing in store.all(key(kind), namespace) if matcher(thing)]
        oldest = store.oldest
        newest = store.version
    if version and version < oldest:
        yield _line("ERROR", expired(version, newest))
        return
    for thing in present:
        yield _line("ADDED", thing)
    while (left := deadline - time.monotonic()) > 0:
        with store.changed:
            if store.version <= seen:
                store.changed.wait(min(left, _TICK_S))
            changes = store.since(key(kind), seen)
            seen = max(seen, store.version)
        lines = [line for change in changes if (line := _told(change, namespace, matcher))]
        yield b"".join(lines)
    if bookmarks:
        metadata = {"resourceVersion": str(seen), "creationTimestamp": None}
        yield _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})


def _told(change: Change, namespace: str | None, matcher: Matcher) -> bytes:
    """The event of a change for one watch: an object that begins to match is added, one that ceases to is deleted."""
    if namespace is not None and change.last["metadata"].get("namespace") != namespace:
        return b""
    before = change.old is not None and matcher(change.old)
    after = change.new is not None and matcher(change.new)
    if not before and not after:
        return b""
    if not after:
        return _line("DELETED", change.last)
    return _line("MODIFIED" if before else "ADDED", change.last)


def _line(kind: str, thing: Thing | dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"
