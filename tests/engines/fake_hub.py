"""A double of huggingface.co, which cannot be reached from tests: it answers what `snapshot_download` asks, as the real one does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD_TOKEN = "hf_goodTokenOfTests"

_API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class FakeHub:
    """Holds `models`, by id the content of each file; those in `gated` show their files to nobody. `asked`: method and path of all."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.down = False
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                if hub.down:
                    return self._refuse(502)
                if token and token != GOOD_TOKEN:
                    return self._refuse(401, message="Invalid credentials in Authorization header")
                found = _API.fullmatch(path) or _FILE.fullmatch(path)
                files = hub.models.get(found[1]) if found else None
                if found is None or files is None:
                    # strangers are not told whether a model is private or does not exist
                    return self._refuse(404, "RepoNotFound") if token else self._refuse(401, message="Invalid username or password.")
                if found.re is _API:
                    if found[3] not in ("main", COMMIT):
                        return self._refuse(404, "RevisionNotFound")
                    return self._answer(json.dumps(hub.listing(found[1], found[2])).encode(), {"Content-Type": "application/json"})
                if found[1] in hub.gated:
                    return self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted.")
                if found[3] not in files:
                    return self._refuse(404, "EntryNotFound")
                content = files[found[3]]
                return self._answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

            do_HEAD = do_GET

            def _refuse(self, status: int, code: str = "", message: str = "") -> None:
                headers = {"X-Error-Code": code, "X-Error-Message": message}
                self._answer(b"{}", {name: text for name, text in headers.items() if text}, status)

            def _answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def listing(self, model: str, kind: str) -> object:
        """What `/api/models/<id>/revision` and `/tree` tell of a model."""
        files = self.models[model]
        if kind == "revision":
            return {"id": model, "modelId": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]

    def downloaded(self) -> set[str]:
        """The files that were fetched."""
        return {found[3] for line in self.asked if line.startswith("GET ") and (found := _FILE.fullmatch(line.removeprefix("GET ")))}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
