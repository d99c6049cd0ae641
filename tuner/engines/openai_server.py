"""What all supported engines have in common: an OpenAI-compatible HTTP server whose flags follow from parameter names."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from tuner.engines.base import Engine
from tuner.engines.failure_texts import FailureText, Mark, diagnose
from tuner.errors import TrialFailure
from tuner.launch import Endpoint, ExitStatus, Value

ASK_TIMEOUT_S = 1.0
DRAIN_S = 5.0
DRAIN_POLL_S = 0.1

# A proxy of the user's environment must not stand between tuner and a server on this host.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class OpenAIServer(Engine):
    """An engine that answers `/v1/models`, and whose failures are told by a table of texts."""

    failure_texts: ClassVar[Sequence[FailureText]]
    memory_marks: ClassVar[Sequence[Mark]] = ()

    def ready(self, endpoint: Endpoint) -> bool:
        return any(inside(model, "id") == endpoint.model for model in served_models(endpoint))

    def diagnose(self, status: ExitStatus) -> TrialFailure:
        return diagnose(status, self.failure_texts, self.memory_marks)


def served_name(model: str, token: str) -> str:
    """The name a deployment serves `model` under: the model's own, and `token` where one is given."""
    short = model.rstrip("/").rpartition("/")[2]
    return f"{short}-{token}" if token else model


def ask(endpoint: Endpoint, path: str, timeout_s: float = ASK_TIMEOUT_S, method: str = "GET") -> Any:
    """The JSON that `path` returns, or None when there is none for whatever reason."""
    text = page(endpoint, path, timeout_s, method)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def post(endpoint: Endpoint, path: str, timeout_s: float = 10.0) -> bool:
    """Whether a POST of `path` without a body succeeds."""
    return page(endpoint, path, timeout_s, "POST") is not None


def page(endpoint: Endpoint, path: str, timeout_s: float = ASK_TIMEOUT_S, method: str = "GET") -> str | None:
    """The text that `path` returns, or None when there is none for whatever reason."""
    body = b"" if method == "POST" else None
    try:
        reply = _exchange(urllib.request.Request(endpoint.url + path, data=body, method=method), timeout_s)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return reply.decode(errors="replace")


def _exchange(request: urllib.request.Request, timeout_s: float) -> bytes:
    """The body of a successful reply. The timeout holds for the whole exchange, not for each read: a server may trickle."""
    deadline = time.monotonic() + timeout_s
    body = b""
    with _OPENER.open(request, timeout=timeout_s) as reply:
        while chunk := reply.read1(1 << 16):
            body += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole reply within {timeout_s:g} s")
    return body


def once_idle(flush: Callable[[], bool | None]) -> bool:
    """Flushes a cache as soon as nobody holds parts of it: requests that a level dropped at its end live on until the server notices.

    Args:
        flush: True when it is done, False while requests run, None where the server cannot.
    """
    deadline = time.monotonic() + DRAIN_S
    while (done := flush()) is False and time.monotonic() < deadline:
        time.sleep(DRAIN_POLL_S)
    return bool(done)


def served_models(endpoint: Endpoint) -> list[Any]:
    """The entries of `/v1/models`."""
    data = inside(ask(endpoint, "/v1/models"), "data")
    return data if isinstance(data, list) else []


def inside(reply: Any, *path: str) -> Any:
    """What `reply` holds under nested keys, or None: a reply may come from a stranger or another version."""
    for key in path:
        reply = reply.get(key) if isinstance(reply, dict) else None
    return reply


def scalars(reply: Any, names: Iterable[str]) -> dict[str, Value]:
    """Those of `names` that `reply` holds as scalars."""
    found = {name: inside(reply, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}
