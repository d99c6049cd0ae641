"""Plays the kube-scheduler, which an API server does not bring: binds pods to nodes by selector, taints and free resources."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from tests.cluster.connection import Connection, Object, path_of
from tests.cluster.loop import Loop, Mirror, Recorder, condition, set_condition, soonest
from tests.cluster.workloads import finished

_AGAIN_S = 0.5
"""Retries come with events; this one is for what no event tells."""


class Scheduler(Loop):
    """The scheduler.

    Attributes:
        silent: It is down: pods stay as they are.
    """

    def __init__(self, connection: Connection, pods: Mirror, nodes: Mirror) -> None:
        super().__init__(pods, nodes)
        self.silent = False
        self._connection = connection
        self._pods = pods
        self._nodes = nodes
        self._recorder = Recorder(connection, "default-scheduler")
        self._bound: dict[str, str] = {}
        self._told: dict[str, str] = {}

    def act(self) -> float | None:
        if self.silent:
            return _AGAIN_S
        pods = self._pods.objects()
        # What was bound a moment ago may not be in the mirror yet.
        self._bound = {uid: node for uid, node in self._bound.items() if any(pod["metadata"]["uid"] == uid for pod in pods)}
        for pod in pods:
            pod["spec"].setdefault("nodeName", self._bound.get(pod["metadata"]["uid"]))
        waiting = [pod for pod in pods if not pod["spec"]["nodeName"] and not finished(pod) and "deletionTimestamp" not in pod["metadata"]]
        return soonest(*[self.attempt(lambda pod=pod: self._place(pod, pods)) for pod in waiting])

    def preempt(self, pod: Object, by: str = "more-important") -> None:
        """Deletes a pod as if one of higher priority needed its node."""
        node, why = pod["spec"].get("nodeName"), "PreemptionByScheduler"
        message = "default-scheduler: preempting to accommodate a higher priority pod"

        def mark(current: Object) -> None:
            set_condition(current["status"].setdefault("conditions", []), "DisruptionTarget", "True", why, message)

        self._connection.change(pod, mark, "status")
        self._recorder.record(pod, "Normal", "Preempted", f"Preempted by pod {by} on node {node}")
        self._connection.delete(pod)

    def _place(self, pod: Object, pods: list[Object]) -> float | None:
        if pod["spec"].get("schedulingGates"):
            self._hold(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return None
        nodes = self._nodes.objects()
        reasons: Counter[str] = Counter()
        for node in nodes:
            against = _against(pod, node, pods)
            if not against:
                self._bind(pod, node)
                return None
            reasons.update(against)
        message = _unschedulable(reasons, len(nodes))
        self._hold(pod, "Unschedulable", message)
        return _AGAIN_S

    def _bind(self, pod: Object, node: Object) -> None:
        metadata, name = pod["metadata"], node["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": name}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"], "uid": metadata["uid"]}, "target": target}
        self._connection.request("POST", path_of("pods", metadata["namespace"], metadata["name"], "binding"), binding)
        pod["spec"]["nodeName"] = self._bound[metadata["uid"]] = name
        self._recorder.record(pod, "Normal", "Scheduled", f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {name}")

    def _hold(self, pod: Object, reason: str, message: str) -> None:
        """Says why a pod waits, on the pod and, where scheduling was tried, in an Event; only once, as long as the reason is the same."""
        uid = pod["metadata"]["uid"]
        seen = condition(pod, "PodScheduled")
        if (seen.get("status"), seen.get("reason"), seen.get("message")) != ("False", reason, message):
            self._connection.change(pod, lambda current: _set_scheduled(current, reason, message), "status")
        if reason == "Unschedulable" and self._told.get(uid) != message:
            self._recorder.record(pod, "Warning", "FailedScheduling", message)
            self._told[uid] = message


def _set_scheduled(pod: Object, reason: str, message: str) -> None:
    set_condition(pod.setdefault("status", {}).setdefault("conditions", []), "PodScheduled", "False", reason, message)


def _against(pod: Object, node: Object, pods: list[Object]) -> list[str]:
    """What speaks against a node, in the order of the scheduler's filters: the first that refuses is the only one heard."""
    if node["spec"].get("unschedulable"):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(each, taint) for each in pod["spec"].get("tolerations", [])):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    free = {name: parse_quantity(amount) for name, amount in node.get("status", {}).get("allocatable", {}).items()}
    for other in pods:
        if other["spec"].get("nodeName") == node["metadata"]["name"] and not finished(other):
            for name, amount in requests_of(other).items():
                free[name] = free.get(name, Decimal(0)) - amount
    return [f"Insufficient {name}" for name, amount in requests_of(pod).items() if amount > free.get(name, Decimal(0))]


def requests_of(pod: Object) -> dict[str, Decimal]:
    """What a pod's containers request together, limits standing in for what is left out."""
    wanted: dict[str, Decimal] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        for name, amount in {**resources.get("limits", {}), **resources.get("requests", {})}.items():
            wanted[name] = wanted.get(name, Decimal(0)) + parse_quantity(amount)
    return wanted


def _tolerates(toleration: Object, taint: Object) -> bool:
    same_key = toleration.get("key") in (None, "", taint["key"])
    same_value = toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
    return same_key and same_value and toleration.get("effect") in (None, "", taint["effect"])


def _unschedulable(reasons: Counter[str], nodes: int) -> str:
    """In the scheduler's words, with its sorted histogram of reasons."""
    if nodes == 0:
        return "no nodes available to schedule pods"
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    helpless = sum(count for reason, count in reasons.items() if reason.startswith("node(s)"))
    preemption = {"No preemption victims found for incoming pod": nodes - helpless, "Preemption is not helpful for scheduling": helpless}
    tried = ", ".join(sorted(f"{count} {reason}" for reason, count in preemption.items() if count))
    return f"0/{nodes} nodes are available: {listed}. preemption: 0/{nodes} nodes are available: {tried}."
