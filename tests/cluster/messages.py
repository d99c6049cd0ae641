"""What crosses between the HTTP side and the API side of the double of an API server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.cluster.statuses import ApiError


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` has no query; `body` is parsed where it is JSON, else text, None where there is none."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `body` is an object, or text."""

    code: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    @property
    def content_type(self) -> str:
        return "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer in pieces; an empty piece only asks if the client is still there."""

    pieces: Iterator[bytes]
    content_type: str
    is_watch: bool = False


@dataclass(frozen=True, slots=True)
class PortForward:
    """An answer that turns the connection into a WebSocket to ports of a pod."""

    ports: tuple[int, ...]
    connect: Callable[[int], socket.socket]


class NodeHooks(Protocol):
    """Where logs and port-forwards go. Both may raise `ApiError`; `connect` OSError where nothing listens."""

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        previous: bool,
        follow: bool,
        since_time: str | None,
        timestamps: bool,
        tail_lines: int | None,
    ) -> Iterator[bytes]: ...

    def connect(self, namespace: str, pod: str, port: int) -> socket.socket: ...


def refusal(failure: ApiError) -> Answer:
    return Answer(failure.code, failure.body)
