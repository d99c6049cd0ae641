"""A second Docker daemon, for tests that kill it. It has a bridge of its own: without one it would delete that of the first."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import docker

from tests.conformance.backend import eventually


class PrivateDaemon:
    """A context manager; needs root. Leaving it stops the daemon and removes its containers, its images and its bridge.

    Its containerd is a process of its own, as under systemd, and survives when the daemon is killed.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tuner-dockerd-"))  # short: the path of a socket has at most 108 bytes
        self._bridge = f"tuner{secrets.token_hex(3)}"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder}/docker.sock"
        self.image = ""

    def __enter__(self) -> Self:
        _run("ip", "link", "add", "name", self._bridge, "type", "bridge")
        try:
            _run("ip", "addr", "add", f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}.1/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
            config = self._folder / "containerd.toml"
            config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
            folders = ["--root", str(self._folder / "containerd"), "--state", str(self._folder / "state")]
            self._containerd = self._start("containerd", "--config", str(config), "--address", self._socket, *folders)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @property
    def _socket(self) -> str:
        return str(self._folder / "containerd.sock")

    def start(self, *options: str) -> None:
        """Starts the daemon and waits until it answers."""
        self._daemon = self._start(
            *("dockerd", "--containerd", self._socket, "--bridge", self._bridge, "--host", self.url),
            *("--data-root", str(self._folder / "data"), "--exec-root", str(self._folder / "exec"), "--pidfile", str(self._folder / "pid")),
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false"),
            *options,
        )
        eventually(self._answers, f"an answer of dockerd; see {self._folder}/log")

    def kill(self) -> None:
        """As by `kill -9`: its containers live on."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def stop(self) -> None:
        """In order, as by `systemctl stop docker`: its containers are stopped."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait()

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.url)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self) -> bool:
        try:
            self.client().close()
        except docker.errors.DockerException:
            return False
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._daemon is not None:
                if self._daemon.poll() is not None:
                    self.start()
                self._remove_containers()
                self.stop()
        finally:
            if self._containerd is not None:
                self._containerd.terminate()
                self._containerd.wait()
            _run("ip", "link", "delete", self._bridge)
            mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for path in reversed([path for path in mounted if path.startswith(f"{self._folder}/")]):
                _run("umount", "--lazy", path)
            shutil.rmtree(self._folder)

    def _remove_containers(self) -> None:
        client = self.client()
        for container in client.containers.list(all=True, sparse=True):
            container.remove(v=True, force=True)
        client.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
