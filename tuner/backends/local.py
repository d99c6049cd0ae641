"""The backend `local`: a server is a process of this host, with its engine installed here."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tuner.backends import supervisor
from tuner.backends.base import DIAGNOSIS_LINES, Backend, Deployment, Place
from tuner.backends.log_file import LOG_NAME, tail
from tuner.backends.pid_file import PidFile, default_folder, is_private
from tuner.backends.port import reserve_port
from tuner.errors import NotReadyError, Systemic, Transient, TrialFailure
from tuner.gpus import GpuSlots
from tuner.launch import Endpoint, ExitStatus, LaunchSpec

_LOG = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_FORCED_STOP_S = 5.0
_EXHAUSTED = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRINUSE, errno.ETXTBSY}


class Local(Backend):
    """Starts servers as processes of this host, on loopback.

    Each server leads its own session, under a supervisor that ends it and all its offspring when tuner ends in whatever way.

    Args:
        gpus: Whose GPUs the servers see; None hides none.
        runtime_dir: Directory for pid files, by default `pid_file.default_folder()`.
        stop_grace_s: Seconds between SIGTERM and SIGKILL when a deployment is closed.
    """

    name = "local"

    def __init__(self, gpus: GpuSlots | None = None, runtime_dir: Path | None = None, stop_grace_s: float = 10.0) -> None:
        self._gpus = gpus or GpuSlots(None)
        self._runtime_dir = runtime_dir or default_folder()
        self._stop_grace_s = stop_grace_s

    def check(self) -> None:
        if not sys.platform.startswith("linux"):
            raise NotReadyError(f"backend=local needs Linux, this is {sys.platform}: run tuner on a Linux host")
        try:
            self._runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            private = is_private(self._runtime_dir)
        except OSError as error:
            raise NotReadyError(f"cannot write pid files to {self._runtime_dir} ({error.strerror}): set XDG_STATE_HOME") from error
        if not private or not os.access(self._runtime_dir, os.W_OK | os.X_OK):
            raise NotReadyError(f"{self._runtime_dir} must belong to you and be writable for you alone: chmod 700, or set XDG_STATE_HOME")
        for pid_file in PidFile.read_all(self._runtime_dir):
            if pid_file.owned():
                _LOG.warning("another tuner measures study %s on this host: each disturbs the numbers of the other", pid_file.study)

    def deploy(self, spec: LaunchSpec, place: Place) -> Deployment:
        log_path = place.folder / LOG_NAME
        with ExitStack() as held:
            gpus = self._gpus.take(spec.gpus)
            held.callback(self._gpus.give_back, gpus)
            try:
                reservation = held.enter_context(reserve_port(_HOST))
            except OSError as error:
                raise _failure(f"no port of {_HOST} can be had", error, "end programs that hold ports") from error
            port = reservation.getsockname()[1]
            try:
                pid_file = PidFile.create(self._runtime_dir, place.study, place.trial)
            except OSError as error:
                raise _failure(f"cannot write pid files to {self._runtime_dir}", error, "set XDG_STATE_HOME") from error
            try:
                # unbuffered: what a Python server wrote before it was killed is the evidence
                environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(spec.env) | _visible(gpus) | pid_file.environment()
                process, pid = _start(spec.bound(_HOST, port), environment, log_path, self._stop_grace_s)
                try:
                    pid_file = pid_file.started_as(pid)
                except OSError as error:
                    raise _failure(f"cannot write {pid_file.path}", error, "free disk space") from error
            except BaseException:
                pid_file.remove()
                raise
            endpoint = Endpoint(f"http://{_HOST}:{port}", spec.served_model)
            return LocalDeployment(endpoint, log_path, process, pid_file, held.pop_all(), self._stop_grace_s + _FORCED_STOP_S)

    def reap(self) -> list[str]:
        lines = []
        for pid_file in PidFile.read_all(self._runtime_dir):
            if pid_file.owned():
                continue
            if pids := pid_file.remove():
                numbers = ", ".join(map(str, pids))
                lines.append(f"removed the server of study {pid_file.study}, trial {pid_file.trial}, left by a dead tuner (pids {numbers})")
        return lines


class LocalDeployment(Deployment):
    """A server of `Local`; made by `Local.deploy`.

    Args:
        endpoint: Where it answers.
        log_path: Its log.
        process: Its supervisor.
        pid_file: What is written down about it.
        held: Its port and GPUs, which others may have when it is gone.
        stop_limit_s: Seconds that an orderly stop may take.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        log_path: Path,
        process: subprocess.Popen[bytes],
        pid_file: PidFile,
        held: ExitStack,
        stop_limit_s: float,
    ) -> None:
        self.endpoint = endpoint
        self.log_path = log_path
        self._process = process
        self._pid_file = pid_file
        self._held = held
        self._stop_limit_s = stop_limit_s
        self._oom_kills = oom_kills()
        self._stopped = False
        self._status: ExitStatus | None = None

    def exit_status(self) -> ExitStatus | None:
        if self._status is None and (returned := self._process.poll()) is not None:
            code = returned if returned >= 0 else 128 - returned
            # a SIGKILL that is not ours, and the kernel has counted a victim meanwhile
            oom_killed = code == 137 and not self._stopped and oom_kills() > self._oom_kills
            self._status = ExitStatus(code, oom_killed, self.log_tail(DIAGNOSIS_LINES))
        return self._status

    def log_tail(self, lines: int = 40) -> str:
        return tail(self.log_path, lines)

    def close(self) -> None:
        try:
            if self.exit_status() is None:
                self._stopped = True
                self._process.terminate()
                self._process.wait(self._stop_limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when a second Ctrl-C interrupts the wait: then by force
            self._remove()

    def _remove(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.returncode < 0:  # the supervisor was killed: it could not see to the rest
            self._pid_file.remove()
        else:
            self._pid_file.forget()
        self._held.close()


def _visible(gpus: Sequence[str] | None) -> dict[str, str]:
    """The variables that hide all other GPUs from a server, and number its own as NVML does.

    See https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    return {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _start(argv: list[str], environment: dict[str, str], log_path: Path, grace_s: float) -> tuple[subprocess.Popen[bytes], int]:
    """Starts the supervisor and through it the server. Returns the supervisor, and the server's pid."""
    try:
        log = log_path.open("wb")
    except OSError as error:
        raise _failure(f"cannot write {log_path}", error, "check the study's folder and the free disk space") from error
    with log:
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise _failure("cannot start a process", error, "raise `ulimit -n`") from error
        with os.fdopen(reader) as report:
            try:
                # -I and -S: nothing of the server's environment or of site-packages gets into the supervisor
                command = [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(writer), str(grace_s), *argv]
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=(writer,),
                    start_new_session=True,
                )
            except OSError as error:
                raise _failure("cannot start a process", error, "see `ulimit -u` and the free memory") from error
            finally:
                os.close(writer)
            try:
                answer = json.loads(report.readline() or "{}")
                if "pid" in answer:
                    return process, int(answer["pid"])
                process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
    if "errno" in answer:
        fix = "set engine.executable to the server's program, or activate the environment that has it"
        raise _failure(f"engine.executable: cannot start {argv[0]!r}", OSError(answer["errno"], answer["strerror"]), fix)
    raise Transient("the server's supervisor ended before it started the server", tail(log_path))


def _failure(what: str, error: OSError, fix: str) -> TrialFailure:
    kind = Transient if error.errno in _EXHAUSTED else Systemic
    return kind(f"{what} ({error.strerror}): {fix}")


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory since boot, cgroup limits included (`oom_kill`, since Linux 4.13)."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
