"""Requests to one cluster, and its patience, against the API server double."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import config_map, pod, widget
from tests.conformance.backend import eventually
from tests.kube.raw_server import RawServer, whole
from tests.kube.reaching import CONFIG_MAP, UNKNOWN, WIDGET, anything, asked, names, widgets_in
from tuner.kube import cluster as module
from tuner.kube.cluster import Cluster, labelled
from tuner.kube.connection import Address, connect
from tuner.kube.errors import ApiError
from tuner.kube.resources import NODE, POD, uid_of


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return widgets_in(server, tmp_path)


@pytest.fixture
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for an answer for a moment only."""
    monkeypatch.setattr(module, "ANSWER_S", 0.2)


class TestObjects:
    def test_life_of_one(self, cluster: Cluster) -> None:
        made = cluster.create(WIDGET, widget("a"))
        found = cluster.get(WIDGET, "a")
        assert found is not None
        assert uid_of(found) == uid_of(made) != ""
        cluster.patch(WIDGET, "a", {"spec": {"model": "other"}, "metadata": {"labels": {"x": "1"}}})
        found = cluster.get(WIDGET, "a")
        assert found is not None
        assert (found["spec"]["model"], found["metadata"]["labels"]) == ("other", {"x": "1"})
        cluster.patch(WIDGET, "a", {"metadata": {"labels": {"x": None}}})
        found = cluster.get(WIDGET, "a")
        assert found is not None
        assert not found["metadata"].get("labels")
        cluster.delete(WIDGET, "a")
        eventually(lambda: cluster.get(WIDGET, "a") is None, "the end of the widget")

    def test_dry_run_is_checked_but_not_kept(self, server: ApiServer, cluster: Cluster) -> None:
        assert cluster.create(WIDGET, widget("a"), dry_run=True)["spec"]["replicas"] == 1
        with pytest.raises(ApiError, match="422"):
            cluster.create(WIDGET, widget("a") | {"spec": {"model": 1}}, dry_run=True)
        assert server.objects("widgets") == []

    def test_list_by_labels_and_fields(self, server: ApiServer, cluster: Cluster) -> None:
        for name, run in (("a", "x"), ("b", "x"), ("c", "y")):
            server.seed(widget(name, labels={"kt.example.com/run": run}))
        labels = labelled({"kt.example.com/run": "x"})
        assert names(cluster.list(WIDGET, labels)[0]) == ["a", "b"]
        assert names(cluster.list(WIDGET, labels, "metadata.name=b")[0]) == ["b"]
        assert names(cluster.list(WIDGET, "kt.example.com/run in (x,y),!z")[0]) == ["a", "b", "c"]
        assert cluster.list(WIDGET, "kt.example.com/run=z")[0] == []

    def test_version_of_a_list_is_where_a_watch_goes_on(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        _, version = cluster.list(WIDGET)
        server.seed(widget("b"))
        with cluster.watch(WIDGET, version) as stream:
            line = next(iter(stream))
        assert ('"ADDED"' in line, '"name": "b"' in line, '"name": "a"' in line) == (True, True, False)

    def test_everywhere(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
        server.seed(config_map("a"))
        server.seed(config_map("b", namespace="other"))
        assert names(cluster.list(CONFIG_MAP)[0]) == ["a"]
        assert names(cluster.list(CONFIG_MAP, everywhere=True)[0]) == ["a", "b"]

    def test_outside_of_namespaces(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
        assert cluster.get(NODE, "n") is not None
        assert names(cluster.list(NODE)[0]) == names(cluster.list(NODE, everywhere=True)[0]) == ["n"]

    def test_other_paths(self, cluster: Cluster) -> None:
        assert cluster.ask("/version")["major"]
        assert "widgets" in str(cluster.ask("/apis/kt.example.com/v1"))

    def test_deletes_in_the_foreground_unless_told_otherwise(self, server: ApiServer, cluster: Cluster) -> None:
        for name in ("a", "b"):
            server.seed(widget(name))
        cluster.delete(WIDGET, "a")
        cluster.delete(WIDGET, "b", propagation="Background")
        bodies = [request.body for request in server.requests if request.method == "DELETE"]
        assert [body["propagationPolicy"] for body in bodies] == ["Foreground", "Background"]

    def test_deletes_only_the_object_that_is_meant(self, server: ApiServer, cluster: Cluster) -> None:
        uid = uid_of(server.seed(widget("a")))
        cluster.delete(WIDGET, "a", uid="another")
        assert names(server.objects("widgets")) == ["a"]
        cluster.delete(WIDGET, "a", uid=uid)
        eventually(lambda: not server.objects("widgets"), "the end of the widget")
        cluster.delete(WIDGET, "a", uid=uid)


class TestRefusals:
    def test_missing_object_is_none_and_missing_kind_is_not(self, cluster: Cluster) -> None:
        assert cluster.get(WIDGET, "a") is None
        with pytest.raises(ApiError) as caught:
            cluster.get(UNKNOWN, "a")
        assert (caught.value.status, caught.value.found_api, caught.value.passing) == (404, False, False)
        with pytest.raises(ApiError):
            cluster.list(UNKNOWN)

    @pytest.mark.parametrize("body", ["<html>no such page</html>", {"error": "no such cluster"}])
    def test_404_of_something_before_the_server_says_nothing_about_the_object(
        self, server: ApiServer, cluster: Cluster, body: dict[str, Any] | str
    ) -> None:
        server.faults.add(anything, status=404, body=body)
        with pytest.raises(ApiError, match="no such"):
            cluster.get(WIDGET, "a")

    @pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 501])
    def test_what_does_not_pass_is_not_repeated(self, server: ApiServer, cluster: Cluster, status: int) -> None:
        server.faults.add(anything, status=status, times=None)
        with pytest.raises(ApiError) as caught:
            cluster.get(WIDGET, "a")
        assert (caught.value.status, caught.value.passing, len(server.requests)) == (status, False, 1)

    def test_own_words_of_the_server(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        with pytest.raises(ApiError) as caught:
            cluster.create(WIDGET, widget("a"))
        assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
        assert caught.value.message == 'widgets.kt.example.com "a" already exists'

    def test_conflict_of_a_delete_without_uid_is_told(self, server: ApiServer, cluster: Cluster) -> None:
        server.faults.add(anything, status=409)
        with pytest.raises(ApiError, match="409"):
            cluster.delete(WIDGET, "a")

    def test_token_that_expires(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        assert cluster.get(WIDGET, "a") is not None
        server.faults.add(anything, status=401, times=None)
        with pytest.raises(ApiError, match="401 Unauthorized"):
            cluster.get(WIDGET, "a")
        server.faults.clear()
        assert cluster.get(WIDGET, "a") is not None


class TestPatience:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_busy_server_is_asked_again(self, server: ApiServer, cluster: Cluster, status: int) -> None:
        server.seed(widget("a"))
        server.faults.add(anything, status=status, times=1)
        assert cluster.get(WIDGET, "a") is not None
        assert len(server.requests) == 2

    def test_not_beyond_its_patience(self, server: ApiServer, cluster: Cluster) -> None:
        server.faults.add(anything, status=503, times=None)
        with pytest.raises(ApiError) as caught:
            cluster.get(WIDGET, "a", patience_s=0.0)
        assert (caught.value.status, caught.value.passing, len(server.requests)) == (503, True, 1)
        with pytest.raises(ApiError, match="503"):
            cluster.get(WIDGET, "a", patience_s=0.9)
        assert 2 < len(server.requests) < 8, "it is asked ever more rarely"

    @pytest.mark.slow
    def test_retry_after_is_heeded(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        server.faults.add(anything, status=429, headers={"Retry-After": "1"})
        assert cluster.get(WIDGET, "a", patience_s=5.0) is not None
        server.faults.add(anything, status=429, headers={"Retry-After": "60"})
        with pytest.raises(ApiError) as caught:
            cluster.get(WIDGET, "a", patience_s=5.0)
        assert caught.value.retry_after_s == 60.0
        assert len(server.requests) == 3

    @pytest.mark.parametrize("after", ["-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
    def test_retry_after_that_is_no_number_of_seconds(self, server: ApiServer, cluster: Cluster, after: str) -> None:
        server.seed(widget("a"))
        server.faults.add(anything, status=429, headers={"Retry-After": after})
        assert cluster.get(WIDGET, "a") is not None

    def test_reset_connection(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        server.faults.add(anything, reset=True, times=2)
        assert cluster.get(WIDGET, "a") is not None
        assert len(server.requests) == 3

    @pytest.mark.usefixtures("impatient_client")
    def test_answer_that_comes_too_late(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        server.faults.add(anything, delay_s=30.0)
        assert cluster.get(WIDGET, "a") is not None
        server.faults.add(anything, delay_s=30.0)
        with pytest.raises(ApiError) as caught:
            cluster.get(WIDGET, "a", patience_s=0.0)
        assert caught.value.away

    def test_create_is_not_repeated_and_may_have_happened(self, server: ApiServer, cluster: Cluster) -> None:
        server.faults.add(anything, reset=True, after=True)
        with pytest.raises(ApiError) as caught:
            cluster.create(WIDGET, widget("a"))
        assert caught.value.away
        assert names(server.objects("widgets")) == ["a"]
        server.faults.add(anything, status=500, times=None)
        with pytest.raises(ApiError, match="500"):
            cluster.create(WIDGET, widget("b"))
        assert asked(server, "POST") == 2

    def test_delete_whose_answer_is_lost(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        server.faults.add(lambda method, path: method == "DELETE", reset=True, after=True)
        cluster.delete(WIDGET, "a", propagation="Background")
        assert server.objects("widgets") == []

    def test_server_that_goes_and_comes_back(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(widget("a"))
        assert cluster.get(WIDGET, "a") is not None
        server.stop()
        with pytest.raises(ApiError) as caught:
            cluster.get(WIDGET, "a", patience_s=0.0)
        assert caught.value.away
        back = threading.Timer(0.2, server.restart)
        back.start()
        try:
            assert cluster.get(WIDGET, "a") is not None
        finally:
            back.join()


class TestStrangeAnswers:
    @pytest.mark.parametrize("body", [b"<html>log in first</html>", b"\xff\xfe", b'{"items": ['])
    def test_no_json(self, tmp_path: Path, body: bytes) -> None:
        with RawServer(whole(body)) as server:
            cluster = connect(Address(str(server.kubeconfig(tmp_path))))
            for ask in (lambda: cluster.get(WIDGET, "a", patience_s=0.0), lambda: cluster.list(WIDGET, patience_s=0.0)):
                with pytest.raises(ApiError) as caught:
                    ask()
                assert caught.value.away

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"status": "ok"}'])
    def test_what_is_no_list_is_not_taken_for_an_empty_one(self, tmp_path: Path, body: bytes) -> None:
        with RawServer(whole(body)) as server:
            cluster = connect(Address(str(server.kubeconfig(tmp_path))))
            with pytest.raises(ApiError, match="not a list of widgets"):
                cluster.list(WIDGET, patience_s=0.0)

    def test_body_that_breaks_off(self, tmp_path: Path) -> None:
        with RawServer(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"items":') as server:
            cluster = connect(Address(str(server.kubeconfig(tmp_path))))
            with pytest.raises(ApiError) as caught:
                cluster.get(WIDGET, "a", patience_s=0.0)
            assert caught.value.away

    def test_redirect_is_not_followed_with_the_token(self, server: ApiServer, tmp_path: Path) -> None:
        with RawServer(f"HTTP/1.1 302 Found\r\nLocation: {server.url}/version\r\nContent-Length: 0\r\n\r\n".encode()) as before:
            cluster = connect(Address(str(before.kubeconfig(tmp_path))))
            with pytest.raises(ApiError):
                cluster.ask("/version")
        assert server.requests == []


def test_threads_share_one(server: ApiServer, cluster: Cluster) -> None:
    def work(number: int) -> str:
        name = f"w{number}"
        cluster.create(WIDGET, widget(name))
        cluster.patch(WIDGET, name, {"spec": {"model": name}})
        found = cluster.get(WIDGET, name)
        assert found is not None
        return str(found["spec"]["model"])

    server.faults.add(lambda method, path: method == "GET", status=429, times=10)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(40))) == [f"w{number}" for number in range(40)]


def chunked(*pieces: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class TestStream:
    def lines(self, folder: Path, answer: bytes) -> list[str]:
        with RawServer(answer) as server, connect(Address(str(server.kubeconfig(folder)))).log("p", "c") as stream:
            return list(stream)

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
    def test_characters_across_chunks(self, tmp_path: Path, size: int) -> None:
        text = "größer 漢字 🙂\n\n\x1b[31mred\r\nlast".encode()
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert self.lines(tmp_path, chunked(*pieces, b"")) == ["größer 漢字 🙂", "", "\x1b[31mred\r", "last"]

    def test_bytes_that_are_no_characters(self, tmp_path: Path) -> None:
        assert self.lines(tmp_path, chunked(b"a\xffb\n", b"")) == ["a\N{REPLACEMENT CHARACTER}b"]

    @pytest.mark.parametrize("answer", [chunked(b""), whole(b""), b"HTTP/1.1 204 No Content\r\n\r\n"])
    def test_nothing(self, tmp_path: Path, answer: bytes) -> None:
        assert self.lines(tmp_path, answer) == []

    def test_half_a_line_is_not_told_where_the_connection_breaks(self, tmp_path: Path) -> None:
        with RawServer(chunked(b"one\ntw")) as server, connect(Address(str(server.kubeconfig(tmp_path)))).log("p", "c") as stream:
            lines = iter(stream)
            assert next(lines) == "one"
            with pytest.raises(ApiError) as caught:
                next(lines)
            assert caught.value.away

    @pytest.mark.parametrize("answer", [chunked(b"one\n"), b"HTTP/1.0 200 OK\r\n\r\none\n"])
    @pytest.mark.parametrize("tls", [False, True])
    def test_close_ends_a_quiet_one_in_another_thread(self, tmp_path: Path, answer: bytes, tls: bool) -> None:
        with RawServer(answer, holds=True, tls=tls) as server:
            stream = connect(Address(str(server.kubeconfig(tmp_path)))).watch(WIDGET, "1")
            seen: list[str | ApiError] = []

            def read() -> None:
                try:
                    seen.extend(stream)
                except ApiError as error:
                    seen.append(error)

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            eventually(lambda: server.moments, "the answer")
            if b"chunked" in answer:
                eventually(lambda: seen == ["one"], "the first line")
            stream.close()
            reader.join(5.0)
            assert not reader.is_alive()
            stream.close()

    def test_closing_one_that_has_ended_spares_the_connection(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(pod("p"))
        with cluster.log("p", "c") as stream:
            assert list(stream) == []
        stream.close()
        assert cluster.get(POD, "p") is not None


class Kubelet:
    """A double of a kubelet's log: two lines that were written before."""

    def log(self, *asked: Any) -> Iterator[bytes]:
        yield b"one\n"
        yield b"two\n"

    def connect(self, namespace: str, name: str, port: int) -> Any:
        raise OSError


class TestLog:
    def test_of_a_pod_without_a_node_is_empty(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(pod("p"))
        with cluster.log("p", "c") as stream:
            assert list(stream) == []

    def test_options(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(pod("p", node="n"))
        server.node = Kubelet()
        with cluster.log("p", "c", follow=True, since="2026-01-01T00:00:00+02:00", lines=3) as stream:
            assert list(stream) == ["one", "two"]
        assert dict(server.requests[-1].query) == {
            "container": "c",
            "follow": "true",
            "timestamps": "true",
            "sinceTime": "2026-01-01T00:00:00+02:00",
            "tailLines": "3",
        }

    def test_before_the_container_runs(self, server: ApiServer, cluster: Cluster) -> None:
        waiting = {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
        server.seed(pod("p", node="n") | {"status": waiting})
        server.node = Kubelet()
        with pytest.raises(ApiError, match=r"400 BadRequest: .*is waiting to start: ContainerCreating"):
            cluster.log("p", "c")

    def test_of_a_node_that_is_not_there(self, server: ApiServer, cluster: Cluster) -> None:
        server.seed(pod("p", node="n"))
        with pytest.raises(ApiError, match="500: no preferred addresses found"):
            cluster.log("p", "c")
