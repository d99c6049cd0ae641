from __future__ import annotations

import json
import os
import socket
from hashlib import sha256
from pathlib import Path

import docker
import pytest
import requests
import urllib3

from tuner.backends.docker_connection import DAEMON_ERRORS, Address, answers, connect, elsewhere, is_away, is_loopback, unreachable
from tuner.errors import NotReadyError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without any configuration of Docker."""
    for name in list(os.environ):
        if name.startswith("DOCKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def make_context(home: Path, name: str, host: str, current: bool = False) -> None:
    folder = home / ".docker/contexts/meta" / sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    content = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (folder / "meta.json").write_text(json.dumps(content))
    (home / ".docker/config.json").write_text(json.dumps({"currentContext": name} if current else {}))


class TestAddress:
    def test_is_the_default_socket(self) -> None:
        assert Address.current() == Address("unix:///var/run/docker.sock")

    def test_is_that_of_the_current_context(self, home: Path) -> None:
        make_context(home, "gpu", "tcp://gpu-host:2375", current=True)
        assert Address.current().url == "tcp://gpu-host:2375"

    def test_is_rather_that_of_docker_context(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_context(home, "other", "ssh://me@other-host")
        make_context(home, "gpu", "tcp://gpu-host:2375", current=True)
        monkeypatch.setenv("DOCKER_CONTEXT", "other")
        assert Address.current().url == "ssh://me@other-host"

    def test_is_before_all_docker_host(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_context(home, "gpu", "tcp://gpu-host:2375", current=True)
        monkeypatch.setenv("DOCKER_CONTEXT", "gpu")
        monkeypatch.setenv("DOCKER_HOST", "unix:///tmp/d.sock")
        assert Address.current() == Address("unix:///tmp/d.sock")

    def test_of_a_context_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_CONTEXT", "nope")
        with pytest.raises(NotReadyError, match=r"^DOCKER_CONTEXT=nope does not exist: see `docker context ls`, or set DOCKER_HOST$"):
            Address.current()

    def test_of_a_damaged_context(self, home: Path) -> None:
        make_context(home, "gpu", "tcp://gpu-host:2375", current=True)
        next(home.rglob("meta.json")).write_text("{")
        with pytest.raises(NotReadyError, match=r"address cannot be read .*corrupted meta file"):
            Address.current()

    @pytest.mark.parametrize("url", ["foo://bar", "tcp://", "tcp://host", "tcp://host:port"])
    def test_that_makes_no_sense(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("DOCKER_HOST", url)
        for ask in (Address.current, elsewhere):
            with pytest.raises(NotReadyError, match="address cannot be read") as caught:
                ask()
            assert "\n" not in str(caught.value)

    def test_with_certificates_that_are_missing(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-host:2376")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        with pytest.raises(NotReadyError, match="DOCKER_CERT_PATH"):
            Address.current()
        (home / ".docker").mkdir()
        for name in ("ca.pem", "cert.pem", "key.pem"):
            (home / ".docker" / name).write_text("")
        address = Address.current()
        assert address.tls is not None
        assert address.tls.verify

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("unix:///var/run/docker.sock", None),
            ("unix://var/run/docker.sock", None),
            ("tcp://127.0.0.1:2375", None),
            ("tcp://[::1]:2375", None),
            ("tcp://localhost:2375", None),
            ("ssh://me@localhost", None),
            ("tcp://gpu-host:2376", "gpu-host"),
            ("https://10.0.0.7:2376", "10.0.0.7"),
            ("gpu-host:2375", "gpu-host"),
            ("ssh://me@gpu-host:2222", "gpu-host"),
        ],
    )
    def test_tells_the_host(self, monkeypatch: pytest.MonkeyPatch, url: str, host: str | None) -> None:
        monkeypatch.setenv("DOCKER_HOST", url)
        assert Address.current().host == host
        assert elsewhere() == (host is not None)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost", "x.localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gpu-host")))


class TestConnect:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("unix:///no/such.sock", r"\(no socket\): install or start Docker"),
            ("tcp://127.0.0.1:1", r"\(connection refused\): start Docker on that host"),
            ("ssh://me@gpu-host.invalid", r"paramiko|unknown host"),
        ],
    )
    def test_without_an_answer(self, monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
        monkeypatch.setenv("DOCKER_HOST", url)
        with pytest.raises(NotReadyError, match=words) as caught:
            connect()
        assert str(caught.value).startswith(f"the Docker daemon at {url} does not answer (")
        assert "\n" not in str(caught.value)

    def test_to_what_is_no_daemon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setattr("tuner.backends.docker_connection._FIRST_ANSWER_S", 0.2)
            with pytest.raises(NotReadyError, match="no answer in time"):
                connect()

    def test_of_a_client_whose_daemon_is_gone(self, tmp_path: Path) -> None:
        client = docker.DockerClient(base_url=f"unix://{tmp_path}/docker.sock", version="1.41")
        assert not answers(client, 0.3)


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("('Connection aborted.', PermissionError(13, 'Permission denied'))", "permission denied", "usermod -aG docker"),
        ('400 Client Error: Bad Request ("Client sent an HTTP request to an HTTPS server.")', "it expects TLS", "DOCKER_TLS_VERIFY=1"),
        ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", "TLS fails", "DOCKER_CERT_PATH"),
        ("[Errno -2] Name or service not known", "unknown host", "docker context ls"),
        ("something\nelse", "DockerException: something else", "DOCKER_HOST"),
    ],
)
def test_causes(text: str, cause: str, remedy: str) -> None:
    line = unreachable("tcp://h:1", docker.errors.DockerException(text))
    assert line.startswith(f"the Docker daemon at tcp://h:1 does not answer ({cause}): ")
    assert remedy in line


def test_an_answer_is_told_from_none() -> None:
    response = requests.Response()
    response.status_code = 500
    for error, away in [
        (requests.exceptions.ConnectionError(), True),
        (requests.exceptions.ChunkedEncodingError(), True),
        (requests.exceptions.ReadTimeout(), True),
        (urllib3.exceptions.ProtocolError(), True),
        (docker.errors.APIError("x", response=response), False),
        (docker.errors.DockerException(), False),
    ]:
        assert is_away(error) == away
        assert isinstance(error, DAEMON_ERRORS)
