"""Faults on demand for the double of an API server: refusals, resets, late answers, and answers that are lost after the deed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_NONE: Mapping[str, str] = MappingProxyType({})


class RequestPath(str):
    """The path of a request without its query, which is in `query`: the last value of each name."""

    query: Mapping[str, str]

    __slots__ = ("query",)

    def __new__(cls, path: str, query: Mapping[str, str]) -> RequestPath:
        made = super().__new__(cls, path)
        made.query = query
        return made


@dataclass(slots=True)
class Fault:
    """One kind of fault. See `Faults.add`."""

    match: Callable[[str, RequestPath], bool]
    status: int = 0
    body: dict[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    delay_s: float = 0
    reset: bool = False
    after: bool = False
    times: int | None = 1


class Faults:
    """What is to go wrong. One request meets one fault: the first that matches it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(
        self,
        match: Callable[[str, RequestPath], bool],
        *,
        status: int = 0,
        body: dict[str, Any] | str | None = None,
        headers: Mapping[str, str] = _NONE,
        delay_s: float = 0,
        reset: bool = False,
        after: bool = False,
        times: int | None = 1,
    ) -> None:
        """Lets requests fail for which `match(method, path)` holds; `path.query` has the query.

        Args:
            status: Answer with it, and with `body` and `headers`; a Status object where there is no body.
            delay_s: Answer so many seconds later.
            reset: Close the connection instead of answering.
            after: Carry out the request first, so that only its answer is wrong.
            times: So many requests; None for all.
        """
        with self._lock:
            self._faults.append(Fault(match, status, body, headers, delay_s, reset, after, times))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: RequestPath) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            found = next((fault for fault in self._faults if fault.match(method, path)), None)
            if found is not None and found.times is not None:
                found.times -= 1
                if found.times == 0:
                    self._faults.remove(found)
            return found
