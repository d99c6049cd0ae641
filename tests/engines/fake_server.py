"""A double: an HTTP server that gives prepared replies. It stands in for SGLang and vLLM, which cannot run without a GPU."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers: `body` as JSON (bytes as they are), after `delay_s` seconds."""

    body: Any = ""
    status: int = 200
    delay_s: float = 0.0


class FakeServer:
    """Serves `routes`, by method and path (`"GET /v1/models"`), a callable where replies change; anything else is 404. `asked`: all."""

    def __init__(self) -> None:
        self.routes: dict[str, Reply | Callable[[], Reply]] = {}
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                key = f"{self.command} {self.path}"
                fake.asked.append(key)
                route = fake.routes.get(key, Reply({"detail": "Not Found"}, 404))
                reply = route() if callable(route) else route
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                time.sleep(reply.delay_s)
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except BrokenPipeError:
                    # The client's patience ended; that is what a delay is for.
                    pass

            do_GET = do_POST = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
