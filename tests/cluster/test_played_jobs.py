"""Jobs in the played cluster: they run, fail, expire, and reach a server by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.played import NAMESPACE, PlayedCluster
from tests.cluster.playing import NAME, core, finished, is_ready, job, service, stub
from tests.conformance.backend import eventually

pytestmark = pytest.mark.slow
pytest_plugins = ("tests.cluster.fixtures",)


def test_job_runs_and_its_log_can_be_read(cluster: PlayedCluster, tmp_path: Path) -> None:
    cluster.add(job(["python3", "-c", "print('first'); print('second')"]))
    eventually(finished(cluster, "Complete"), "completion")
    assert (cluster.get("jobs", "bench-1") or {})["status"]["succeeded"] == 1
    pod = cluster.objects("pods", label_selector="batch.kubernetes.io/job-name=bench-1")[0]
    assert pod["status"]["phase"] == "Succeeded"
    name = pod["metadata"]["name"]
    assert core(cluster, tmp_path).read_namespaced_pod_log(name, NAMESPACE) == "first\nsecond\n"
    assert core(cluster, tmp_path).read_namespaced_pod_log(name, NAMESPACE, tail_lines=1) == "second\n"
    stamped = core(cluster, tmp_path).read_namespaced_pod_log(name, NAMESPACE, timestamps=True).splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["first", "second"]
    cluster.connection.delete(cluster.get("jobs", "bench-1") or {})
    eventually(lambda: cluster.leftovers() == [], "nothing left")


def test_job_expires(cluster: PlayedCluster) -> None:
    cluster.add(job(["python3", "-c", ""], ttlSecondsAfterFinished=0))
    eventually(lambda: cluster.get("jobs", "bench-1") is None, "the Job's end")
    eventually(lambda: cluster.leftovers() == [], "nothing left")


def test_job_writes_only_in_its_own_place(cluster: PlayedCluster, tmp_path: Path) -> None:
    program = "import os, pathlib, tempfile; print(tempfile.gettempdir() == os.environ['HOME'] == os.getcwd() != '/tmp')"
    made = job(["python3", "-c", program])
    pod = made["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    pod["containers"][0] |= {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}], "env": [{"name": "HOME", "value": "/tmp"}]}
    cluster.add(made)
    eventually(finished(cluster, "Complete"), "completion")
    name = cluster.objects("pods")[0]["metadata"]["name"]
    assert core(cluster, tmp_path).read_namespaced_pod_log(name, NAMESPACE) == "True\n"


def test_job_that_fails(cluster: PlayedCluster) -> None:
    cluster.add(job(["python3", "-c", "raise SystemExit(3)"], backoffLimit=1))
    eventually(finished(cluster, "Failed"), "failure")
    assert (cluster.get("jobs", "bench-1") or {})["status"]["failed"] == 2
    codes = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in cluster.objects("pods")]
    assert codes == [3, 3]


def test_job_whose_pod_is_deleted_has_failed(cluster: PlayedCluster) -> None:
    cluster.add(job(["python3", "-c", "import time; time.sleep(600)"], backoffLimit=0))
    eventually(lambda: [pod for pod in cluster.objects("pods") if pod.get("status", {}).get("phase") == "Running"], "a running pod")
    cluster.connection.delete(cluster.objects("pods")[0])
    eventually(finished(cluster, "Failed"), "failure")
    eventually(lambda: cluster.kubelet.processes() == [], "the end of the pod")
    assert [pod for pod in cluster.objects("pods") if "deletionTimestamp" not in pod["metadata"]] == [], "no other one is made"


def test_job_reaches_the_server_by_its_name(furnished: PlayedCluster, tmp_path: Path) -> None:
    furnished.add(service(**stub("serve"), env=[{"name": "STUB_ANSWER", "value": "over the wire"}]))
    eventually(lambda: is_ready(furnished), "ready")
    url = f"http://{NAME}-engine.{NAMESPACE}.svc.cluster.local:8080/"
    furnished.add(job(["python3", "-c", f"import urllib.request as r; print(r.urlopen({url!r}).read().decode())"]))
    eventually(finished(furnished, "Complete"), "completion")
    pod = furnished.objects("pods", label_selector="job-name=bench-1")[0]["metadata"]["name"]
    assert core(furnished, tmp_path).read_namespaced_pod_log(pod, NAMESPACE) == "over the wire\n"
