"""Which cluster is meant, and what is said of one that cannot be used."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import widget, widget_definition
from tests.conformance.backend import eventually
from tests.kube.raw_server import RawServer, whole
from tests.kube.reaching import UNKNOWN, WIDGET, anything, connected
from tuner.errors import NotReadyError
from tuner.kube import connection as module
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect, explain, in_cluster
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
    return text


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
        assert "does not say which context to use; it has a, b" in not_ready(Address(path))

    def test_named_context_where_the_current_one_is_gone(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": None}, **{"current-context": "gone"}))
        assert connect(Address(path, context="b")).title.startswith("context b ")
        assert "has no context gone; it has a, b" in not_ready(Address(path))

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

    def test_no_cluster_at_all(self) -> None:
        assert not_ready(Address()).startswith("no cluster is configured: ")
        assert not in_cluster()

    def test_no_such_context(self, tmp_path: Path) -> None:
        path = str(kubeconfig(tmp_path / "c", {"a": None, "b": None}))
        assert not_ready(Address(path, context="c")) == f"backend.context: {path} has no context c; it has a, b"
        assert "it has none" in not_ready(Address(str(kubeconfig(tmp_path / "d", {})), context="c"))

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
        assert message.endswith("gets its credentials from no-such-plugin, which is not installed: `kubectl get pods` must work with it")

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


class Client:
    """A double of the client, because the real one reads the certificate when it is made."""

    def __init__(self, configuration: Any) -> None:
        self.configuration = configuration


class TestExplain:
    """One line each, with the cause and what to do."""

    def told(self, cluster: Cluster, doing: str = "list pods") -> str:
        with pytest.raises(ApiError) as caught:
            cluster.list(POD, patience_s=0.0)
        text = explain(caught.value, cluster, doing)
        assert "\n" not in text
        return text

    def at(self, folder: Path, url: str) -> Cluster:
        return connect(Address(str(kubeconfig(folder / "c", {"a": None}, url))))

    def test_refused(self, tmp_path: Path) -> None:
        told = self.told(self.at(tmp_path, "http://127.0.0.1:1"))
        assert told == (
            "the Kubernetes API of context a (http://127.0.0.1:1) does not answer (connection refused): "
            "start the cluster, or choose another by backend.context and backend.kubeconfig"
        )

    def test_unknown_host(self, tmp_path: Path) -> None:
        told = self.told(self.at(tmp_path, "http://no-such-host.invalid:6443"))
        assert "(unknown host): check the server's address" in told or "(its name cannot be resolved): check the network" in told

    @pytest.mark.slow
    def test_no_way_there_is_noticed_soon(self, tmp_path: Path) -> None:
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(4):  # whoever comes later gets no answer at all
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            cluster, told = self.at(tmp_path, f"http://127.0.0.1:{full.getsockname()[1]}"), []
            threading.Thread(target=lambda: told.append(self.told(cluster)), daemon=True).start()
            eventually(lambda: told, "the answer, long before the operating system gives up")
        assert " does not answer (no answer in time): " in told[0]

    def test_no_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from tuner.kube import cluster as transport

        monkeypatch.setattr(transport, "ANSWER_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            told = self.told(self.at(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        assert "does not answer (no answer in time): check the network and VPN" in told

    def test_tls_where_there_is_none(self, server: ApiServer, tmp_path: Path) -> None:
        told = self.told(self.at(tmp_path, server.url.replace("http:", "https:")))
        assert "(it does not speak TLS there): check the server's address in the kubeconfig" in told

    def test_certificate_that_is_not_trusted(self, tmp_path: Path) -> None:
        with RawServer(whole(b"{}"), tls=True) as strange:
            path = strange.kubeconfig(tmp_path)
            content = yaml.safe_load(path.read_text())
            del content["clusters"][0]["cluster"]["certificate-authority"]
            path.write_text(yaml.safe_dump(content))
            told = self.told(connect(Address(str(path))))
        assert "(its certificate is not trusted): check certificate-authority-data in the kubeconfig" in told

    def test_no_tls_where_there_is_some(self, tmp_path: Path) -> None:
        with RawServer(whole(b"{}"), tls=True) as strange:
            url = yaml.safe_load(strange.kubeconfig(tmp_path).read_text())["clusters"][0]["cluster"]["server"]
            told = self.told(self.at(tmp_path, url.replace("https:", "http:")))
        assert "does not answer (" in told
        assert told.endswith("check the server's address in the kubeconfig: http or https")

    def test_something_else_answers(self, tmp_path: Path) -> None:
        with RawServer(whole(b"<html></html>")) as strange:
            told = self.told(connect(Address(str(strange.kubeconfig(tmp_path)))))
        assert "does not answer (something else does): check the server's address in the kubeconfig" in told

    def test_something_else_knows_no_such_page(self, server: ApiServer, tmp_path: Path) -> None:
        server.faults.add(anything, status=404, body="<html>Not found</html>")
        assert "does not answer, something else does (404" in self.told(connected(server, tmp_path))

    def test_wrong_token(self, server: ApiServer, tmp_path: Path) -> None:
        told = self.told(self.at(tmp_path, server.url))
        assert "does not accept your credentials: log in anew" in told
        assert "token-of-a" not in told

    def test_no_token(self, server: ApiServer, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "c", {"a": None}, server.url, users=[])
        assert "was asked without credentials" in self.told(connect(Address(str(path))))

    def test_no_right(self, server: ApiServer, tmp_path: Path) -> None:
        server.permissions = lambda *asked: False
        told = self.told(connected(server, tmp_path))
        assert "does not allow to list pods (pods is forbidden: " in told
        assert told.endswith("bind the role of docs/kubernetes.md to this user or service account")

    def test_unknown_kind(self, server: ApiServer, tmp_path: Path) -> None:
        cluster = connected(server, tmp_path)
        with pytest.raises(ApiError) as caught:
            cluster.list(UNKNOWN)
        assert explain(caught.value, cluster, "list gadgets").endswith(
            "does not know what list gadgets needs: install OME, see docs/kubernetes.md"
        )

    def test_refusal_of_another_kind(self, server: ApiServer, tmp_path: Path) -> None:
        server.install(widget_definition())
        server.seed(widget("a"))
        cluster = connected(server, tmp_path)
        with pytest.raises(ApiError) as caught:
            cluster.create(WIDGET, widget("a"))
        assert "failed to create a widget (409 AlreadyExists: " in explain(caught.value, cluster, "create a widget")

    def test_busy(self, server: ApiServer, tmp_path: Path) -> None:
        server.faults.add(anything, status=503, times=None)
        assert self.told(connected(server, tmp_path)).endswith("try again")
