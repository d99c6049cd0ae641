"""Plays the kubelets of all nodes, because no container can run here: the first container of a pod is a process group of this host.

Every pod has a loopback address of its own (`pod_network`). Not played: further containers, init containers, volumes, images (a manifest
without a command runs its args), start-up and liveness probes, limits of CPU and memory, and which GPUs a container sees.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tests.cluster.connection import Connection, Object
from tests.cluster.container import Container, kill_marked, processes
from tests.cluster.loop import Loop, Mirror, Recorder
from tests.cluster.pod_worker import PodWorker
from tests.cluster.statuses import error


class Kubelet(Loop):
    """The kubelets; also where the API server finds logs and ports of pods.

    Attributes:
        bad_images: Images that cannot be pulled, each with the runtime's message.
        backoff_s: Seconds in CrashLoopBackOff and ImagePullBackOff.
        crash_s: Seconds between a container's end and CrashLoopBackOff, in which its state is `terminated`.
        probe_period_s: The longest time between two readiness probes.
        stuck: Nothing that is Terminating ends: the node is lost.
        before_start: Called with each pod before its work begins, in the kubelet's thread: a chance to slow it or to break it.
    """

    def __init__(self, connection: Connection, pods: Mirror) -> None:
        super().__init__(pods)
        self.bad_images: dict[str, str] = {}
        self.backoff_s = 0.3
        self.crash_s = 0.1
        self.probe_period_s = 0.2
        self.stuck = False
        self.before_start: Callable[[Object], None] | None = None
        self.connection = connection
        self.recorder = Recorder(connection, "kubelet")
        self.mark = secrets.token_hex(6)
        self._pods = pods
        self._workers: dict[str, PodWorker] = {}
        self._pull_failures: list[str] = []
        self._lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="kubelet-"))

    def act(self) -> float | None:
        pods = {pod["metadata"]["uid"]: pod for pod in self._pods.objects() if pod["spec"].get("nodeName")}
        for uid, worker in self._known():
            worker.notice(pods.get(uid))
            if worker.done and uid not in pods:
                with self._lock:
                    del self._workers[uid]
        for uid, pod in pods.items():
            if uid not in self._workers and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                self._take(uid, pod)
        return None

    def close(self) -> None:
        super().close()
        for _, worker in self._known():
            worker.close()
        for _, worker in self._known():
            worker.join()
        kill_marked(self.mark)
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """The processes of all containers that are alive."""
        return [process.pid for process in processes(self.mark)]

    def fail_pull(self, times: int, message: str) -> None:
        """The next pulls fail, whatever the image."""
        with self._lock:
            self._pull_failures.extend([message] * times)

    def pull_failure(self, image: str) -> str | None:
        """Why an image cannot be pulled now, or None."""
        with self._lock:
            if self._pull_failures:
                return self._pull_failures.pop(0)
        return self.bad_images.get(image)

    def oom_kill(self, pod: Object) -> None:
        """Kills the pod's container as the kernel does where it exceeds its memory limit."""
        container = self._worker(pod["metadata"]["namespace"], pod["metadata"]["name"]).current
        assert container is not None, "the pod's container was never started"
        container.kill_for_memory()

    def evict(self, pod: Object, message: str = "The node was low on resource: memory.") -> None:
        """Ends a pod for the node's sake; it stays as a failed one."""
        self._worker(pod["metadata"]["namespace"], pod["metadata"]["name"]).evict(message)

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        previous: bool,
        follow: bool,
        since_time: str | None,
        timestamps: bool,
        tail_lines: int | None,
    ) -> Iterator[bytes]:
        """A container's log; refused in the kubelet's words where there is none."""
        worker = self._worker(namespace, pod)
        run = worker.previous if previous else worker.current or worker.previous
        if run is None and previous:
            raise error(400, f'previous terminated container "{container}" in pod "{pod}" not found')
        if run is None:
            raise error(400, f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating')
        since = None if since_time is None else datetime.fromisoformat(since_time)
        return run.log.read(follow=follow, since=since, stamped=timestamps, tail=tail_lines)

    def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        """A connection to a port inside the pod."""
        return socket.create_connection((self._worker(namespace, pod).address, port), timeout=5)

    def container(self, pod: Object) -> Container | None:
        """The running or last container of a pod."""
        return self._worker(pod["metadata"]["namespace"], pod["metadata"]["name"]).current

    def _take(self, uid: str, pod: Object) -> None:
        if self.before_start is not None:
            self.before_start(pod)
        folder = self._folder / uid
        folder.mkdir()
        worker = PodWorker(self, pod, folder)
        with self._lock:
            self._workers[uid] = worker
        worker.start()

    def _known(self) -> list[tuple[str, PodWorker]]:
        with self._lock:
            return list(self._workers.items())

    def _worker(self, namespace: str, pod: str) -> PodWorker:
        """The newest pod of that name.

        Raises:
            ApiError: this kubelet has no such pod.
        """
        for _, worker in reversed(self._known()):
            if (worker.namespace, worker.name) == (namespace, pod):
                return worker
        raise error(404, f'pods "{pod}" not found')
