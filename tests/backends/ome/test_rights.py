from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.ome.prepared import NAMESPACE, OME, Permissions, Prepared, prepared, settings, trial
from tuner.backends.ome import preflight
from tuner.backends.ome.preflight import Needs
from tuner.backends.ome.rights import RIGHTS, Right, missing, needed
from tuner.kube import connection


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Prepared]:
    with prepared(tmp_path) as cluster:
        yield cluster


def names(rights: tuple[Right, ...]) -> set[str]:
    return {right.resource for right in rights}


def exactly(rights: tuple[Right, ...]) -> Permissions:
    """Allows what `rights` say, discovery, and nothing else."""
    namespaces = {"namespace": NAMESPACE, "ome_namespace": OME}
    allowed = {(verb, right.group, right.resource, namespaces.get(right.scope, "")) for right in rights for verb in right.verbs}

    def may(verb: str, group: str, resource: str, namespace: str) -> bool:
        always = group == "authorization.k8s.io" or not resource
        # a right in the whole cluster holds in each namespace
        return always or (verb, group, resource, namespace) in allowed or (verb, group, resource, "") in allowed

    return may


class TestNeeded:
    def test_what_is_always_needed(self) -> None:
        rights = needed(settings(access="cluster"), jobs=False)
        assert {"inferenceservices", "clusterservingruntimes", "clusterbasemodels", "pods", "pods/log", "events"} <= names(rights)
        assert not {"servingruntimes", "basemodels", "jobs", "localqueues", "pods/portforward"} & names(rights)

    def test_what_the_settings_ask_for(self) -> None:
        own = settings(
            access="port_forward",
            local_queue="q",
            model={"name": "m", "kind": "BaseModel"},
            runtime={"name": "r", "kind": "ServingRuntime"},
        )
        rights = needed(own, jobs=True)
        assert {"servingruntimes", "basemodels", "jobs", "localqueues", "pods/portforward"} <= names(rights)
        assert not {"clusterservingruntimes", "clusterbasemodels"} & names(rights)

    @pytest.mark.parametrize(("keys", "inside", "wanted"), [({}, False, True), ({}, True, False), ({"url": "http://{name}"}, False, False)])
    def test_port_forward_where_nothing_else_leads_to_servers(
        self, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], inside: bool, wanted: bool
    ) -> None:
        monkeypatch.setattr(connection, "in_cluster", lambda: inside)
        assert ("pods/portforward" in names(needed(settings(**keys), jobs=False))) == wanted


class TestCheck:
    def test_all_are_there(self, ready: Prepared) -> None:
        ready.server.permissions = exactly(needed(settings(), jobs=False))
        findings = ready.findings()
        assert findings["rights"].verdict == "ok", findings["rights"]

    def test_required_ones_are_missing(self, ready: Prepared) -> None:
        ready.forbid(("create", "inferenceservices"), ("patch", "inferenceservices"), ("get", "clusterservingruntimes"), ("list", "nodes"))
        finding = ready.findings()["rights"]
        assert finding.verdict == "failed"
        assert f"create, patch inferenceservices.ome.io in namespace {NAMESPACE}; " in finding.seen
        assert "get clusterservingruntimes.ome.io in the whole cluster" in finding.seen
        assert "nodes" not in finding.seen  # nothing that a study can do without
        assert "docs/kubernetes.md" in finding.fix

    def test_optional_ones_are_missing(self, ready: Prepared) -> None:
        ready.server.permissions = lambda verb, group, resource, namespace: resource != "nodes" and namespace != OME
        finding = ready.findings()["rights"]
        assert finding.verdict == "warning"
        assert f"list deployments.apps in namespace {OME}; list nodes in the whole cluster" in finding.seen
        assert "which GPUs there are" in finding.seen

    def test_one_alone_says_what_it_is_for(self, ready: Prepared) -> None:
        ready.forbid(("list", "clusterbasemodels"))
        finding = ready.findings()["rights"]
        assert finding.verdict == "warning"
        assert finding.seen.endswith("nobody can tell beforehand: whether a backend.model that all namespaces share is on a node")

    def test_jobs_only_where_they_are_used(self, ready: Prepared) -> None:
        ready.forbid(("create", "jobs"))
        assert ready.findings()["rights"].verdict == "ok"
        assert "create jobs.batch" in ready.findings(jobs=True)["rights"].seen

    def test_nobody_tells(self, ready: Prepared) -> None:
        ready.server.faults.add(lambda method, path: "selfsubjectaccessreviews" in path, status=403, times=None)
        assert ready.findings()["rights"].verdict == "skipped"


def test_each_right_says_for_itself_what_it_is_for() -> None:
    """A message names some of them, and not the neighbours in the table."""
    assert not [right for right in RIGHTS if {"same", "those"} & set(right.why.split())]


def test_a_verb_is_asked_for_once_and_named_with_its_right(ready: Prepared) -> None:
    ready.forbid(("watch", "pods"))
    lacking = missing(ready.cluster, settings(), RIGHTS)
    assert [(right.resource, right.verbs) for right in lacking] == [("pods", ("watch",))]
    assert len(ready.server.requests) == sum(len(right.verbs) for right in RIGHTS)


def test_the_checks_need_no_other_right(ready: Prepared) -> None:
    ready.server.permissions = exactly(RIGHTS)
    needs = Needs(1, 4, trial(), jobs=True)
    findings = {name: check() for name, check in preflight.checks(ready.cluster, settings(access="port_forward"), needs)}
    assert {finding.verdict for finding in findings.values()} == {"ok"}, findings


def test_without_optional_rights_nothing_fails(ready: Prepared) -> None:
    ready.server.permissions = exactly(tuple(right for right in RIGHTS if not right.optional))
    findings = ready.findings(manifest=trial())
    assert {name: finding.verdict for name, finding in findings.items()} == {
        "cluster": "ok",
        "namespace": "skipped",
        "rights": "warning",
        "ome": "skipped",
        "model": "skipped",
        "runtime": "ok",
        "gpus": "skipped",
        "quota": "skipped",
        "dry_run": "ok",
        "leftovers": "ok",
    }
