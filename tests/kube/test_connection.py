"""Which cluster is meant, and what is said of one that cannot be used."""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api_server import ApiServer
from tests.kube.reaching import connected
from tuner.errors import NotReadyError
from tuner.finding import Finding
from tuner.kube import connection as module
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect, in_cluster
from tuner.kube.errors import ApiError
from tuner.kube.resources import POD


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a home with a kubeconfig nor a pod nor a proxy around the tests."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "SERVICE_ACCOUNT", tmp_path / "serviceaccount")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


def kubeconfig(path: Path, contexts: Mapping[str, str | None], url: str = "http://127.0.0.1:1", **others: Any) -> Path:
    """Writes one with these contexts and their namespaces; the first is the current one, unless told otherwise."""
    named = [{"name": name, "context": {"cluster": name, "user": name, "namespace": space}} for name, space in contexts.items()]
    content: dict[str, Any] = {
        "clusters": [{"name": name, "cluster": {"server": url}} for name in contexts],
        "users": [{"name": name, "user": {"token": f"token-of-{name}"}} for name in contexts],
        "contexts": named,
        "current-context": next(iter(contexts), None),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({key: value for key, value in (content | others).items() if value is not None}))
    return path


def token(cluster: Cluster) -> str:
    """The one that the cluster is asked with."""
    header: dict[str, str] = {}
    cluster.client.update_params_for_auth(header, [], ["BearerToken"], "/", "GET", None)
    return header.get("authorization", "")


def not_ready(address: Address) -> str:
    with pytest.raises(NotReadyError) as caught:
        connect(address)
    text = str(caught.value)
    assert "\n" not in text
    assert "token-of" not in text
    assert_remedy(text)
    return text


def assert_remedy(text: str) -> None:
    """What stands behind the last colon or semicolon is shown as the remedy: it must tell what to do."""
    fix = Finding.failure(NotReadyError(text)).fix
    assert re.match(r"(bind|check|choose|correct|give|install|leave|log|make|name|start|try) ", fix), text


