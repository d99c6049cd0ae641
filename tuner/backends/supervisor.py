"""A small process between tuner and a server, which sees to it that the server and all its offspring end with tuner.

`local` starts this file with `python -I -S`; it uses the standard library alone and is ready in some 30 ms. It is

- the parent of the server, and by PR_SET_CHILD_SUBREAPER the foster parent of all its descendants, whatever session or group they moved
  to: a descendant whose own parent ends becomes a child of the supervisor (prctl(2)). So "no child is left" means "nothing is left";
- told of tuner's death by PR_SET_PDEATHSIG. The kernel sends that signal when the *thread* that started this process ends (prctl(2)), which
  may be a worker thread of a tuner in good health. It is therefore only a reason to look whether the parent process is still tuner;
- the reason for not using `preexec_fn` in tuner: that runs Python between fork and exec, which can deadlock where there are threads. This
  process has one thread.

Should the supervisor itself be killed, the server goes too, by its own parent-death signal; what the server forked is then found by the
mark in its environment (`tuner.backends.pid_file`).

Command line: pid of tuner, descriptor for the report, seconds of grace, then the server's argv. The report is one line of JSON,
`{"pid": n}` or `{"errno": n, "strerror": text}`. The exit code is the server's, as the shell counts it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_KILLED = 128 + signal.SIGKILL
_PARENT_GONE = signal.SIGUSR1
_STOP = {signal.SIGTERM, signal.SIGINT}
_AWAITED = {signal.SIGCHLD, _PARENT_GONE, *_STOP}


def main(arguments: list[str]) -> int:
    """Runs the server to its end and returns its exit code."""
    owner, report, grace_s, command = int(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3:]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited SIG_IGN would throw exit codes away
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)  # kept pending until `sigtimedwait` takes them: none is lost, none interrupts
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, _PARENT_GONE)
    if os.getppid() != owner:  # it died before the line above
        return _KILLED
    with os.fdopen(report, "w") as channel:
        try:
            server = _start(command)
        except OSError as error:
            channel.write(json.dumps({"errno": error.errno, "strerror": error.strerror}) + "\n")
            return 127
        channel.write(json.dumps({"pid": server.pid}) + "\n")
    try:
        return _watch(server.pid, owner, grace_s)
    finally:
        _kill_children()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()

    def in_server() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(_KILLED)

    return subprocess.Popen(command, start_new_session=True, preexec_fn=in_server)


def _watch(server: int, owner: int, grace_s: float) -> int:
    """Waits for the server's end, for an order to stop it, or for tuner's end. Returns the exit code."""
    deadline: float | None = None
    while True:
        code = _collect(server)
        if code is not None:
            return code
        if os.getppid() != owner:
            return _KILLED
        if deadline is None:
            received: int | None = signal.sigwait(_AWAITED)
        else:
            information = signal.sigtimedwait(_AWAITED, max(0.0, deadline - time.monotonic()))
            if information is None:
                return _KILLED
            received = information.si_signo
        if received in _STOP and deadline is None:
            deadline = time.monotonic() + grace_s
            os.killpg(server, signal.SIGTERM)  # not collected yet, so the group still exists


def _collect(server: int) -> int | None:
    """Takes the exit codes of all children that ended; returns the server's, if it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == server:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _kill_children() -> None:
    """Kills child after child until none is left. The children of a killed one become ours before it can be collected."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # a child that is not collected keeps its number: this never hits a stranger
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = str(os.getpid())
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == own:
            children.append(int(folder.name))
    return children


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # at once: there is nothing to tidy up, and tuner waits for the code
