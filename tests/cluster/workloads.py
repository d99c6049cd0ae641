"""Plays Kubernetes' controllers of Deployments, ReplicaSets and Jobs, which an API server does not bring: they make pods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from tests.cluster.connection import Connection, Object, Refused
from tests.cluster.loop import Loop, Mirror, Recorder, condition, now, owned_by, seconds_since, set_condition, soonest
from tests.cluster.ome_controller import SERVICE_LABEL

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' letters for generated names: none that could spell a word."""
_HASH_LABEL = "pod-template-hash"
_AGAIN_S = 0.3
_REFUSED = (403, 422)


def finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def pod_ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def _terminating(target: Object) -> bool:
    return "deletionTimestamp" in target["metadata"]


class Deployments(Loop):
    """Makes the one ReplicaSet of a Deployment of OME's, its pods again where they are deleted, and both statuses.

    A change of a Deployment's template is not played: the product never makes one.
    """

    def __init__(self, connection: Connection, deployments: Mirror, replica_sets: Mirror, pods: Mirror) -> None:
        super().__init__(deployments, replica_sets, pods)
        self._connection = connection
        self._deployments = deployments
        self._replica_sets = replica_sets
        self._pods = pods
        self._recorder = Recorder(connection, "replicaset-controller")

    def act(self) -> float | None:
        played = [each for each in self._deployments.objects() if SERVICE_LABEL in each["metadata"].get("labels", {})]
        return soonest(*[self.attempt(lambda each=each: self._reconcile(each)) for each in played if not _terminating(each)])

    def _reconcile(self, deployment: Object) -> float | None:
        replica_set = next(iter(self._replica_sets.owned(deployment)), None)
        if replica_set is None:
            self._connection.create(replica_set_of(deployment))
            return None
        refusal = None
        active = self._active(replica_set, self._pods.objects())
        if len(active) < deployment["spec"]["replicas"]:
            refusal = self._make_pods(deployment, replica_set)
        return self._report(deployment, replica_set, active, refusal)

    def _active(self, replica_set: Object, pods: list[Object]) -> list[Object]:
        own = replica_set["metadata"]["uid"]
        mine = [pod for pod in pods if any(owner["uid"] == own for owner in pod["metadata"].get("ownerReferences", []))]
        return [pod for pod in mine if not finished(pod) and not _terminating(pod)]

    def _make_pods(self, deployment: Object, replica_set: Object) -> str | None:
        """Makes what is missing, seen freshly: a mirror lags behind one's own writes. Returns why it could not, if so."""
        namespace = deployment["metadata"]["namespace"]
        for plural, owner in (("deployments", deployment), ("replicasets", replica_set)):
            fresh = self._connection.find(plural, namespace, owner["metadata"]["name"])
            if fresh is None or fresh["metadata"]["uid"] != owner["metadata"]["uid"] or _terminating(fresh):
                return None
        missing = deployment["spec"]["replicas"] - len(self._active(replica_set, self._connection.objects("pods", namespace)))
        for _ in range(missing):
            pod = pod_of(replica_set)
            try:
                self._connection.create(pod)
            except Refused as error:
                if error.status not in _REFUSED:
                    raise
                self._recorder.record(replica_set, "Warning", "FailedCreate", f"Error creating: {error.message}")
                return error.message
        return None

    def _report(self, deployment: Object, replica_set: Object, active: list[Object], refusal: str | None) -> float | None:
        old = deployment.get("status", {})
        wanted = deployment["spec"]["replicas"]
        ready = sum(pod_ready(pod) for pod in active)
        conditions: list[Object] = [dict(entry) for entry in old.get("conditions", [])]
        waits = self._judge(deployment, replica_set, conditions, enough=ready >= wanted)
        # The condition goes when the creation succeeds; until the next try it stays.
        if refusal is not None:
            set_condition(conditions, "ReplicaFailure", "True", "FailedCreate", refusal)
        elif len(active) >= wanted:
            conditions = [entry for entry in conditions if entry["type"] != "ReplicaFailure"]
        counts = {"replicas": len(active), "updatedReplicas": len(active), "readyReplicas": ready, "availableReplicas": ready}
        counts["unavailableReplicas"] = wanted - ready
        kept = {name: count for name, count in counts.items() if count > 0}
        status = {"observedGeneration": deployment["metadata"]["generation"], **kept, "conditions": conditions}
        if status != old:
            self._connection.change(deployment, lambda current: current.update(status=status), "status")
        counted = {"replicas": len(active), "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": 1}
        if replica_set.get("status", {}) != counted:
            self._connection.change(replica_set, lambda current: current.update(status=counted), "status")
        return _AGAIN_S if len(active) < wanted else waits

    def _judge(self, deployment: Object, replica_set: Object, conditions: list[Object], *, enough: bool) -> float | None:
        """Available and Progressing. Returns in how many seconds the progress deadline ends."""
        if enough:
            set_condition(conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
            done = f'ReplicaSet "{replica_set["metadata"]["name"]}" has successfully progressed.'
            set_condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", done)
            return None
        set_condition(conditions, "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        progressing = condition({"status": {"conditions": conditions}}, "Progressing")
        if progressing.get("reason") == "NewReplicaSetAvailable":
            # A complete Deployment that loses its pod later has no progress deadline any more.
            return None
        left_s = deployment["spec"]["progressDeadlineSeconds"] - seconds_since(deployment["metadata"]["creationTimestamp"])
        if left_s <= 0:
            late = f'ReplicaSet "{replica_set["metadata"]["name"]}" has timed out progressing.'
            set_condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", late)
            return None
        set_condition(
            conditions, "Progressing", "True", "ReplicaSetUpdated", f'ReplicaSet "{replica_set["metadata"]["name"]}" is progressing.'
        )
        return left_s


def replica_set_of(deployment: Object) -> Object:
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    mark = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:9])
    labels = template["metadata"]["labels"] | {_HASH_LABEL: mark}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{mark}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owned_by(deployment)],
        },
        "spec": {
            "replicas": deployment["spec"]["replicas"],
            "selector": {"matchLabels": deployment["spec"]["selector"]["matchLabels"] | {_HASH_LABEL: mark}},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def pod_of(owner: Object) -> Object:
    """A pod by the template of a ReplicaSet or a Job."""
    metadata, template = owner["metadata"], owner["spec"]["template"]
    described = {name: template.get("metadata", {}).get(name, {}) for name in ("labels", "annotations")}
    place = {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"], "ownerReferences": [owned_by(owner)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**place, **described}, "spec": template["spec"]}


class Jobs(Loop):
    """Makes a Job's pod, another one while `backoffLimit` allows it, and the Job's status."""

    def __init__(self, connection: Connection, jobs: Mirror, pods: Mirror) -> None:
        super().__init__(jobs, pods)
        self._connection = connection
        self._jobs = jobs
        self._pods = pods
        self._recorder = Recorder(connection, "job-controller")
        self._succeeded: dict[str, dict[str, bool]] = {}

    def act(self) -> float | None:
        return soonest(*[self.attempt(lambda job=job: self._reconcile(job)) for job in self._jobs.objects() if not _terminating(job)])

    def _reconcile(self, job: Object) -> float | None:
        done = next((c for c in (condition(job, kind) for kind in ("Complete", "Failed")) if c.get("status") == "True"), None)
        if done is not None:
            return self._expire(job, done)
        pods = self._pods_of(job)
        succeeded = sum(pod.get("status", {}).get("phase") == "Succeeded" for pod in pods)
        active = len([pod for pod in pods if not finished(pod) and not _terminating(pod)])
        failed = self._failures(job, pods)
        waits = None
        if not succeeded and not active and failed <= job["spec"].get("backoffLimit", 6):
            waits = self._make_pod(job)
        left_s = job["spec"].get("activeDeadlineSeconds", 1e9) - seconds_since(job["metadata"]["creationTimestamp"])
        self._report(job, succeeded, failed, active, overdue=left_s <= 0)
        if left_s <= 0:
            for pod in pods:
                self._connection.delete(pod)
        return soonest(waits, max(0.05, left_s)) if left_s < 1e8 else waits

    def _failures(self, job: Object, pods: Sequence[Object]) -> int:
        """How many of its pods have failed so far: also those that were deleted before they succeeded, which real Kubernetes remembers."""
        known = self._succeeded.setdefault(job["metadata"]["uid"], {})
        known |= {pod["metadata"]["uid"]: pod.get("status", {}).get("phase") == "Succeeded" for pod in pods}
        active = {pod["metadata"]["uid"] for pod in pods if not finished(pod) and not _terminating(pod)}
        return sum(not succeeded and uid not in active for uid, succeeded in known.items())

    def _expire(self, job: Object, done: Object) -> float | None:
        """Plays the controller of `ttlSecondsAfterFinished`."""
        if "ttlSecondsAfterFinished" not in job["spec"]:
            return None
        left_s: float = job["spec"]["ttlSecondsAfterFinished"] - seconds_since(done["lastTransitionTime"])
        if left_s > 0:
            return left_s
        self._connection.delete(job)
        return None

    def _make_pod(self, job: Object) -> float | None:
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        fresh = self._connection.find("jobs", namespace, name)
        if fresh is None or fresh["metadata"]["uid"] != job["metadata"]["uid"] or _terminating(fresh):
            return None
        if any(not finished(pod) for pod in self._connection.objects("pods", namespace, label_selector=f"job-name={name}")):
            return None
        pod = pod_of(job)
        owner = {"job-name": name, "controller-uid": job["metadata"]["uid"]}
        pod["metadata"]["labels"] = {
            **pod["metadata"]["labels"],
            **owner,
            **{f"batch.kubernetes.io/{key}": value for key, value in owner.items()},
        }
        try:
            made = self._connection.create(pod)
        except Refused as error:
            if error.status not in _REFUSED:
                raise
            self._recorder.record(job, "Warning", "FailedCreate", f"Error creating: {error.message}")
            return _AGAIN_S
        self._succeeded.setdefault(job["metadata"]["uid"], {})[made["metadata"]["uid"]] = False
        return None

    def _pods_of(self, job: Object) -> list[Object]:
        """From the server itself: a pod that comes and goes before a mirror sees it must not be made again."""
        found = self._connection.objects("pods", job["metadata"]["namespace"], label_selector=f"job-name={job['metadata']['name']}")
        return [pod for pod in found if pod["metadata"]["labels"].get("controller-uid") == job["metadata"]["uid"]]

    def _report(self, job: Object, succeeded: int, failed: int, active: int, *, overdue: bool) -> None:
        old = job.get("status", {})
        status = {
            **old,
            "startTime": old.get("startTime") or now(),
            "active": active,
            "succeeded": succeeded,
            "failed": failed,
            "ready": active,
        }
        conditions: list[Object] = [dict(entry) for entry in old.get("conditions", [])]
        if succeeded:
            set_condition(conditions, "SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods")
            set_condition(conditions, "Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")
            status["completionTime"] = now()
        elif overdue:
            set_condition(conditions, "Failed", "True", "DeadlineExceeded", "Job was active longer than specified deadline")
        elif failed > job["spec"].get("backoffLimit", 6):
            set_condition(conditions, "Failed", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        status = {name: value for name, value in status.items() if value != 0}
        if conditions:
            status["conditions"] = conditions
        if status != old:
            self._connection.change(job, lambda current: current.update(status=status), "status")
