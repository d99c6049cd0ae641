"""Plays the resource quota controller: counts what the pods of a namespace use. The API server alone refuses what is too much."""

from __future__ import annotations

from tests.cluster.connection import Connection, Object
from tests.cluster.loop import Loop, Mirror
from tests.cluster.scheduler import requests_of
from tests.cluster.workloads import finished


class QuotaUsage(Loop):
    """Keeps `status.hard` and `status.used` of whole-number quotas on pods and extended resources."""

    def __init__(self, connection: Connection, quotas: Mirror, pods: Mirror) -> None:
        super().__init__(quotas, pods)
        self._connection = connection
        self._quotas = quotas
        self._pods = pods

    def act(self) -> float | None:
        pods = [pod for pod in self._pods.objects() if not finished(pod)]
        for quota in self._quotas.objects():
            self.attempt(lambda quota=quota: self._count(quota, pods))
        return None

    def _count(self, quota: Object, pods: list[Object]) -> None:
        own = [pod for pod in pods if pod["metadata"]["namespace"] == quota["metadata"]["namespace"]]
        hard = quota["spec"].get("hard", {})
        status = {"hard": hard, "used": {name: str(_used(name, own)) for name in hard}}
        if status != quota.get("status"):
            self._connection.change(quota, lambda current: current.update(status=status), "status")


def _used(name: str, pods: list[Object]) -> int:
    if name in ("pods", "count/pods"):
        return len(pods)
    return sum(int(requests_of(pod).get(name.removeprefix("requests."), 0)) for pod in pods)
