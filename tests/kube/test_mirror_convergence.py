"""Random operations against random faults: in the end a mirror shows what the API server double holds."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import widget
from tests.conformance.backend import eventually
from tests.kube.reaching import WIDGET, anything, lists, names, same, watches, widgets_in
from tuner.kube import mirror as module
from tuner.kube.cluster import Cluster
from tuner.kube.mirror import Mirror


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return widgets_in(server, tmp_path)


NAMES = st.sampled_from("abc")
FAULTS = st.sampled_from(["drop", "compact", "refuse", "expire", "reset", "break off", "cut", "away"])
STEPS = st.lists(st.one_of(st.tuples(st.sampled_from(["create", "change", "delete"]), NAMES), st.tuples(FAULTS, st.just(""))), max_size=30)


@pytest.mark.slow
class TestConvergence:
    @pytest.fixture(autouse=True)
    def hardly_any_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.002)
        monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.02)
        monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: 1.0))

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(steps=STEPS, pause=st.booleans())
    def test_whatever_happens_it_shows_what_there_is_in_the_end(
        self, server: ApiServer, cluster: Cluster, steps: list[tuple[str, str]], pause: bool
    ) -> None:
        server.faults.clear()
        mirror = Mirror(cluster, WIDGET)
        try:
            for number, (step, name) in enumerate(steps):
                self.do(server, step, name, number)
                if pause:
                    eventually(lambda: mirror.synced, "the list")
            eventually(lambda: mirror.synced and same(mirror, server), "what the server has")
        finally:
            mirror.close()

    def do(self, server: ApiServer, step: str, name: str, number: int) -> None:
        there = name in names(server.objects("widgets"))
        match step:
            case "create" if not there:
                server.seed(widget(name))
            case "change" if there:
                self.write(server, "PATCH", name, {"spec": {"model": f"m{number}"}})
            case "delete" if there:
                self.write(server, "DELETE", name, {"propagationPolicy": "Background"})
            case "drop":
                server.drop_watches()
            case "compact":
                server.compact()
            case "refuse":
                server.faults.add(anything, status=503)
            case "expire":
                server.faults.add(watches, status=410)
            case "reset":
                server.faults.add(lists, reset=True)
            case "break off":
                server.faults.add(watches, status=200, body="{")
            case "cut":
                server.faults.add(watches, reset=True)
            case "away":
                server.stop()
                server.restart()

    def write(self, server: ApiServer, method: str, name: str, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        headers = {"Authorization": f"Bearer {server.admin_token}", "Content-Type": "application/merge-patch+json"}
        try:
            connection.request(method, WIDGET.path("default", name), json.dumps(body), headers)
            assert connection.getresponse().status == 200
        finally:
            connection.close()
