"""Mirrors of what the API server double holds, through all that can happen to a watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.faults import RequestPath
from tests.cluster.talking import widget
from tests.conformance.backend import eventually
from tests.kube.raw_server import RawServer, whole
from tests.kube.reaching import WIDGET, anything, asked, lists, names, same, watches, widgets_in
from tuner.kube import cluster as transport
from tuner.kube import mirror as module
from tuner.kube.cluster import Cluster
from tuner.kube.connection import Address, connect
from tuner.kube.mirror import Mirror
from tuner.kube.resources import Object, inside


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: 1.0))


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return widgets_in(server, tmp_path)


@pytest.fixture
def mirrors(cluster: Cluster) -> Iterator[Any]:
    """Makes mirrors of widgets, which are closed at the end."""
    made: list[Mirror] = []

    def make(**options: Any) -> Mirror:
        made.append(Mirror(cluster, WIDGET, **options))
        return made[-1]

    yield make
    for mirror in made:
        mirror.close()
    eventually(lambda: not any(mirror._thread.is_alive() for mirror in made), "the ends of the threads")


@pytest.fixture
def mirror(server: ApiServer, mirrors: Any) -> Mirror:
    """One that watches by now, with the widget `a` in it."""
    server.seed(widget("a"))
    made: Mirror = mirrors()
    eventually(lambda: watching(server), "the watch")
    return made


def watching(server: ApiServer) -> bool:
    return asked(server, watch="true") > 0


def shown(mirror: Mirror) -> list[str]:
    return names(mirror.objects)


def shows(mirror: Mirror, *expected: str) -> None:
    eventually(lambda: shown(mirror) == sorted(expected), f"a mirror with {expected}, now {shown(mirror)}")


class TestChanges:
    def test_present_objects_and_every_change(self, server: ApiServer, cluster: Cluster, mirror: Mirror) -> None:
        shows(mirror, "a")
        assert mirror.synced
        server.seed(widget("b"))
        shows(mirror, "a", "b")
        cluster.patch(WIDGET, "a", {"spec": {"model": "other"}})
        eventually(lambda: any(inside(obj, "spec", "model") == "other" for obj in mirror.objects), "the change")
        cluster.delete(WIDGET, "a", propagation="Background")
        shows(mirror, "b")
        assert asked(server, watch="true") == 1, "one watch suffices"

    def test_only_what_the_selectors_match(self, server: ApiServer, cluster: Cluster, mirrors: Any) -> None:
        mirror = mirrors(labels="run=x")
        named = mirrors(fields="metadata.name=b")
        server.seed(widget("a", labels={"run": "x"}))
        server.seed(widget("b", labels={"run": "y"}))
        shows(mirror, "a")
        shows(named, "b")
        cluster.patch(WIDGET, "a", {"metadata": {"labels": {"run": "y"}}})
        shows(mirror)

    def test_only_what_is_to_be_kept(self, server: ApiServer, cluster: Cluster, mirrors: Any) -> None:
        server.seed(widget("a"))

        def keep(obj: Object) -> bool:
            return bool(inside(obj, "spec", "model") == "m")

        mirror = mirrors(keep=keep)
        shows(mirror, "a")
        server.seed(widget("b"))
        server.seed(widget("c") | {"spec": {"model": "other"}})
        shows(mirror, "a", "b")
        cluster.patch(WIDGET, "a", {"spec": {"model": "other"}})
        shows(mirror, "b")

    def test_tells_of_changes(self, server: ApiServer, mirrors: Any) -> None:
        told = threading.Event()
        mirror = mirrors(changed=told.set)
        assert told.wait(10)
        told.clear()
        server.seed(widget("b"))
        assert told.wait(10)
        shows(mirror, "b")

    def test_same_name_again(self, server: ApiServer, cluster: Cluster, mirror: Mirror) -> None:
        shows(mirror, "a")
        for _ in range(3):
            cluster.delete(WIDGET, "a", propagation="Background")
            server.seed(widget("a"))
        eventually(lambda: same(mirror, server), "the newest of that name")

    def test_object_that_is_being_deleted_is_still_there(self, server: ApiServer, cluster: Cluster, mirror: Mirror) -> None:
        server.seed(widget("f", finalizers=["kt.example.com/hold"]))
        shows(mirror, "a", "f")
        cluster.delete(WIDGET, "f")
        eventually(lambda: any(inside(obj, "metadata", "deletionTimestamp") for obj in mirror.objects), "the deletion")
        shows(mirror, "a", "f")
        cluster.patch(WIDGET, "f", {"metadata": {"finalizers": None}})
        shows(mirror, "a")


class TestBrokenWatches:
    def test_goes_on_from_where_it_was(self, server: ApiServer, mirror: Mirror) -> None:
        version = server.seed(widget("b"))["metadata"]["resourceVersion"]
        shows(mirror, "a", "b")
        server.drop_watches()
        server.seed(widget("c"))
        shows(mirror, "a", "b", "c")
        assert asked(server, watch="true", resourceVersion=version) == 1
        assert asked(server) - asked(server, watch="true") == 1, "it was not listed again"
        assert mirror.trouble is None

    def test_history_that_is_gone(self, server: ApiServer, cluster: Cluster, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.faults.add(watches, status=503, times=None)
        server.drop_watches()
        server.seed(widget("b"))
        cluster.delete(WIDGET, "a", propagation="Background")
        server.compact()
        server.faults.clear()
        shows(mirror, "b")
        server.seed(widget("c"))
        shows(mirror, "b", "c")
        eventually(lambda: mirror.trouble is None, "the end of the trouble")

    def test_watch_that_is_told_410_at_once(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.faults.add(watches, status=410)
        server.drop_watches()
        server.seed(widget("b"))
        shows(mirror, "a", "b")
        assert mirror.trouble is None

    def test_replaced_while_it_looked_away(self, server: ApiServer, cluster: Cluster, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.faults.add(watches, reset=True, times=1)
        server.drop_watches()
        cluster.delete(WIDGET, "a", propagation="Background")
        server.compact()
        server.seed(widget("a"))
        eventually(lambda: same(mirror, server), "the other of the same name")

    @pytest.mark.slow
    def test_silent_ends(self, server: ApiServer, cluster: Cluster, mirrors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "WATCH_S", 1)
        mirror = mirrors()
        eventually(lambda: asked(server, watch="true") >= 3, "three watches")
        server.seed(widget("a"))
        shows(mirror, "a")
        assert mirror.trouble is None
        assert asked(server) - asked(server, watch="true") == 1, "it was listed once"

    def test_connection_that_has_died(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "SILENCE_S", 0.2)
        with ApiServer() as server:
            mirror = Mirror(widgets_in(server, tmp_path), WIDGET)
            eventually(lambda: asked(server, watch="true") >= 2, "another watch")
            server.seed(widget("a"))
            shows(mirror, "a")
            mirror.close()

    def test_lines_that_are_no_events(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        for body in ("<html>\n", '{"type": "ADDED", "obj', "[]\n", "null\n", "\n\n", '{"kind": "Status"}'):
            server.faults.add(watches, status=200, body=body)
        server.drop_watches()
        server.seed(widget("b"))
        shows(mirror, "a", "b")

    def test_errors_within_a_watch(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        for code in (429, 500, 410):
            error = {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": "", "message": "so it is"}}
            server.faults.add(watches, status=200, body=error)
        server.drop_watches()
        server.seed(widget("b"))
        shows(mirror, "a", "b")
        eventually(lambda: mirror.trouble is None, "the end of the trouble")


class TestTrouble:
    def test_server_that_is_away_from_the_start(self, server: ApiServer, mirrors: Any) -> None:
        server.faults.add(anything, status=503, times=None)
        mirror = mirrors()
        eventually(lambda: mirror.trouble, "the trouble")
        assert not mirror.synced
        since = mirror.trouble[0]
        eventually(lambda: asked(server) >= 3, "more requests")
        assert mirror.trouble[0] == since
        assert since <= time.monotonic()
        assert mirror.trouble[1].status == 503
        server.faults.clear()
        eventually(lambda: mirror.synced and mirror.trouble is None, "the end of the trouble")

    def test_what_is_known_stays_while_the_server_is_away(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.stop()
        eventually(lambda: mirror.trouble, "the trouble")
        shows(mirror, "a")
        server.restart()
        eventually(lambda: mirror.trouble is None, "the end of the trouble, though nothing changes")
        server.seed(widget("b"))
        shows(mirror, "a", "b")

    def test_watch_that_is_forbidden_is_trouble_all_the_time(self, server: ApiServer, mirrors: Any) -> None:
        server.permissions = lambda verb, group, resource, namespace: verb != "watch"
        mirror = mirrors()
        eventually(lambda: mirror.trouble, "the trouble")
        since = mirror.trouble[0]
        for count in range(2, 5):
            eventually(lambda count=count: asked(server, watch="true") >= count, "another watch")
            assert mirror.trouble is not None
            assert (mirror.trouble[0], mirror.trouble[1].status) == (since, 403)

    def test_token_that_expires(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.faults.add(anything, status=401, times=None)
        server.drop_watches()
        eventually(lambda: mirror.trouble and mirror.trouble[1].status == 401, "the trouble")
        server.faults.clear()
        server.seed(widget("b"))
        shows(mirror, "a", "b")

    def test_what_is_no_list_empties_no_mirror(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        server.faults.add(lists, status=200, body={}, times=1)
        server.faults.add(watches, status=410)
        server.drop_watches()
        eventually(lambda: asked(server) - asked(server, watch="true") >= 3, "a proper list")
        shows(mirror, "a")


class TestPauses:
    @pytest.fixture(autouse=True)
    def longer_pauses(self, short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 1.0)

    @pytest.mark.parametrize("match", [lists, watches, anything])
    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_server_that_refuses_is_asked_ever_more_rarely(self, server: ApiServer, mirrors: Any, match: Any, status: int) -> None:
        moments: list[float] = []

        def noted(method: str, path: RequestPath) -> bool:
            if match(method, path):
                moments.append(time.monotonic())
            return bool(match(method, path))

        server.faults.add(noted, status=status, times=None)
        mirror = mirrors()
        eventually(lambda: len(moments) >= 5, "the fifth refusal")
        assert moments[4] - moments[0] > 0.02 + 0.04 + 0.08 + 0.15
        assert mirror.trouble[1].status == status
        server.faults.clear()
        server.seed(widget("a"))
        shows(mirror, "a")
        eventually(lambda: mirror.trouble is None, "the end of the trouble")

    def test_watches_that_end_at_once(self, tmp_path: Path) -> None:
        with RawServer(whole(b'{"items": [], "metadata": {"resourceVersion": "7"}}')) as server:
            mirror = Mirror(connect(Address(str(server.kubeconfig(tmp_path)))), WIDGET)
            eventually(lambda: len(server.moments) >= 6, "the fifth watch")
            mirror.close()
        assert server.moments[5] - server.moments[1] > 0.02 + 0.04 + 0.08 + 0.15


class TestClose:
    def test_ends_a_quiet_watch(self, server: ApiServer, mirror: Mirror) -> None:
        shows(mirror, "a")
        mirror.close()
        mirror._thread.join(5.0)
        assert not mirror._thread.is_alive()
        server.seed(widget("b"))
        assert shown(mirror) == ["a"]

    def test_ends_a_pause(self, server: ApiServer, mirrors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FIRST_PAUSE_S", 3600.0)
        server.faults.add(anything, status=500, times=None)
        mirror = mirrors()
        eventually(lambda: mirror.trouble, "the trouble")
        mirror.close()
        mirror._thread.join(5.0)
        assert not mirror._thread.is_alive()

    def test_at_any_moment(self, server: ApiServer, mirrors: Any) -> None:
        server.seed(widget("a"))
        made = []
        for step in range(40):
            made.append(mirrors())
            threading.Timer(step / 1000, made[-1].close).start()
        eventually(lambda: not any(mirror._thread.is_alive() for mirror in made), "the ends of all threads")
