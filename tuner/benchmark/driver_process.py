"""The near side of the warm driver: starts it, talks to it, and makes sure that it ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.client import Client
from tuner.errors import Systemic, Transient

DRIVER = (sys.executable, "-m", "tuner.benchmark.driver")
READY_S = 180.0
"""Start-up takes 4 to 7 s; a tokenizer from the hub is downloaded at first use."""
GRACE_S = 10.0
"""Seconds beyond a level's own limit after which the driver itself counts as hung."""
STOP_S = 2.0
POLL_S = 0.05
LOG_LINES = 40
NOTHING: dict[str, Any] = {"event": None}


class DriverProcess:
    """One driver process. The constructor returns at once; the first level waits until the process is ready.

    It ends by itself when this process ends, however that happens: its stdin does.

    Args:
        client: Settings of the load generator.
        argv: The driver's command line.
    """

    def __init__(self, client: Client, argv: tuple[str, ...] = DRIVER) -> None:
        self._client = client
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=client.environment(),
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._ready = False
        self._inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_replies, self._read_log)]
        for reader in self._readers:
            reader.start()
        self._send(
            {
                "tokenizer": client.tokenizer,
                "api_key": client.api_key,
                "dataset": client.dataset,
                "prompt_column": client.prompt_column,
                "request_params": dict(client.request_params),
            }
        )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def level(
        self,
        request: Mapping[str, object],
        max_time_s: float,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None,
    ) -> dict[str, Any]:
        """Runs one level and returns the driver's reply to it. Whatever goes wrong, no level is left running.

        Raises:
            ServerUnusable: `server_alive` became false and the driver has nothing to show.
            Transient: the driver ended or hangs.
            Systemic: the driver refuses its settings or the level.
        """
        self._wait_ready(server_alive)
        try:
            self._send({"command": "level", **request})
            deadline = time.monotonic() + max_time_s + GRACE_S
            stopping = False
            while True:
                message = self._receive()
                if message["event"] == "level":
                    return message
                if message["event"] == "progress" and on_progress:
                    on_progress(message["finished"])
                if not stopping and not server_alive():
                    self._send({"command": "stop"})
                    stopping, deadline = True, time.monotonic() + STOP_S
                if time.monotonic() >= deadline:
                    if stopping:
                        raise ServerUnusable("the server ended during the load level")
                    raise Transient(f"genai-bench did not end its load level within {max_time_s + GRACE_S:g} s", self._log_tail())
        except Systemic:
            raise
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process and its group, by force: it holds nothing that could be lost."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _wait_ready(self, server_alive: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        while not self._ready:
            self._ready = self._receive()["event"] == "ready"
            if not self._ready and not server_alive():
                raise ServerUnusable("the server ended before the load level")
            if time.monotonic() >= deadline:
                self.kill()
                raise Transient(f"genai-bench was not ready within {READY_S:g} s", self._log_tail())

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the end of its stdout says the same, with the log
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """The next message, or one without content when there is none for a moment."""
        try:
            message = self._inbox.get(timeout=POLL_S)
        except queue.Empty:
            return NOTHING
        if message is None:
            raise Transient(f"genai-bench ended by itself with exit code {self._process.wait()}", self._log_tail())
        if message["event"] == "refused":
            raise Systemic(f"genai-bench refuses its settings: {self._client.redact(message['reason'])}", self._log_tail())
        return message

    def _read_replies(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._inbox.put(json.loads(line))
        self._inbox.put(None)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(self._client.redact(line))

    def _log_tail(self) -> str:
        return "".join(self._log)