class TestWhichCluster:
    def test_named_kubeconfig(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "other", {"other": None})))
        cluster = connect(Address(str(kubeconfig(tmp_path / "mine", {"mine": None}))))
        assert cluster.title == "context mine (http://127.0.0.1:1)"
        assert token(cluster) == "Bearer token-of-mine"

    def test_named_one_in_the_home(self, tmp_path: Path) -> None:
        kubeconfig(tmp_path / "home/mine", {"mine": None})
        assert connect(Address("~/mine")).title.startswith("context mine ")

    def test_environment_before_the_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kubeconfig(tmp_path / "home/.kube/config", {"home": None})
        assert connect(Address()).title.startswith("context home ")
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "other", {"other": None})))
        assert connect(Address()).title.startswith("context other ")

    def test_several_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = kubeconfig(tmp_path / "1", {"one": None}), kubeconfig(tmp_path / "2", {"two": "there"})
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(("", str(tmp_path / "missing"), str(first), str(second))))
        cluster = connect(Address(context="two"))
        assert (cluster.title, cluster.namespace) == ("context two (http://127.0.0.1:1)", "there")
        assert token(cluster) == "Bearer token-of-two"
        assert connect(Address(context="one")).namespace == "default"

    def test_named_context_where_none_is_current(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": None}, **{"current-context": None}))
        assert connect(Address(path, context="b")).title.startswith("context b ")
        assert "does not say which context to use; choose one of a, b" in not_ready(Address(path))

    def test_named_context_where_the_current_one_is_gone(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": None}, **{"current-context": "gone"}))
        assert connect(Address(path, context="b")).title.startswith("context b ")
        assert "has no context gone; choose one of a, b" in not_ready(Address(path))

    def test_namespaces(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": "own"}))
        assert connect(Address(path)).namespace == "default"
        assert connect(Address(path, context="b")).namespace == "own"
        assert connect(Address(path, context="b", namespace="mine")).namespace == "mine"

    def test_settings_of_others_in_this_process_do_not_matter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from kubernetes.client import Configuration

        monkeypatch.setattr(Configuration, "_default", None)
        Configuration.set_default(Configuration(host="http://elsewhere", api_key={"BearerToken": "Bearer another"}))
        path = kubeconfig(tmp_path / "c", {"a": None}, users=[])
        assert token(connect(Address(str(path)))) == ""


class TestUnusable:
    def test_no_such_file(self, tmp_path: Path) -> None:
        assert not_ready(Address(str(tmp_path / "none"))).startswith(
            f"backend.kubeconfig: there is no file {tmp_path / 'none'}; leave it out"
        )

    def test_no_such_file_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", "/no/such/file")
        assert not_ready(Address()) == "KUBECONFIG=/no/such/file: there is no such file; correct or unset it"

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not_ready(Address(str(tmp_path))) == f"backend.kubeconfig: {tmp_path} is a directory; name the file in it"
        monkeypatch.setenv("KUBECONFIG", str(tmp_path))
        assert not_ready(Address()) == f"KUBECONFIG={tmp_path}: it is a directory; correct or unset it"

    def test_no_cluster_at_all(self) -> None:
        assert not_ready(Address()).startswith("no cluster is configured: ")
        assert not in_cluster()

    def test_no_such_context(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": None}))
        assert not_ready(Address(path, context="c")) == f"backend.context: {path} has no context c; choose one of a, b"
        other = str(kubeconfig(tmp_path / "d", {}))
        for named in (None, "c"):
            assert not_ready(Address(other, context=named)) == (
                f"backend.context: {other} has no contexts at all; name another file with backend.kubeconfig=..."
            )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a: [",
            "just words",
            "- a list",
            "contexts: 3",
            "contexts: [{name: a}]\ncurrent-context: a",
            "\x00",
            "contexts: [{context: {}}]",
        ],
    )
    def test_no_kubeconfig(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "c"
        path.write_text(text)
        message = not_ready(Address(str(path)))
        assert message.startswith(("backend.kubeconfig: ", "backend.context: "))
        assert str(path) in message

    @pytest.mark.parametrize("text", ["just words", "- a list", "3", "contexts: 3", "contexts: [3]", "contexts: {a: {}}"])
    def test_another_yaml_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "c").write_text(text)
        assert not_ready(Address(str(tmp_path / "c"))) == (
            f"backend.kubeconfig: {tmp_path / 'c'} is no kubeconfig: name another file, or make `kubectl config view` work with it"
        )

    def test_a_key_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "c"
        path.write_text("contexts: [{name: a}]\ncurrent-context: a")
        assert "is no kubeconfig (it lacks 'context'): name another file" in not_ready(Address(str(path)))

    @pytest.mark.parametrize("missing", ["cluster", "certificate"])
    def test_parts_that_are_missing(self, tmp_path: Path, missing: str) -> None:
        authority = {"server": "https://127.0.0.1:1", "certificate-authority": str(tmp_path / "none.crt")}
        clusters = [{"name": "a", "cluster": authority}] if missing == "certificate" else []
        assert "cannot be used" in not_ready(Address(str(kubeconfig(tmp_path / "c", {"a": None}, clusters=clusters))))

    def test_unreadable_file(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "c", {"a": None})
        path.write_bytes(b"\xff\xfe\xfa")
        assert "cannot be read" in not_ready(Address(str(path)))


class TestCredentials:
    def by_command(self, folder: Path, command: str, *arguments: str) -> Address:
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": list(arguments), "interactiveMode": "Never"}
        users = [{"name": "a", "user": {"exec": plugin}}]
        return Address(str(kubeconfig(folder / "c", {"a": None}, users=users)))

    def test_of_a_command(self, tmp_path: Path) -> None:
        answer = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-the-command"}}'
        assert token(connect(self.by_command(tmp_path, sys.executable, "-c", f"print('''{answer}''')"))) == "Bearer from-the-command"

    def test_of_a_command_that_is_not_installed(self, tmp_path: Path) -> None:
        message = not_ready(self.by_command(tmp_path, "no-such-plugin"))
        assert message.endswith("gets its credentials from no-such-plugin, which is not installed: install it, or put its folder into PATH")

    def test_of_no_command(self, tmp_path: Path) -> None:
        users = [{"name": "a", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}}]
        message = not_ready(Address(str(kubeconfig(tmp_path / "c", {"a": None}, users=users))))
        assert message.endswith("has a user with exec, but without a command; name one with which `kubectl get pods` works")

    def test_what_the_client_logs_of_a_command_is_in_the_message(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        program = "import sys; sys.exit('log in\\nfirst')"
        assert "which failed (exec: process returned 1. log in first): make" in not_ready(
            self.by_command(tmp_path, sys.executable, "-c", program)
        )
        not_ready(self.by_command(tmp_path, "no-such-plugin"))
        assert caplog.records == []

    def test_what_others_log_meanwhile_is_kept(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def as_the_client(text: str) -> None:
            exec(compile(f"logging.error({text!r})", "kube_config.py", "exec"), {"logging": logging})

        def load(**_: Any) -> None:
            logging.warning("of this thread")
            other = threading.Thread(target=as_the_client, args=("of another thread",))
            other.start()
            other.join()
            as_the_client("of the command")

        monkeypatch.setattr(module.config, "load_kube_config", load)
        connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}))))
        as_the_client("afterwards")
        assert [record.getMessage() for record in caplog.records] == ["of this thread", "of another thread", "afterwards"]

    @pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('{}')", "print('log in first')"])
    def test_of_a_command_that_gives_none(self, tmp_path: Path, program: str) -> None:
        assert "which failed" in not_ready(self.by_command(tmp_path, sys.executable, "-c", program))

    def test_of_a_file_with_the_end_of_a_line(self, server: ApiServer, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(f"{server.token}\n")
        users = [{"name": "a", "user": {"tokenFile": str(tmp_path / "token")}}]
        cluster = connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, server.url, users=users))))
        assert cluster.ask("/version")["major"]
        assert cluster.ask("/version")["major"]

    def test_none(self, server: ApiServer, tmp_path: Path) -> None:
        cluster = connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, server.url, users=[]))))
        with pytest.raises(ApiError, match="anonymous"):
            cluster.list(POD)

    def test_name_and_password(self, tmp_path: Path) -> None:
        users = [{"name": "a", "user": {"username": "u", "password": "p"}}]
        cluster = connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, users=users))))
        assert token(cluster) == f"Basic {base64.b64encode(b'u:p').decode()}"


