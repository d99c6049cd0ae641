"""What a container does, and whether somebody else had a hand in its end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from docker.errors import NotFound
from docker.models.containers import Container

from tuner.backends.docker_connection import DAEMON_ERRORS

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ContainerState:
    """One look at a container.

    Attributes:
        running: Its first process runs; also while it is paused.
        paused: Somebody paused it.
        exit_code: As the shell counts it; means nothing while it runs.
        oom_killed: The kernel killed one of its processes, not necessarily the first, because memory ran out.
        started: When it was started last, as the daemon writes it.
        port: The host's port that leads to the server, or None where none is published, as after its end.
    """

    running: bool
    paused: bool
    exit_code: int
    oom_killed: bool
    started: str
    port: int | None

    @classmethod
    def of(cls, container: Container, patience_s: float = 0.0) -> Self | None:
        """Asks the daemon; None for a container that is gone.

        Args:
            container: Which one.
            patience_s: Seconds to wait for a daemon that does not answer.

        Raises:
            DAEMON_ERRORS: it did not answer in that time.
        """
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return cls.parse(container.client.api.inspect_container(container.id))
            except NotFound:
                return None
            except DAEMON_ERRORS:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_S)

    @classmethod
    def parse(cls, inspected: dict[str, Any]) -> Self:
        """Reads the answer to `docker inspect`."""
        state = inspected["State"]
        published = [binding for bindings in (inspected["NetworkSettings"].get("Ports") or {}).values() for binding in bindings or ()]
        return cls(
            running=state["Running"],
            paused=state["Paused"],
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            started=state["StartedAt"],
            port=int(published[0]["HostPort"]) if published else None,
        )


def stopped_from_outside(container: Container) -> bool:
    """Whether a container that has ended was stopped through Docker: by somebody, or by a daemon that stopped or restarted.

    A signal that Docker sends is an event, one that a process in the container sends is not. A daemon forgets its events when it ends, and
    `die`, which it notes in the same step as the end of a container (moby, daemon/monitor.go), is missing exactly where that daemon runs
    no more. Looked at soon after the end, the 256 events that a daemon keeps (moby, daemon/events) are enough.
    """
    client = container.client
    try:
        now = datetime.fromisoformat(client.info()["SystemTime"]).timestamp()  # by the daemon's clock, which may not be ours
        events = list(client.api.events(since=0, until=f"{now:.6f}", filters={"container": container.id}, decode=True))
    except DAEMON_ERRORS:
        return False
    actions = {event.get("Action") for event in events}
    return "kill" in actions or "die" not in actions
