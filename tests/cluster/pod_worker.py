"""Plays what a kubelet does for one pod: pulls, starts, probes, restarts and ends its first container, and writes the pod's status."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.connection import Object, Refused
from tests.cluster.container import Container
from tests.cluster.loop import set_condition
from tests.cluster.pod_network import Unconfigured, command_of, image_environment, localize_all, moved, new_address, variables

if TYPE_CHECKING:
    from tests.cluster.kubelet import Kubelet

_RUNC = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: exec: "
)
_CANNOT_START = 128
_LONGEST_PROBE_S = 1.0
_STATUS_RETRY_S = 0.1


class Over(Exception):
    """The pod needs no more work: it is gone, evicted, or the kubelet closes."""


def _stamp(time: datetime | None) -> str:
    return (time or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


class PodWorker:
    """The work for one pod, in a thread of its own.

    Attributes:
        namespace, name: The pod's.
        address: The pod's own address on loopback, its `podIP`.
        current: The running or last container, None before the first start.
        previous: The one before it.
    """

    def __init__(self, kubelet: Kubelet, pod: Object, folder: Path) -> None:
        self.namespace: str = pod["metadata"]["namespace"]
        self.name: str = pod["metadata"]["name"]
        self.address = new_address()
        self.current: Container | None = None
        self.previous: Container | None = None
        self._kubelet = kubelet
        self._pod = pod
        self._spec = pod["spec"]["containers"][0]
        self._folder = folder
        self._woken = threading.Event()
        self._closing = False
        self._evicted: str | None = None
        self._deletion_seen = "deletionTimestamp" in pod["metadata"]
        self._restarts = 0
        self._ready = False
        self._last_state: Object = {}
        self._thread = threading.Thread(target=self._run, name=f"pod {pod['metadata']['name']}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notice(self, pod: Object | None) -> None:
        """Takes in the pod as the API has it now; None: gone."""
        if pod is None:
            self._closing = True
        elif "deletionTimestamp" in pod["metadata"] and not self._deletion_seen:
            self._deletion_seen = True
            self._pod = pod
        else:
            return
        self._woken.set()

    def evict(self, message: str) -> None:
        self._evicted = message
        self._woken.set()

    def close(self) -> None:
        self._closing = True
        self._woken.set()
        if self.current is not None:
            self.current.kill()

    def join(self) -> None:
        self._thread.join(timeout=5)

    @property
    def done(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._live()
        except Over:
            pass
        except Exception as error:  # a thread has nobody to raise to; the kubelet's errors are asked at the end
            if not self._closing:
                self._kubelet.errors.append(error)
        finally:
            if self.current is not None:
                self.current.kill()

    def _live(self) -> None:
        self._publish({"waiting": {"reason": "ContainerCreating"}}, "Pending")
        while True:
            self._pull()
            env = self._configure()
            ended = self._start(env) or self._watch()
            policy = self._pod["spec"].get("restartPolicy", "Always")
            if policy == "Never" or (policy == "OnFailure" and ended["exitCode"] == 0):
                self._publish({"terminated": ended}, "Succeeded" if ended["exitCode"] == 0 else "Failed")
                self._await_deletion()
            self._back_off(ended)

    def _pull(self) -> None:
        """Waits until the image is there."""
        image = self._spec["image"]
        while (message := self._kubelet.pull_failure(image)) is not None:
            self._publish({"waiting": {"reason": "ErrImagePull", "message": message}}, self._phase())
            self._record("Warning", "Failed", f'Failed to pull image "{image}": {message}')
            self._record("Warning", "Failed", "Error: ErrImagePull")
            self._pause(self._kubelet.backoff_s / 3)
            back_off = f'Back-off pulling image "{image}": ErrImagePull: {message}'
            self._publish({"waiting": {"reason": "ImagePullBackOff", "message": back_off}}, self._phase())
            self._record("Normal", "BackOff", f'Back-off pulling image "{image}"')
            self._record("Warning", "Failed", "Error: ImagePullBackOff")
            self._pause(self._kubelet.backoff_s)

    def _configure(self) -> dict[str, str]:
        """The container's environment, as soon as all that it names is there."""
        while True:
            try:
                return variables(self._kubelet.connection, self._pod, self._spec, self.address)
            except Unconfigured as error:
                self._publish({"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}, self._phase())
                self._record("Warning", "Failed", f"Error: {error}")
            except (Refused, OSError):
                # The API server is out of order; the next try may find it back.
                pass
            self._pause(self._kubelet.backoff_s)

    def _start(self, stated: dict[str, str]) -> Object | None:
        """Starts the container. Returns how it ended where it did not even start."""
        words, env = localize_all(command_of(self._spec, stated), stated, self.address, self._kubelet.connection)
        mark = f"{self._kubelet.mark}.{self._pod['metadata']['uid']}.{self._restarts}."
        self.previous, self._ready = self.current or self.previous, False
        complete = image_environment(self._pod, self._folder) | moved(env, self._pod, self._spec, self._folder)
        try:
            self.current = Container(words, complete, self._folder, mark, self._woken.set)
        except OSError:
            self.current = None
            message = f'{_RUNC}"{words[0]}": executable file not found in $PATH: unknown'
            self._publish({"waiting": {"reason": "RunContainerError", "message": message}}, self._phase())
            self._record("Warning", "Failed", f"Error: {message}")
            stamp = _stamp(None)
            return {"exitCode": _CANNOT_START, "reason": "StartError", "message": message, "startedAt": stamp, "finishedAt": stamp}
        self._record("Normal", "Started", f"Started container {self._spec['name']}")
        return None

    def _watch(self) -> Object:
        """Waits for the container's end and probes it meanwhile. Returns how it ended."""
        container = self.current
        assert container is not None
        running = {"running": {"startedAt": _stamp(container.started)}}
        self._ready = "readinessProbe" not in self._spec
        self._publish(running, "Running")
        misses = 0
        while container.exit_code is None:
            if "readinessProbe" in self._spec:
                probe = self._spec["readinessProbe"]
                passed = self._probe(probe)
                misses = 0 if passed else misses + 1
                ready = passed or (self._ready and misses < probe.get("failureThreshold", 3))
                if ready != self._ready and container.exit_code is None:
                    self._ready = ready
                    self._publish(running, "Running")
            self._pause(self._probe_period_s(), until=lambda: container.exit_code is not None)
        self._ready = False
        return self._ending(container)

    def _ending(self, container: Container) -> Object:
        code = container.exit_code
        assert code is not None
        reason = "OOMKilled" if container.oom_killed else "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": _stamp(container.started), "finishedAt": _stamp(container.finished)}
        message = container.log.message()
        if code != 0 and message and self._spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = message
        return ended

    def _back_off(self, ended: Object) -> None:
        self._publish({"terminated": ended}, self._phase())
        name, metadata = self._spec["name"], self._pod["metadata"]
        place = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        self._record("Warning", "BackOff", f"Back-off restarting failed container {name} in pod {place}")
        self._pause(self._kubelet.crash_s)
        self._last_state, waiting = {"terminated": ended}, f"back-off 10s restarting failed container={name} pod={place}"
        self._publish({"waiting": {"reason": "CrashLoopBackOff", "message": waiting}}, self._phase())
        self._pause(self._kubelet.backoff_s)
        self._restarts += 1

    def _probe_period_s(self) -> float | None:
        if "readinessProbe" not in self._spec:
            return None
        return min(float(self._spec["readinessProbe"].get("periodSeconds", 10)), self._kubelet.probe_period_s)

    def _probe(self, probe: Object) -> bool:
        timeout_s = min(float(probe.get("timeoutSeconds", 1)), _LONGEST_PROBE_S)
        handler = probe.get("httpGet") or probe.get("tcpSocket")
        if handler is None:
            return True
        port = self._port(handler["port"])
        try:
            if "tcpSocket" in probe:
                socket.create_connection((self.address, port), timeout_s).close()
                return True
            connection = http.client.HTTPConnection(self.address, port, timeout=timeout_s)
            try:
                connection.request("GET", handler.get("path", "/"))
                return 200 <= connection.getresponse().status < 400
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False

    def _port(self, port: int | str) -> int:
        if isinstance(port, int):
            return port
        return next(int(each["containerPort"]) for each in self._spec.get("ports", []) if each.get("name") == port)

    def _pause(self, seconds: float | None, until: Callable[[], bool] = lambda: False) -> None:
        """Waits; deletion, eviction and the kubelet's end come first, and have no return."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            if self._closing:
                raise Over
            if self._evicted is not None:
                self._end_by_eviction()
            if self._deletion_seen and not self._kubelet.stuck:
                self._end_by_deletion()
            left_s = None if deadline is None else deadline - time.monotonic()
            if until() or (left_s is not None and left_s <= 0):
                return
            if self._deletion_seen:
                # The kubelet is stuck, and no event tells when it no longer is.
                left_s = 0.2 if left_s is None else min(left_s, 0.2)
            self._woken.wait(left_s)
            self._woken.clear()

    def _await_deletion(self) -> None:
        self._pause(None)

    def _end_by_deletion(self) -> None:
        grace_s = self._pod["metadata"].get("deletionGracePeriodSeconds", 30)
        container = self.current
        if container is not None and container.exit_code is None:
            self._ready = False
            self._record("Normal", "Killing", f"Stopping container {self._spec['name']}")
            container.terminate()
            self._publish({"running": {"startedAt": _stamp(container.started)}}, "Running")
            deadline = time.monotonic() + grace_s
            while container.exit_code is None and not self._closing and time.monotonic() < deadline:
                self._woken.wait(deadline - time.monotonic())
                self._woken.clear()
            container.kill()
            while container.exit_code is None and not self._closing:
                self._woken.wait(0.2)
                self._woken.clear()
            if container.exit_code is not None:
                self._publish({"terminated": self._ending(container)}, self._phase())
        self._insist(lambda: self._kubelet.connection.delete(self._pod, grace_s=0))
        raise Over

    def _end_by_eviction(self) -> None:
        if self.current is not None:
            self.current.kill()
        message = self._evicted or ""

        def mark(pod: Object) -> None:
            status = pod["status"]
            status |= {"phase": "Failed", "reason": "Evicted", "message": message}
            conditions = status.setdefault("conditions", [])
            set_condition(conditions, "DisruptionTarget", "True", "TerminationByKubelet", message)
            set_condition(conditions, "Ready", "False", "PodFailed")

        self._record("Warning", "Evicted", message)
        self._insist(lambda: self._kubelet.connection.change(self._pod, mark, "status"))
        self._evicted = None
        self._await_deletion()

    def _phase(self) -> str:
        """A pod that ran once stays Running while its container is restarted."""
        return "Running" if self.current is not None or self._last_state else "Pending"

    def _publish(self, state: Object, phase: str) -> None:
        """Writes the pod's status; what others wrote of conditions stays."""

        def write(pod: Object) -> None:
            status = pod.setdefault("status", {})
            status |= {"phase": phase, "hostIP": "127.0.0.1", "podIP": self.address, "podIPs": [{"ip": self.address}]}
            status.setdefault("startTime", _stamp(None))
            status["containerStatuses"] = [self._container_status(state)]
            conditions = status.setdefault("conditions", [])
            set_condition(conditions, "Initialized", "True")
            complaint = ("PodCompleted", "") if phase == "Succeeded" else ("ContainersNotReady", self._unready())
            for kind in ("Ready", "ContainersReady"):
                set_condition(conditions, kind, str(self._ready), *(("", "") if self._ready else complaint))

        self._insist(lambda: self._kubelet.connection.change(self._pod, write, "status"))

    def _container_status(self, state: Object) -> Object:
        return {
            "name": self._spec["name"],
            "image": self._spec["image"],
            "imageID": "",
            "ready": self._ready,
            "started": "running" in state,
            "restartCount": self._restarts,
            "state": state,
            "lastState": self._last_state,
        }

    def _unready(self) -> str:
        return f"containers with unready status: [{self._spec['name']}]"

    def _record(self, kind: str, reason: str, message: str) -> None:
        self._insist(lambda: self._kubelet.recorder.record(self._pod, kind, reason, message))

    def _insist(self, write: Callable[[], object]) -> None:
        """Writes to the API server, again until it answers.

        Raises:
            Over: the pod is gone.
        """
        while not self._closing:
            try:
                write()
                return
            except Refused as error:
                if error.status == 404:
                    raise Over from error
                if error.status < 500 and error.status != 429:
                    raise
            except OSError:
                pass
            time.sleep(_STATUS_RETRY_S)
        raise Over
