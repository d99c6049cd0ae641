"""The double's watches and lists, by the official client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from kubernetes import client, watch

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import api_client, config_map, refused
from tests.conformance.backend import eventually


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


@pytest.fixture
def core(server: ApiServer) -> client.CoreV1Api:
    return client.CoreV1Api(api_client(server))


class Watcher:
    """Watches ConfigMaps in a thread; `failure` is what ended it, if anything did."""

    def __init__(self, core: client.CoreV1Api, **options: Any) -> None:
        self.events: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self._core, self._options = core, options
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            stream = watch.Watch().stream(self._core.list_namespaced_config_map, "default", **self._options)
            for event in stream:
                self.events.append((event["type"], event["object"].metadata.name))
        except Exception as failure:
            self.failure = failure

    def ended(self) -> bool:
        return not self._thread.is_alive()


def test_present_objects_and_then_every_change(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a"))
    watcher = Watcher(core)
    eventually(lambda: watcher.events == [("ADDED", "a")], "the present object")
    core.create_namespaced_config_map("default", config_map("b"))
    core.patch_namespaced_config_map("a", "default", {"data": {"x": "y"}})
    core.delete_namespaced_config_map("a", "default")
    eventually(lambda: len(watcher.events) == 4, "three changes")
    assert watcher.events[1:] == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "a")]


def test_nothing_is_lost_between_list_and_watch(server: ApiServer, core: client.CoreV1Api) -> None:
    version = core.list_namespaced_config_map("default").metadata.resource_version
    server.seed(config_map("a"))
    watcher = Watcher(core, resource_version=version)
    eventually(lambda: watcher.events == [("ADDED", "a")], "what happened in between")


def test_object_that_ceases_to_match_is_deleted(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a", labels={"run": "x"}))
    server.seed(config_map("b"))
    watcher = Watcher(core, label_selector="run=x")
    eventually(lambda: watcher.events, "the present object")
    core.patch_namespaced_config_map("a", "default", {"metadata": {"labels": {"run": None}}})
    core.patch_namespaced_config_map("b", "default", {"metadata": {"labels": {"run": "x"}}})
    eventually(lambda: len(watcher.events) == 3, "both changes")
    assert watcher.events == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]


def test_old_version_expires_with_the_history(server: ApiServer, core: client.CoreV1Api) -> None:
    version = core.list_namespaced_config_map("default").metadata.resource_version
    server.seed(config_map("a"))
    server.compact()
    watcher = Watcher(core, resource_version=version)
    eventually(watcher.ended, "the refusal")
    assert isinstance(watcher.failure, client.ApiException)
    assert watcher.failure.status == 410
    assert watcher.failure.reason.startswith("Expired: too old resource version")
    newest = core.list_namespaced_config_map("default").metadata.resource_version
    again = Watcher(core, resource_version=newest)
    server.seed(config_map("b"))
    eventually(lambda: again.events == [("ADDED", "b")], "a watch from the new version")


def test_open_watch_outlives_the_history(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a"))
    watcher = Watcher(core)
    eventually(lambda: watcher.events, "the present object")
    server.compact()
    server.seed(config_map("b"))
    eventually(lambda: watcher.events[1:] == [("ADDED", "b")], "a change after the compaction")


def test_dropped_in_the_middle(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a"))
    watcher = Watcher(core)
    eventually(lambda: watcher.events, "an open watch")
    server.drop_watches()
    eventually(watcher.ended, "the end of the watch")
    assert isinstance(watcher.failure, urllib3.exceptions.ProtocolError)
    assert core.list_namespaced_config_map("default").items, "other connections are spared"


def test_stop_ends_open_watches(server: ApiServer, core: client.CoreV1Api) -> None:
    server.seed(config_map("a"))
    watcher = Watcher(core)
    eventually(lambda: watcher.events, "an open watch")
    server.stop()
    eventually(watcher.ended, "the end of the watch")


@pytest.mark.slow
def test_ends_in_silence_after_its_time(server: ApiServer, core: client.CoreV1Api) -> None:
    reply = core.list_namespaced_config_map("default", watch=True, timeout_seconds=1, allow_watch_bookmarks=True, _preload_content=False)
    assert reply.read().startswith(b'{"type": "BOOKMARK"')


def test_pages_show_the_list_as_it_was(server: ApiServer, core: client.CoreV1Api) -> None:
    for name in "abc":
        server.seed(config_map(name))
    first = core.list_namespaced_config_map("default", limit=2)
    assert first.metadata.remaining_item_count == 1
    core.delete_namespaced_config_map("c", "default")
    rest = core.list_namespaced_config_map("default", limit=2, _continue=first.metadata._continue)
    assert [found.metadata.name for found in first.items + rest.items] == ["a", "b", "c"]
    assert not rest.metadata._continue


def test_pages_expire_with_the_history(server: ApiServer, core: client.CoreV1Api) -> None:
    for name in "abc":
        server.seed(config_map(name))
    first = core.list_namespaced_config_map("default", limit=2)
    server.seed(config_map("d"))
    server.compact()
    assert refused(lambda: core.list_namespaced_config_map("default", limit=2, _continue=first.metadata._continue)).status == 410


def test_events_are_found_by_what_they_are_about(server: ApiServer, core: client.CoreV1Api) -> None:
    for number, name in enumerate(("a", "b")):
        about = {"kind": "Pod", "name": name, "namespace": "default", "uid": str(number)}
        body = {"metadata": {"generateName": "e-"}, "involvedObject": about, "reason": "Failed", "type": "Warning"}
        core.create_namespaced_event("default", body)
    found = core.list_namespaced_event("default", field_selector="involvedObject.kind=Pod,involvedObject.name=b,type!=Normal")
    assert [event.involved_object.uid for event in found.items] == ["1"]
