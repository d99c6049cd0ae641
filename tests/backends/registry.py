"""A stand-in for a registry, because none can be reached here: the few answers that a daemon needs to pull, or to be refused.

It serves one image under the name `image:tag`; other names are refused in the way that they say.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
from types import TracebackType
from typing import Any, Self

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# https://distribution.github.io/distribution/spec/api/#errors-2
_REFUSALS = {
    "private": (401, "UNAUTHORIZED", "authentication required"),
    "denied": (403, "DENIED", "requested access to the resource is denied"),
    "limited": (429, "TOOMANYREQUESTS", "You have reached your pull rate limit."),
    "missing": (404, "MANIFEST_UNKNOWN", "manifest unknown"),
}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _image() -> dict[str, bytes]:
    """The blobs of an image with one file, by digest; the manifest by the name `manifest`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    layer = gzip.compress(buffer.getvalue())
    rootfs = {"type": "layers", "diff_ids": [_digest(buffer.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": _digest(config)},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": len(layer), "digest": _digest(layer)}],
    }
    return {_digest(config): config, _digest(layer): layer, "manifest": json.dumps(manifest).encode()}


class _Handler(http.server.BaseHTTPRequestHandler):
    blobs = _image()

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if len(parts) < 4:
            return self._reply(200, b"{}", "application/json")
        name, kind, reference = parts[1:4]
        if name in _REFUSALS:
            code, error, message = _REFUSALS[name]
            return self._reply(code, json.dumps({"errors": [{"code": error, "message": message}]}).encode(), "application/json")
        content = self.blobs["manifest" if kind == "manifests" else reference]
        return self._reply(200, content, _MANIFEST if kind == "manifests" else "application/octet-stream")

    do_HEAD = do_GET

    def _reply(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", _digest(content))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Registry:
    """A context manager; a daemon trusts it without TLS because it is on loopback."""

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
