"""Starts a real kube-apiserver with etcd, where KUBEBUILDER_ASSETS names a folder with both: the convention of envtest.

What it cannot do, for there is no kubelet port and no controller: logs and port-forwards (500, no preferred addresses), faults on
command, garbage collection (`tests.cluster.owner_deletion` plays it). Tests that need one of the first three skip.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ASSETS = "KUBEBUILDER_ASSETS"
_START_S = 60.0
_STOP_S = 20.0


def assets() -> Path | None:
    """The folder with `kube-apiserver` and `etcd`, or None where there is none."""
    named = os.environ.get(ASSETS)
    if not named:
        return None
    folder = Path(named)
    return folder if all((folder / name).is_file() for name in ("kube-apiserver", "etcd")) else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def etcd_command(folder: Path, data: Path, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        str(folder / "etcd"),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def api_server_command(folder: Path, state: Path, etcd_port: int, port: int) -> list[str]:
    """Without the ServiceAccount admission, which waits for a controller; its own certificate is made in `state`."""
    return [
        str(folder / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--cert-dir={state}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        f"--token-auth-file={state / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={state / 'service-account.key'}",
        f"--service-account-signing-key-file={state / 'service-account.key'}",
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",
    ]


def kubeconfig(url: str, token: str, authority: Path, namespace: str | None) -> dict[str, object]:
    context: dict[str, str] = {"cluster": "envtest", "user": "envtest"} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "envtest", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "envtest", "user": {"token": token}}],
        "contexts": [{"name": "envtest", "context": context}],
        "current-context": "envtest",
    }


class RealApiServer:
    """The two processes, from construction to `stop`. `authority` is the file by which clients know its certificate."""

    def __init__(self, folder: Path) -> None:
        self._state = Path(tempfile.mkdtemp(prefix="envtest-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.token = secrets.token_hex(16)
        self.admin_token = self.token
        self.authority = self._state / "apiserver.crt"
        port, etcd_port, peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{port}"
        try:
            self._write_secrets()
            self._launch("etcd", etcd_command(folder, self._state / "etcd", etcd_port, peer_port))
            self._launch("kube-apiserver", api_server_command(folder, self._state, etcd_port, port))
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def kubeconfig(self, folder: Path, namespace: str | None = None) -> Path:
        """Writes a kubeconfig that leads here."""
        path = folder / "kubeconfig.yaml"
        path.write_text(yaml.safe_dump(kubeconfig(self.url, self.token, self.authority, namespace)))
        path.chmod(0o600)
        return path

    def stop(self) -> None:
        """Ends both, the API server first."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._state, ignore_errors=True)

    def _write_secrets(self) -> None:
        (self._state / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        key = self._state / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)

    def _launch(self, name: str, command: list[str]) -> None:
        with (self._state / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._ready():
            dead = next((process for process in self._processes if process.poll() is not None), None)
            if dead is not None or time.monotonic() > deadline:
                logs = {path.name: path.read_text(errors="replace")[-2000:] for path in self._state.glob("*.log")}
                raise RuntimeError(f"the API server did not start: {logs}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if not self.authority.exists():
            return False
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"})
        trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self.authority)))
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), trust).open(request, timeout=2) as reply:
                return bool(reply.status == 200)
        except (OSError, ValueError):
            return False
