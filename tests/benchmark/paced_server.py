"""A double of a streaming OpenAI server: no real engine has token counts, pace and failures that a test can know beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tuner.launch import Endpoint

PROMPT_TOKENS = 57
TTFT_S = 0.06
TPOT_S = 0.02
OWN_TOKENS = 7
"""Length of an answer to a request that sets no bound."""

ANSWERS = {
    "429": (429, {"error": {"message": "queue is full", "type": "rate_limit_error", "code": 429}}),
    "overflow": (500, {"error": {"message": "Context size has been exceeded.", "type": "server_error", "code": 500}}),
    "500": (500, {"error": {"message": "out of luck", "type": "server_error", "code": 500}}),
    "too long": (400, {"error": {"message": "the request exceeds the context size", "type": "exceed_context_size_error", "code": 400}}),
    "401": (401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}),
}
"""Behaviours that answer with a status and a body. The others: `ok`, `empty` (no token in a good stream), `hang` (no answer), `echo`
(status 429 with the request's Authorization header in the message), `cut` (the stream breaks off)."""


class PacedServer:
    """Answers `/v1/chat/completions` with exactly `max_tokens` tokens, the first after `TTFT_S`, the others `TPOT_S` apart.

    Args:
        behave: From the number of the request, starting at 0, to a behaviour.
        slots: Requests that are worked on at a time; the others queue.
        count: From a prompt to its number of tokens.
    """

    def __init__(
        self, behave: Callable[[int], str] = lambda _: "ok", slots: int = 1_000, count: Callable[[str], int] = lambda _: PROMPT_TOKENS
    ) -> None:
        self._behave = behave
        self._slots = slots
        self._count = count
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.finished = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}", "fake")

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends at once, whatever is in flight. May be called again."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._end = asyncio.Event()
        self._free = asyncio.Semaphore(self._slots)
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._end.wait()
        server.close()
        while connections := asyncio.all_tasks() - {asyncio.current_task()}:
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        number = len(self.bodies)
        self.bodies.append(body)
        self.authorizations.append(headers.get("authorization"))
        behaviour = self._behave(number)
        if behaviour == "hang":
            await asyncio.sleep(3600)
        elif behaviour == "echo":
            await self._refuse(writer, 429, {"error": {"message": f"rejected {headers.get('authorization')}"}})
        elif behaviour in ANSWERS:
            await self._refuse(writer, *ANSWERS[behaviour])
        else:
            async with self._free:
                await self._stream(writer, body, behaviour)
        self.finished += 1

    async def _refuse(self, writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n" + content)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, body: dict[str, Any], behaviour: str) -> None:
        started = self._loop.time()
        tokens = 0 if behaviour == "empty" else body["max_tokens"] or OWN_TOKENS
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for token in range(tokens):
            # By the clock, so that late wake-ups do not add up.
            due = started + TTFT_S + token * TPOT_S
            await asyncio.sleep(due - self._loop.time())
            await self._send(writer, {"choices": [{"index": 0, "delta": {"content": "w "}, "finish_reason": None}]})
            if behaviour == "cut" and token == tokens // 2:
                return
        await self._send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        usage = {"prompt_tokens": self._count(body["messages"][0]["content"]), "completion_tokens": tokens}
        await self._send(writer, {"choices": [], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()
