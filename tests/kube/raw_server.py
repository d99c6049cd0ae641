"""A double of whatever may stand at the address of an API server, because the wire can say what no API server says: fixed bytes to all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml


def whole(body: bytes) -> bytes:
    """An answer that is complete."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class RawServer:
    """Answers each connection once, and closes it.

    Attributes:
        moments: When it answered, by the monotonic clock.

    Args:
        answer: The bytes.
        holds: Leaves connections open after the answer, until the client closes them.
        tls: Speaks TLS, with a certificate of its own.
    """

    def __init__(self, answer: bytes, holds: bool = False, tls: bool = False) -> None:
        self.moments: list[float] = []
        self._answer = answer
        self._holds = holds
        self._folder = tempfile.TemporaryDirectory()
        self._context = _context(Path(self._folder.name)) if tls else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="raw server", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()

    def kubeconfig(self, folder: Path) -> Path:
        """Writes a kubeconfig for it into `folder`."""
        address = f"{'https' if self._context else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        cluster: dict[str, Any] = {"server": address}
        if self._context:
            cluster["certificate-authority"] = f"{self._folder.name}/certificate.pem"
        content = {
            "clusters": [{"name": "raw", "cluster": cluster}],
            "users": [{"name": "raw", "user": {"token": "token"}}],
            "contexts": [{"name": "raw", "context": {"cluster": "raw", "user": "raw"}}],
            "current-context": "raw",
        }
        path = folder / "raw-kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="raw connection", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            talk = self._context.wrap_socket(connection, server_side=True) if self._context else connection
            talk.recv(1 << 16)
            talk.sendall(self._answer)
            self.moments.append(time.monotonic())
            while self._holds and talk.recv(1 << 16):
                pass
            talk.close()


def _context(folder: Path) -> ssl.SSLContext:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run([*command, *names], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