class TestProxy:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")

    def test_none_for_this_host(self, server: ApiServer, tmp_path: Path) -> None:
        assert connected(server, tmp_path).ask("/version")["major"]
        for host in ("localhost", "127.0.0.2", "[::1]"):
            assert connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, f"https://{host}:1")))).client.configuration.proxy is None

    def test_that_of_the_environment_for_others(self, tmp_path: Path) -> None:
        cluster = connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, "https://example.com:6443"))))
        assert cluster.client.configuration.proxy == "http://127.0.0.1:9"

    def test_that_of_the_kubeconfig_for_all(self, tmp_path: Path) -> None:
        clusters = [{"name": "a", "cluster": {"server": "http://localhost:1", "proxy-url": "http://127.0.0.1:7"}}]
        cluster = connect(Address(str(kubeconfig(tmp_path / "c", {"a": None}, clusters=clusters))))
        assert cluster.client.configuration.proxy == "http://127.0.0.1:7"


class Client:
    """A double of the client, because the real one reads the certificate when it is made."""

    def __init__(self, configuration: Any) -> None:
        self.configuration = configuration


class TestInCluster:
    @pytest.fixture(autouse=True)
    def pod(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        self.account = tmp_path / "serviceaccount"
        self.account.mkdir()
        for name, text in (("token", "token-of-pod"), ("ca.crt", "certificate"), ("namespace", "of-the-pod\n")):
            (self.account / name).write_text(text)

    @pytest.fixture(autouse=True)
    def any_certificate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ApiClient", lambda configuration: Client(configuration))

    def test_service_account(self) -> None:
        assert in_cluster()
        cluster = connect(Address())
        assert (cluster.title, cluster.namespace) == ("this pod (https://10.0.0.1:443)", "of-the-pod")
        configuration = cluster.client.configuration
        assert configuration.get_api_key_with_prefix("BearerToken").lower() == "bearer token-of-pod"
        assert configuration.ssl_ca_cert == str(self.account / "ca.crt")
        assert connect(Address(namespace="mine")).namespace == "mine"

    def test_kubeconfig_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None}))
        assert connect(Address(path)).title.startswith("context a ")
        monkeypatch.setenv("KUBECONFIG", path)
        assert connect(Address()).title.startswith("context a ")

    def test_context_needs_a_kubeconfig(self) -> None:
        assert "no cluster is configured" in not_ready(Address(context="a"))

    @pytest.mark.parametrize("missing", ["ca.crt", "namespace"])
    def test_incomplete(self, missing: str) -> None:
        (self.account / missing).unlink()
        assert "the service account of this pod cannot be used" in not_ready(Address())

    def test_pod_without_a_token(self) -> None:
        (self.account / "token").unlink()
        assert not in_cluster()
        assert "no cluster is configured" in not_ready(Address())
