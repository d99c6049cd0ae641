"""What an API server answers instead of what was asked for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Self

MAX_QUOTE = 300
"""Characters of an answer that go into a message."""
_NO_WORDS = "no explanation"
_NO_SUCH_RESOURCE = "the server could not find the requested resource"
"""How built-in groups say that they do not know the kind [k8s.io/apimachinery, pkg/api/errors]."""


class ApiError(Exception):
    """The API server refused, failed, or did not answer.

    Args:
        status: HTTP status; 0 where no answer came.
        reason: The API's own word for it (`AlreadyExists`, `Forbidden`), empty where it has none; the exception where no answer came.
        message: Its explanation.
        retry_after_s: Seconds after which it wants to be asked again, where it said so.
        found_api: False where not the object but its whole kind is unknown, as before OME is installed.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None, found_api: bool = True) -> None:
        word = f"{status} {reason}" if reason else f"{status}"
        super().__init__(f"{word}: {message}" if status else f"no answer ({reason}: {message})")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.found_api = found_api

    @classmethod
    def answered(cls, status: int, body: bytes, headers: Mapping[str, str]) -> Self:
        """From an answer. Most are a Status object; that of an unknown API, or of a proxy before the server, is something else."""
        text = body.decode(errors="replace").strip()
        found: Any = None
        with contextlib.suppress(ValueError):
            found = json.loads(text)
        after = headers.get("Retry-After", "")
        retry_after_s = float(after) if after.isdecimal() else None
        if not isinstance(found, dict) or found.get("kind") != "Status":
            return cls(status, "", one_line(text) or _NO_WORDS, retry_after_s, found_api=status != 404)
        message = one_line(str(found.get("message") or text))
        found_api = status != 404 or message != _NO_SUCH_RESOURCE
        return cls(status, str(found.get("reason") or ""), message, retry_after_s, found_api)

    @classmethod
    def no_answer(cls, error: BaseException) -> Self:
        """From an exception of the transport: no connection, a broken one, or a time that ran out."""
        cause = getattr(error, "reason", None)
        if isinstance(cause, BaseException):  # urllib3 wraps it with the whole request
            error = cause
        return cls(0, type(error).__name__, one_line(str(error)) or _NO_WORDS)

    @property
    def away(self) -> bool:
        """Whether no answer came: what was asked for may or may not have been done."""
        return self.status == 0

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status in (0, 429) or (self.status >= 500 and self.status != 501)

    @property
    def gone(self) -> bool:
        """Whether a watch asked for changes that the server does not remember any more: list again."""
        return self.status == 410


def one_line(text: str) -> str:
    """`text` in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_QUOTE else line[: MAX_QUOTE - 1] + "…"
