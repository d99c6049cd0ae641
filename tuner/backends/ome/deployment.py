"""One server as an InferenceService: watched through the API, removed on every way out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

from tuner.backends.base import DIAGNOSIS_LINES, Deployment, NotReadyInTime, ServerExited
from tuner.backends.log_file import tail
from tuner.backends.ome.lease import LeaseKeeper
from tuner.backends.ome.manifest import CONTAINER
from tuner.backends.ome.reach import Reach
from tuner.backends.ome.sight import Sight
from tuner.backends.ome.verdict import Crashed, Disturbed, Judge, Over, Patience, Serving, Verdict, Waiting
from tuner.errors import Systemic
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.errors import ApiError
from tuner.kube.log import LogFollower
from tuner.kube.pod import PodState
from tuner.kube.removal import Leftover, remove
from tuner.kube.resources import INFERENCE_SERVICE
from tuner.launch import Endpoint, ExitStatus, LaunchSpec
from tuner.ome_settings import OmeBackendSettings

_LOG = logging.getLogger(__name__)
_LOOK_EACH_S = 0.2
_LOG_END_S = 2.0
AWAY_S = 120.0
"""Seconds without news from the API server after which a server that is not ready yet is given up."""
TOLD_AFTER_S = 5.0
"""Seconds in the queue, or without the API server, from which the user is told."""
AFTER_INTERRUPT_S = 20.0
"""Seconds for a removal that is in a hurry, beyond the server's own grace."""
REACH_S = 60.0
"""Seconds after which a server that the cluster calls ready must answer at the address that tuner uses."""


