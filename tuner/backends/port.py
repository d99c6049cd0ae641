"""A TCP port for a server that starts later, which nobody else is given meanwhile."""

from __future__ import annotations

import socket


def reserve_port(host: str) -> socket.socket:
    """Binds a free port of `host` and keeps it: the caller holds the socket, which never listens, as long as the server may run.

    To ask for a free port and to close the socket again leaves a gap in which another tuner gets the same one, and an engine that loads a
    model first binds minutes later. A bound socket that does not listen closes the gap. In Linux (`inet_bind_conflict` in
    net/ipv4/inet_connection_sock.c) it conflicts with every automatic choice, be it `bind` to port 0 or the local end of `connect`; it does
    not conflict with a `bind` to this very port by a socket that shares SO_REUSEADDR with it, or SO_REUSEPORT and the user. Servers set one
    or the other: asyncio (uvicorn, SGLang), vLLM, Go and `http.server` the first, cpp-httplib (llama.cpp) the second; so both are set here.
    Incoming connections go only to sockets that listen; until the server does, they are refused.

    A server that sets neither option fails with "Address already in use". No engine known to tuner is such a one.

    Raises:
        OSError: no port or no file descriptor is left.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind((host, 0))
    except OSError:
        reservation.close()
        raise
    return reservation
