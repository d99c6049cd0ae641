from __future__ import annotations

import asyncio
import http.server
import json
import socket
import struct
import subprocess
import sys

import pytest

from tuner.backends.port import reserve_port

HOST = "127.0.0.1"
IP_LOCAL_PORT_RANGE = 51  # include/uapi/linux/in.h, since Linux 6.3

RESERVE_MANY = """
import json, sys
from tuner.backends.port import reserve_port
held = [reserve_port("127.0.0.1") for _ in range(200)]
print(json.dumps([reservation.getsockname()[1] for reservation in held]), flush=True)
sys.stdin.read()
"""


def test_processes_never_get_the_same_port() -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", RESERVE_MANY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    ports = []
    for process in processes:
        assert process.stdout is not None
        ports += json.loads(process.stdout.readline())
    for process in processes:
        process.communicate("")
    assert len(ports) == len(set(ports)) == 6 * 200


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_no_automatic_choice_takes_a_reserved_port(options: tuple[int, ...]) -> None:
    with reserve_port(HOST) as reservation, socket.socket() as other, socket.socket() as listener, socket.socket() as client:
        port = reservation.getsockname()[1]
        only_this = struct.pack("I", port << 16 | port)
        try:
            other.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, only_this)
        except OSError:
            pytest.skip("this kernel cannot narrow the choice to one port (before Linux 6.3)")
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((HOST, 0))
        client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, only_this)
        listener.bind((HOST, 0))
        listener.listen()
        with pytest.raises(OSError, match="Cannot assign"):
            client.connect(listener.getsockname())


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_the_server_itself_gets_it_and_all_its_connections(option: int, host: str) -> None:
    with reserve_port(HOST) as reservation, socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind((host, reservation.getsockname()[1]))
        server.listen()
        for _ in range(20):
            with socket.create_connection(reservation.getsockname(), timeout=10), server.accept()[0]:
                pass


def test_connections_are_refused_until_the_server_listens() -> None:
    with reserve_port(HOST) as reservation, pytest.raises(ConnectionRefusedError):
        socket.create_connection(reservation.getsockname(), timeout=10)


def test_port_is_free_again_after_a_server_with_connections() -> None:
    """Connections in TIME_WAIT neither keep the next server of the same reservation from its port."""
    with reserve_port(HOST) as reservation:
        for _ in range(2):
            with http.server.HTTPServer(reservation.getsockname(), http.server.BaseHTTPRequestHandler) as server:
                client = socket.create_connection(reservation.getsockname(), timeout=10)
                server.socket.accept()[0].close()
                client.close()


def test_asyncio_servers_get_it() -> None:
    async def serve(port: int) -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, port)
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        server.close()

    with reserve_port(HOST) as reservation:
        asyncio.run(serve(reservation.getsockname()[1]))
