"""What is said of a cluster that does not answer, or refuses: one line with the cause and the remedy."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
import yaml

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import widget, widget_definition
from tests.conformance.backend import eventually
from tests.kube.raw_server import RawServer, whole
from tests.kube.reaching import UNKNOWN, WIDGET, anything, connected
from tests.kube.test_connection import assert_remedy, bare_environment, kubeconfig, server
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect, explain
from tuner.kube.errors import ApiError
from tuner.kube.resources import POD

__all__ = ["bare_environment", "server"]  # fixtures


class TestExplain:
    """One line each, with the cause and what to do."""

    def told(self, cluster: Cluster, doing: str = "list pods") -> str:
        with pytest.raises(ApiError) as caught:
            cluster.list(POD, patience_s=0.0)
        text = explain(caught.value, cluster, doing)
        assert "\n" not in text
        assert_remedy(text)
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
        assert "(it does not speak TLS there): check http or https in the server's address in the kubeconfig" in told

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
        assert told.endswith("check http or https in the server's address in the kubeconfig")

    def test_something_else_answers(self, tmp_path: Path) -> None:
        with RawServer(whole(b"<html></html>")) as strange:
            told = self.told(connect(Address(str(strange.kubeconfig(tmp_path)))))
        assert "does not answer (something else does): check the server's address in the kubeconfig" in told

    def test_something_else_knows_no_such_page(self, server: ApiServer, tmp_path: Path) -> None:
        server.faults.add(anything, status=404, body="<html>Not found</html>")
        assert "does not answer, something else does (404" in self.told(connected(server, tmp_path))

    def test_wrong_token(self, server: ApiServer, tmp_path: Path) -> None:
        told = self.told(self.at(tmp_path, server.url))
        assert "does not accept your credentials (" in told
        assert told.endswith("): log in anew, as your cluster's provider says")
        assert "token-of-a" not in told

    def test_no_token(self, server: ApiServer, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "c", {"a": None}, server.url, users=[])
        told = self.told(connect(Address(str(path))))
        assert told.endswith("was asked without credentials: give the context's user a token or a certificate in the kubeconfig")

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
