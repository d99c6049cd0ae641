"""A double: a Hugging Face hub on loopback, with the routes, codes and headers of the real one, which tests cannot reach."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class FakeHub:
    """A hub with some models and one account.

    Attributes:
        token: The only token that is accepted; any other is refused even for public models, as the real hub does.
        models: Files with their sizes, by hub id.
        gated: The models among them of which a request needs `token`.
        failing: Every answer is 503.
        asked: Method and path of all requests.
    """

    token: str = "hf_thegoodone"
    models: dict[str, dict[str, int]] = field(default_factory=dict)
    gated: frozenset[str] = frozenset()
    failing: bool = False
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, body, headers = hub.answer(self.path.partition("?")[0], bearer)
                text = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_HEAD = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, bearer: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of the reply."""
        if self.failing:
            return 503, {"error": "Service Unavailable"}, {}
        if bearer and bearer != self.token:
            message = "Invalid credentials in Authorization header"
            return 401, {"error": message}, {"X-Error-Message": message}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "someone"}, {}
        if "/revision/" in path and not path.endswith("/revision/main"):
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
        model = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if model not in self.models:
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": size} for name, size in self.models[model].items()]
            return 200, {"id": model, "gated": "manual" if model in self.gated else False, "siblings": siblings}, {}
        if model in self.gated and not bearer:
            return 401, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {model} is restricted."}
        return 200, {}, {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
