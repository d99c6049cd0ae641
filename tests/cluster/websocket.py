"""Port-forwarding over a WebSocket (RFC 6455), server side, as a Kubernetes API server does it; for the double of it.

Each port has two channels: 2i carries its bytes, 2i+1 an error. The first frame on each is the port's number, little endian.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from io import BufferedIOBase

PROTOCOLS = ("v4.channel.k8s.io", "v5.channel.k8s.io")
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_CLOSE_CHANNEL = 255
_CHUNK = 64 * 1024


def accept_key(key: str) -> str:
    """What a handshake answers to `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC.encode()).digest()).decode()


def chosen_protocol(offered: str) -> str | None:
    """The protocol that the server speaks; it prefers the older one, which has no half-closed channels."""
    names = [name.strip() for name in offered.split(",")]
    return next((name for name in PROTOCOLS if name in names), None)


class Frames:
    """The frames of one connection."""

    def __init__(self, reader: BufferedIOBase, connection: socket.socket) -> None:
        self._reader = reader
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, payload: bytes, opcode: int = _BINARY) -> None:
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, length)
        with self._lock:
            self._connection.sendall(head + payload)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.send(struct.pack("!H", 1000), _CLOSE)

    def receive(self) -> bytes | None:
        """The next message; None at the end."""
        message = b""
        while True:
            last, opcode, payload = self._frame()
            if opcode == _CLOSE:
                return None
            if opcode == _PING:
                self.send(payload, _PONG)
            elif opcode != _PONG:
                message += payload
                if last:
                    return message

    def _frame(self) -> tuple[bool, int, bytes]:
        head = self._reader.read(2)
        if len(head) < 2:
            return True, _CLOSE, b""
        last, opcode, masked, length = bool(head[0] & 0x80), head[0] & 0x0F, bool(head[1] & 0x80), head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._reader.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._reader.read(8))
        mask = self._reader.read(4) if masked else b"\0\0\0\0"
        payload = self._reader.read(length)
        if len(payload) < length:
            return True, _CLOSE, b""
        return last, opcode, _unmasked(payload, mask)


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


def forward(frames: Frames, ports: Sequence[int], connect: Callable[[int], socket.socket]) -> None:
    """Carries bytes between the channels and what `connect(port)` reaches, until either side ends."""
    for place, port in enumerate(ports):
        for channel in (2 * place, 2 * place + 1):
            frames.send(struct.pack("<BH", channel, port))
    targets: dict[int, socket.socket] = {}
    for place, port in enumerate(ports):
        try:
            targets[2 * place] = connect(port)
        except OSError as failure:
            frames.send(bytes([2 * place + 1]) + f"error forwarding port {port}: failed to connect to localhost:{port}: {failure}".encode())
    pumps = [threading.Thread(target=_pump, args=(frames, channel, target, targets), daemon=True) for channel, target in targets.items()]
    for pump in pumps:
        pump.start()
    if not targets:
        frames.close()
    _carry(frames, targets)
    for target in list(targets.values()):
        _shut(target)


def _carry(frames: Frames, targets: dict[int, socket.socket]) -> None:
    with contextlib.suppress(OSError, struct.error):
        while (message := frames.receive()) is not None:
            if not message:
                continue
            if message[0] == _CLOSE_CHANNEL:
                if len(message) > 1 and message[1] in targets:
                    with contextlib.suppress(OSError):
                        targets[message[1]].shutdown(socket.SHUT_WR)
            elif (target := targets.get(message[0])) is not None:
                with contextlib.suppress(OSError):
                    target.sendall(message[1:])


def _pump(frames: Frames, channel: int, target: socket.socket, targets: dict[int, socket.socket]) -> None:
    """From the pod to the client; when the last pod's side has ended, the whole connection ends."""
    with contextlib.suppress(OSError):
        while data := target.recv(_CHUNK):
            frames.send(bytes([channel]) + data)
    targets.pop(channel, None)
    _shut(target)
    if not targets:
        frames.close()


def _shut(target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
    target.close()
