"""Part of the doubles of SGLang and vLLM: a small asynchronous HTTP server that can stream, of the standard library alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` as JSON, or as it is where it is text; or the events of a stream, each sent as `data: ...`."""

    body: Any = ""
    status: int = 200
    kind: str = "application/json"
    events: AsyncIterator[str] | None = None


Handler = Callable[[Request], Awaitable[Reply]]


class HttpServer:
    """Answers by route; a connection serves one request."""

    def __init__(self, routes: Mapping[tuple[str, str], Handler], log: Callable[[str], None] = lambda _: None) -> None:
        self._routes = routes
        self._log = log

    async def serve(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._connection, sock=listener, backlog=512)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _read(reader)
                await self._answer(request, reader, writer)
        finally:
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = self._routes.get((request.method, request.path))
        reply = await handler(request) if handler else Reply({"detail": "Not Found"}, 404)
        host, port = writer.get_extra_info("peername")[:2]
        phrase = HTTPStatus(reply.status).phrase
        self._log(f'{host}:{port} - "{request.method} {request.path} HTTP/1.1" {reply.status} {phrase}')
        if reply.events is None:
            body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            head = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Type: {reply.kind}\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
            return
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode())
        stream = asyncio.ensure_future(_stream(reply.events, writer))
        gone = asyncio.ensure_future(reader.read(1))
        # A client that hangs up is noticed at once, as the real servers do, and not with the next token.
        await asyncio.wait({stream, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not stream.done():
            stream.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stream


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.split("\r\n")
    method, target, _ = start.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    url = urlsplit(target)
    return Request(method, url.path, parse_qs(url.query), await reader.readexactly(int(headers.get("content-length", 0))))


async def _stream(events: AsyncIterator[str], writer: asyncio.StreamWriter) -> None:
    try:
        async for event in events:
            data = f"data: {event}\n\n".encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def listen(host: str, port: int) -> socket.socket:
    """Binds the address.

    Raises:
        OSError: it is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener
