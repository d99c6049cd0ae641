"""Who holds a trial or a server: one process, told apart from every other, also from a later one with the same number."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h


@dataclass(frozen=True, slots=True)
class Owner:
    """The identity of a process.

    Attributes:
        host: Host name; inside a container with the number of its pid namespace, where the same pid means another process.
        pid: Process number.
        started: When the process started: seconds since boot on Linux, since the epoch elsewhere. The kernel's own figure, so that it is
            the same for every reader; a wall-clock time on Linux would move whenever the clock is set.
        boot: The kernel's id of this boot, empty where unknown: pid and seconds since boot may repeat after a reboot.
    """

    host: str
    pid: int
    started: float
    boot: str = ""

    @classmethod
    def current(cls) -> Self:
        """The calling process."""
        pid = os.getpid()
        started = process_started(pid)
        assert started is not None, "a running process has a start time"
        return cls(_host(), pid, started, _boot())

    def alive(self) -> bool:
        """False only when this owner certainly runs no more. True for one on another host, which cannot be asked."""
        if self.host != _host():
            return True
        if self.boot != _boot() and self.boot and _boot():
            return False
        return process_started(self.pid) == self.started

    @classmethod
    def living(cls, text: str) -> bool:
        """Whether the owner that `to_str` wrote may still run: False only when it certainly does not, True for what nobody can read."""
        try:
            return cls.parse(text).alive()
        except ValueError:
            return True

    def to_str(self) -> str:
        """As one word; `parse` reads it back."""
        return f"{self.host}:{self.pid}:{self.started!r}:{self.boot}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `to_str` wrote.

        Raises:
            ValueError: `text` is nothing of the kind.
        """
        fields = text.rsplit(":", 3)
        if len(fields) != 4:
            raise ValueError(f"not an owner: {text!r}")
        host, pid, started, boot = fields
        return cls(host, int(pid), float(started), boot)


def process_started(pid: int) -> float | None:
    """When process `pid` started (see `Owner.started`), or None when it is gone or only waits to be collected by its parent."""
    if not sys.platform.startswith("linux"):
        return _started_by_psutil(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # the command, field 2, stands in parentheses and may itself hold spaces and parentheses; state is field 3, start time field 22
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _started_by_psutil(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _host() -> str:
    name = socket.gethostname()
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return name
    return name if namespace == _INITIAL_PID_NAMESPACE else f"{name}/{namespace}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
