"""genai-bench as a Kubernetes Job beside the servers, one for each load level: for a cluster that tuner looks into from outside.

A port-forward is no way for a load that is to be measured. The results come back through the log of the Job's pod.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.benchmark.base import Benchmark, Load, ServerUnusable
from tuner.benchmark.client import Client, genai_bench_version
from tuner.benchmark.job_judge import Judge
from tuner.benchmark.job_manifest import CONTAINER, MarksFor, ModelMount, job, level_s
from tuner.benchmark.job_messages import OUTCOME, Transcript, of_outcome, own
from tuner.benchmark.job_request import LevelRequest
from tuner.benchmark.measurement import Measurement
from tuner.benchmark.warmup import warm_up
from tuner.benchmark_settings import JobSettings
from tuner.errors import ConfigError, Systemic, Transient
from tuner.kube.cluster import Cluster
from tuner.kube.connection import explain
from tuner.kube.errors import ApiError
from tuner.kube.job_run import JobRun
from tuner.kube.pod import PodState
from tuner.launch import Endpoint

POLL_S = 0.1
LOG_S = 20.0
"""Seconds for which the log of a pod that has ended is asked for."""
SILENCE_S = 30.0
"""Some times what a worker is ever silent for, see `tuner.benchmark.job_worker.BEAT_S`."""
TAIL = 40


class JobBench(Benchmark):
    """Runs load levels as Jobs.

    Args:
        cluster: The cluster, and the namespace in it where the servers are.
        settings: The keys of `benchmark.job`, with an image.
        client: Dataset, prompt column and request parameters. Its key is sent nowhere, and its tokenizer is taken only where it is a hub id
            and nothing better is known.
        marks_for: Gives the labels and annotations of a Job that must not be taken for abandoned within so many seconds.
        model: The model's folder on the nodes, for its tokenizer.

    Raises:
        ConfigError: there is no tokenizer that a pod could read.
    """

    name = "genai_bench"

    def __init__(
        self, cluster: Cluster, settings: JobSettings, client: Client, marks_for: MarksFor, model: ModelMount | None = None
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._client = client
        self._marks_for = marks_for
        self._mount = model if settings.tokenizer is None else None
        self._tokenizer = settings.tokenizer or (model.path if model is not None else client.tokenizer)
        self._version: str | None = None
        if settings.tokenizer is None and model is None and Path(client.tokenizer).exists():
            raise ConfigError(
                f"benchmark.job.tokenizer: missing; {client.tokenizer} is on this host, where the Job's pod does not see it: "
                "name a hub id, or a path in benchmark.job.image"
            )

    def run(
        self,
        endpoint: Endpoint,
        load: Load,
        folder: Path,
        server_alive: Callable[[], bool],
        on_progress: Callable[[int], None] | None = None,
    ) -> Measurement:
        """Runs one load level; its raw results go into `folder/level-<concurrency>.json`. Errors: see `Benchmark.run`."""
        client, url = self._client, endpoint.inside_url or endpoint.url
        request = LevelRequest(
            url, endpoint.model, load, self._tokenizer, client.dataset, client.prompt_column, dict(client.request_params)
        )
        manifest = job(request, self._settings, self._cluster.namespace, self._marks_for, self._mount)
        try:
            with JobRun(self._cluster, manifest, CONTAINER, SILENCE_S) as run:
                level = _Level(self._cluster, run, Judge(self._settings, level_s(load.max_time_s), run.warnings), on_progress)
                level.follow(server_alive)
        except ApiError as error:
            raise self._refused(error) from error
        self._version = level.version or self._version
        parcels = level.transcript.parcels()
        outcome = parcels.pop(OUTCOME)
        for name, content in parcels.items():
            (folder / Path(name).name).write_bytes(content)
        try:
            return of_outcome(outcome)
        except Systemic as failure:
            what = f"benchmark.job.tokenizer, here {self._tokenizer}, and benchmark.job.image={self._settings.image}"
            raise Systemic(f"{failure.reason}: check {what}", failure.detail) from failure

    def warm_up(self, endpoint: Endpoint, scenario: str, requests: int, users: int) -> None:
        warm_up(endpoint, scenario, requests, users)

    def version(self) -> str:
        """That of the image; before the first level that of this host, where it is usually the same."""
        return self._version or genai_bench_version()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is held between levels."""

    def _refused(self, error: ApiError) -> Systemic | Transient:
        """What an answer to the creation of the Job means."""
        if error.passing or "exceeded quota" in error.message:
            return Transient(explain(error, self._cluster, "create jobs"))
        if error.status in (400, 422) or "admission webhook" in error.message:
            fix = "check benchmark.job.resources, node_selector and patch"
            return Systemic(f"benchmark.job: the cluster refuses the load generator's Job ({error.message}); {fix}")
        return Systemic(explain(error, self._cluster, "create jobs"))


class _Level:
    """One level while it runs.

    Attributes:
        transcript: What the pod has told.
        version: Version of genai-bench in the pod; None while it has not told.
    """

    def __init__(self, cluster: Cluster, run: JobRun, judge: Judge, on_progress: Callable[[int], None] | None) -> None:
        self.transcript = Transcript()
        self.version: str | None = None
        self._cluster = cluster
        self._run = run
        self._judge = judge
        self._on_progress = on_progress
        self._finished = 0

    def follow(self, server_alive: Callable[[], bool]) -> None:
        """Returns when all that the pod has to tell is here.

        Raises:
            ServerUnusable: `server_alive` became false.
            Transient: the pod will tell no more.
            Systemic: no pod would.
        """
        while True:
            pod = self._run.pod
            if pod is not None and pod.started:
                self._take(self._run.log(pod).new_lines())
            if self.transcript.complete:
                return
            if not server_alive():
                raise ServerUnusable("the server ended during the load level")
            if pod is not None and pod.ended is not None and not pod.deleting:
                self._read_to_the_end(pod, server_alive)
                return
            if (failure := self._judge.look(pod, time.monotonic())) is not None:
                raise failure
            self._raise_forbidden(self._run.trouble, "watch pods")
            time.sleep(POLL_S)

    def _read_to_the_end(self, pod: PodState, server_alive: Callable[[], bool]) -> None:
        log, deadline = self._run.log(pod), time.monotonic() + LOG_S
        # nothing more comes of a program that failed; one that ended well has told its result, which may only be on its way
        hopeless = bool(pod.disturbed) or pod.ended is None or pod.ended.code != 0
        tail = ""
        while True:
            try:
                lines = log.all_lines()
                tail = "\n".join([line for line in lines if not own(line)][-TAIL:])
                self._take(lines)
                over = hopeless
            except ApiError as error:
                self._raise_forbidden(error, "read logs of pods")
                tail = tail or str(error)
                over = bool(pod.disturbed) or (pod.ended is not None and pod.ended.never_started)
            if self.transcript.complete:
                return
            if not server_alive():
                raise ServerUnusable("the server ended during the load level")
            if over or time.monotonic() > deadline:
                raise self._judge.ended(pod, tail)
            time.sleep(POLL_S)

    def _raise_forbidden(self, error: ApiError | None, doing: str) -> None:
        if error is not None and error.status in (401, 403):
            raise Systemic(explain(error, self._cluster, doing))

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            message = self.transcript.take(line)
            if message is None:
                continue
            if message.kind == "hello":
                self.version = str(message.body["version"])
            if message.kind == "progress" and message.body["finished"] > self._finished and self._on_progress is not None:
                self._finished = int(message.body["finished"])
                self._on_progress(self._finished)