class OmeDeployment(Deployment):
    """A server of `Ome`; made by `Ome.deploy`.

    Args:
        cluster: Where it is.
        service: Its InferenceService.
        spec: What was asked for.
        settings: The keys of `backend`.
        port: Where its container listens.
        log_path: Its log.
        log: Fills `log_path`.
        owner: `Owner.to_str` of this process.
        on_closed: Called once at the end: with what stands in the way of its removal, or empty.
        on_progress: Is told, in a line, what takes long.
    """

    def __init__(
        self,
        cluster: Cluster,
        service: Leftover,
        spec: LaunchSpec,
        settings: OmeBackendSettings,
        port: int,
        log_path: Path,
        log: LogFollower,
        owner: str,
        on_closed: Callable[[str], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self.log_path = log_path
        self._cluster = cluster
        self._service = service
        self._model = spec.served_model
        self._settings = settings
        self._log = log
        self._on_closed = on_closed
        self._on_progress = on_progress
        patience = Patience(settings.queue_timeout_s, settings.pull_timeout_s, spec.ready_timeout_s, settings.max_restarts)
        self._judge = Judge(service.uid, patience)
        self._told_of_queue = self._told_of_trouble = False
        self._broken_before: int | None = None
        self._status: ExitStatus | None = None
        self._closed = False
        self._sight = Sight(cluster, service.name)
        self._lease = LeaseKeeper(cluster, INFERENCE_SERVICE, service.name, owner, settings.lease_s)
        self._reach = Reach(cluster, settings, service.name, port, self._sight.pod)
        log.follow(self._sight.pod)
        self.endpoint = self._reach.endpoint(self._model)

    def wait_ready(self, answers: Callable[[Endpoint], bool], timeout_s: float) -> None:
        """See `Deployment.wait_ready`. `timeout_s` counts from the container's start; the waits before it are bounded by the settings."""
        self._judge.patience = dataclasses.replace(self._judge.patience, start_s=timeout_s)
        serving_since: float | None = None
        while True:
            if self._status is not None:
                raise ServerExited(self._status)
            verdict = self._look()
            match verdict:
                case Over(failure):
                    raise failure
                case Crashed() | Disturbed():
                    self._status = self._ended(verdict)
                    raise ServerExited(self._status)
                case Serving(pod):
                    serving_since = serving_since or time.monotonic()
                    self.endpoint = self._reach.endpoint(self._model, pod.address)
                    if answers(self.endpoint):
                        self._broken_before = self._reach.broken
                        return
                    if time.monotonic() - serving_since >= REACH_S:
                        where = f"the server is ready but does not answer at {self.endpoint.url} as {self._model}"
                        raise Systemic(f"{where}: check backend.access and backend.url", self.log_tail(DIAGNOSIS_LINES))
                    self._check_api()
                case Waiting() | None:
                    self._check_api()
                case _:
                    raise NotReadyInTime(timeout_s, self.log_tail(DIAGNOSIS_LINES))
            self._sight.wait(_LOOK_EACH_S)

    def exit_status(self) -> ExitStatus | None:
        """See `Deployment.exit_status`. While the API server is away the server goes on, unless that is the way to it."""
        if self._status is None and not self._closed:
            verdict = self._look()
            if isinstance(verdict, Crashed | Disturbed):
                self._status = self._ended(verdict)
            elif isinstance(verdict, Over):
                self._status = ExitStatus(None, False, self.log_tail(DIAGNOSIS_LINES), f"The server ended: {verdict.failure.reason}")
            elif self._broken_before is not None and self._reach.broken > self._broken_before:
                what = "The way to the server through the Kubernetes API broke: a port-forward is not for measuring."
                self._status = ExitStatus(None, False, self.log_tail(DIAGNOSIS_LINES), what)
        return self._status

    def log_tail(self, lines: int = 40) -> str:
        return tail(self.log_path, lines)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        spoken = "" if self.log_tail(1) else self._spoken()
        why = "its removal was broken off"
        try:
            try:
                why = remove(self._cluster, self._service, self._removal_s())
            except BaseException:  # an interrupt; the server must go nevertheless
                why = remove(self._cluster, self._service, self._settings.stop_grace_s + AFTER_INTERRUPT_S)
                raise
        finally:
            for part in (self._lease, self._sight, self._reach):
                part.close()
            self._log.finish(_LOG_END_S)
            if spoken and not self.log_tail(1):  # it lived for less than the log's follower waits between two looks
                self.log_path.write_text(spoken)
            self._status = self._status or ExitStatus(None, False, self.log_tail(DIAGNOSIS_LINES))
            if why:
                name = self._service.name
                _LOG.warning("InferenceService %s cannot be removed now: %s; `tuner clean backend=ome` removes it later", name, why)
            self._on_closed(why)

    def _spoken(self) -> str:
        """The output of the container until now; empty where there is none or it cannot be had."""
        pod = self._sight.pod()
        if pod is None:
            return ""
        try:
            with self._cluster.log(pod, CONTAINER) as stream:
                return "".join(f"{line}\n" for line in stream)
        except ApiError:
            return ""

    def _removal_s(self) -> float:
        """How long to wait for the end of everything; less where the API server has been away for long already."""
        whole_s = self._settings.stop_grace_s + self._settings.delete_timeout_s
        trouble = self._sight.trouble
        away = trouble is not None and trouble[1].away and time.monotonic() - trouble[0] >= AWAY_S / 2
        return min(whole_s, AFTER_INTERRUPT_S) if away else whole_s

    def _look(self) -> Verdict | None:
        """What becomes of the server; None before the first news of it."""
        view = self._sight.view()
        if view is None:
            return None
        verdict = self._judge.look(view, time.monotonic())
        self.queued_s = self._judge.spent.get("queued", 0.0)
        match verdict:
            case Waiting("queued", why) if self.queued_s >= TOLD_AFTER_S and not self._told_of_queue:
                self._told_of_queue = True
                self._on_progress(f"Waiting for a place in the cluster: {why}")
        return verdict

    def _check_api(self) -> None:
        trouble = self._sight.trouble
        if trouble is None:
            return
        since, error = trouble
        if not self._told_of_trouble and time.monotonic() - since >= TOLD_AFTER_S:
            self._told_of_trouble = True
            self._on_progress(f"Waiting, for at most {AWAY_S:g} s: {explain(error, self._cluster, 'watch the server')}")
        if error.status in (401, 403) or time.monotonic() - since >= AWAY_S:
            raise Systemic(explain(error, self._cluster, "watch the server"))

    def _ended(self, verdict: Crashed | Disturbed) -> ExitStatus:
        if isinstance(verdict, Disturbed):
            return ExitStatus(None, False, self.log_tail(DIAGNOSIS_LINES), verdict.what)
        ended = verdict.pod.ended
        assert ended is not None
        log = self.log_tail(DIAGNOSIS_LINES)
        if ended.message.strip() not in log:
            log = self._last_words(verdict.pod) or ended.message
        return ExitStatus(ended.code, ended.oom_killed, log)

    def _last_words(self, pod: PodState) -> str:
        """The log of a container that ended before its output had all come in; where it was started again, that of the one before."""
        try:
            with self._cluster.log(pod.name, CONTAINER, previous=pod.running or pod.restarts > 0, lines=DIAGNOSIS_LINES) as stream:
                return "\n".join(stream)
        except ApiError as error:  # a node that does not answer must not fail the trial a second time
            _LOG.debug("no log of %s: %s", pod.name, error)
            return ""
