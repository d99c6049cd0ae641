"""Part of the doubles of SGLang and vLLM: `/v1/chat/completions` and `/v1/completions`, streamed or whole, one word for a token."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from http_server import Reply
from http_server import Request as HttpRequest
from scheduler import Request, Scheduler

OWN_LENGTH = 24
"""Tokens after which the model ends by itself, unless it is told to ignore that."""
WORD = " word"


class BadRequest(Exception):
    """The client's fault; the text is the engine's."""

    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the engines differ.

    Attributes:
        wrap_error: From message, type and code to the body of an error.
        stop_field: The field that says why a choice ended, beside `finish_reason`.
        too_long: From prompt tokens, output tokens (0 where none are asked for) and context length to the refusal; None where it fits.
        unknown_model: From a name that is not served to the refusal; None where the engine answers whatever the name.
    """

    wrap_error: Callable[[str, str, int], Any]
    stop_field: str
    too_long: Callable[[int, int, int], str | None]
    unknown_model: Callable[[str], str] | None = None


class OpenAI:
    """The completion routes.

    Args:
        scheduler: Does the work.
        dialect: The engine's.
        model: The name served.
        context: The longest sequence.
        admit: Asked before each request; raises BadRequest to refuse it.
    """

    def __init__(self, scheduler: Scheduler, dialect: Dialect, model: str, context: int, admit: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._dialect = dialect
        self._model = model
        self._context = context
        self._admit = admit

    async def chat(self, http: HttpRequest) -> Reply:
        return await self._complete(http, chat=True)

    async def completions(self, http: HttpRequest) -> Reply:
        return await self._complete(http, chat=False)

    async def _complete(self, http: HttpRequest, chat: bool) -> Reply:
        try:
            body = http.json()
            self._admit()
            request = self._request(body, chat)
        except BadRequest as error:
            return Reply(self._dialect.wrap_error(str(error), error.kind, error.status), error.status)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Reply(self._dialect.wrap_error(f"malformed request: {error!r}", "BadRequestError", 400), 400)
        answer = _Answer(self._model, chat, self._dialect.stop_field, len(request.prompt), _ends_by_itself(body, request))
        self._scheduler.submit(request)
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return Reply(events=self._events(request, answer, usage))
        count = 0
        while await request.tokens.get():
            count += 1
        return Reply(answer.whole(count))

    def _request(self, body: dict[str, Any], chat: bool) -> Request:
        if self._dialect.unknown_model and body.get("model", self._model) != self._model:
            raise BadRequest(self._dialect.unknown_model(body["model"]), 404, "NotFoundError")
        text = "".join(f"<|{m['role']}|> {m['content']} " for m in body["messages"]) if chat else str(body["prompt"])
        prompt = re.findall(r"\w+|[^\w\s]", text) or ["."]
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        longest = min(self._context, self._scheduler.limits.kv_tokens)
        if refusal := self._dialect.too_long(len(prompt), limit or 0, longest):
            raise BadRequest(refusal)
        room = longest - len(prompt)
        wanted = min(limit or room, room)
        if not body.get("ignore_eos"):
            wanted = min(wanted, max(OWN_LENGTH, body.get("min_tokens") or 0))
        return Request(prompt, wanted)

    async def _events(self, request: Request, answer: _Answer, usage: bool) -> AsyncIterator[str]:
        count = 0
        try:
            while await request.tokens.get():
                count += 1
                if answer.chat and count == 1:
                    yield answer.chunk({"role": "assistant", "content": ""})
                yield answer.chunk({"content": WORD})
            yield answer.chunk({}, ended=True)
            if usage:
                yield answer.usage_chunk(count)
            yield "[DONE]"
        finally:
            self._scheduler.abort(request)


def _ends_by_itself(body: dict[str, Any], request: Request) -> bool:
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return not body.get("ignore_eos") and (not limit or request.max_tokens < limit)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Writes the parts of one answer."""

    model: str
    chat: bool
    stop_field: str
    prompt_tokens: int
    ends_by_itself: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def _envelope(self, choices: list[Any], streamed: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if streamed else "chat.completion") if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": int(time.time()), "model": self.model, "choices": choices}

    def _choice(self, content: dict[str, Any], ended: bool) -> dict[str, Any]:
        reason = ("stop" if self.ends_by_itself else "length") if ended else None
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason, self.stop_field: None}

    def chunk(self, delta: dict[str, str], ended: bool = False) -> str:
        content = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        return json.dumps(self._envelope([self._choice(content, ended)], streamed=True) | {"usage": None})

    def usage_chunk(self, count: int) -> str:
        return json.dumps(self._envelope([], streamed=True) | {"usage": self._usage(count)})

    def whole(self, count: int) -> dict[str, Any]:
        text = WORD * count
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self._envelope([self._choice(content, ended=True)], streamed=False) | {"usage": self._usage(count)}

    def _usage(self, count: int) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens + count, "completion_tokens": count}
