"""One trial: a configuration is deployed, warmed up and measured at every load level; failures are given to whose fault they are."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuner.backends.base import READY_POLL_S, Backend, Deployment, NotReadyInTime, Place, ServerExited
from tuner.benchmark.base import Benchmark, Load, ServerUnusable
from tuner.benchmark.measurement import Measurement
from tuner.benchmark.reuse import reuse
from tuner.benchmark.scenario import Scenario
from tuner.course import Course
from tuner.engines.base import Engine
from tuner.errors import Infeasible, Transient, TrialFailure
from tuner.feasibility.gate import Gate
from tuner.interrupts import interrupts_deferred
from tuner.launch import Configuration, Value
from tuner.server_facts import Startup
from tuner.settings import Workload
from tuner.telemetry.progress import Progress
from tuner.telemetry.watch import Watch

DYING_S = 2.0
"""A crashing server fails its requests a moment before its process has ended."""


@dataclass(slots=True)
class Record:
    """What a trial has shown so far; kept whatever way it ends.

    Attributes:
        effective: Parameter values the server says it uses.
        startup: What it logged about memory when it started.
        measurements: By load level.
        server: What its own metrics showed, by load level; see `Watch.summary`.
        unflushed: Load levels before which the engine could not drop its prompt cache.
        durations_s: Seconds spent waiting for a place, deploying, warming up and under load.
        gpus: GPUs that the deployment held.
        engine_version: As the server tells it.
        complete: Whether all load levels were measured that should be: whatever happens afterwards cannot take that away.
        pruned: Why the trial was not worth going on with; None where it ran to its end.
    """

    effective: dict[str, Value] = field(default_factory=dict)
    startup: Startup = field(default_factory=Startup)
    measurements: dict[int, Measurement] = field(default_factory=dict)
    server: dict[int, dict[str, float]] = field(default_factory=dict)
    unflushed: list[int] = field(default_factory=list)
    durations_s: dict[str, float] = field(default_factory=dict)
    gpus: int = 0
    engine_version: str = "unknown"
    complete: bool = False
    pruned: str | None = None


@dataclass(frozen=True, slots=True)
class Rig:
    """The parties of a trial, and the traffic.

    Attributes:
        gate: Tells configurations that are certainly impossible.
        engine: Configuration to launch spec.
        backend: Launch spec to deployment.
        benchmark: Deployment and load level to measurement.
        workload: The traffic.
    """

    gate: Gate
    engine: Engine
    backend: Backend
    benchmark: Benchmark
    workload: Workload

    def refuse(self, configuration: Configuration) -> str | None:
        """Why a configuration would certainly never serve, found out without deploying it; None where it may."""
        try:
            spec = self.engine.launch(configuration, "")
        except Infeasible as refused:
            return refused.reason
        return self.backend.refuse(spec) or self.gate.refuse(configuration)

    def measure(self, configuration: Configuration, place: Place, progress: Progress, record: Record, course: Course) -> None:
        """Deploys a configuration and measures the load levels of its course.

        Args:
            configuration: What to deploy.
            place: Whose deployment it is.
            progress: Is told what happens.
            record: Is filled as facts come in, so that a failure keeps what was seen before it.
            course: Chooses the load levels, and ends the trial where going on is not worth it.

        Raises:
            TrialFailure: the class says whose fault it was.
        """
        spec = self.engine.launch(configuration, f"{place.study}-{place.trial}-{secrets.token_hex(4)}")
        progress.stage("deploy")
        record.gpus = spec.gpus
        start = self.backend.clock()
        with ExitStack() as held:
            with interrupts_deferred():  # nobody would remove a server that is just handed over
                server = held.enter_context(self.backend.deploy(spec, place))
            try:
                server.wait_ready(self.engine.ready, spec.ready_timeout_s)
                record.durations_s["deploy"] = self.backend.clock() - start - server.queued_s
                record.effective = dict(self.engine.effective(server.endpoint))
                record.engine_version = self.engine.version(server.endpoint)
                self._warm_up(server, progress, record)
                self._load(server, place.folder, progress, record, course)
            except ServerExited as gone:
                raise self.engine.diagnose(gone.status) from gone
            except NotReadyInTime as late:
                reason = f"the server did not answer within {late.timeout_s:g} s; raise engine.ready_timeout_s if it was still loading"
                raise Transient(reason, late.log_tail) from late
            except ServerUnusable as unusable:
                raise self._blame(server, unusable) from unusable
            finally:
                record.durations_s.setdefault("deploy", self.backend.clock() - start - server.queued_s)  # paid for all the same
                if server.queued_s:
                    record.durations_s["queue"] = server.queued_s
                record.startup = self.engine.startup(_text(server.log_path))

    def _warm_up(self, server: Deployment, progress: Progress, record: Record) -> None:
        progress.stage("warm-up")
        start = self.backend.clock()
        if self.workload.warmup_requests:
            users = min(self.workload.warmup_requests, self.workload.levels[-1])
            self.benchmark.warm_up(server.endpoint, self.workload.scenario, self.workload.warmup_requests, users)
        record.durations_s["warm-up"] = self.backend.clock() - start

    def _load(self, server: Deployment, folder: Path, progress: Progress, record: Record, course: Course) -> None:
        start = self.backend.clock()
        while not record.pruned and (level := course.next_level(record.measurements)) is not None:
            flushed = self.engine.flush_cache(server.endpoint)
            if not flushed:
                record.unflushed.append(level)
            load = Load(self.workload.scenario, level, self.workload.requests(level), self.workload.max_time_s, self.workload.stall_s)
            progress.level(level, load.requests)
            try:
                with Watch(lambda: self.engine.metrics(server.endpoint)) as watch:
                    measurement = self.benchmark.run(
                        server.endpoint, load, folder, lambda: server.exit_status() is None, on_progress=progress.requests
                    )
            finally:
                record.durations_s["load"] = self.backend.clock() - start
            record.server[level] = watch.summary
            if measurement.error_rate > self.workload.max_error_rate:
                failed = ", ".join(f"{count} x {code}" for code, count in measurement.errors.items())
                raise ServerUnusable(
                    f"{measurement.error_rate:.0%} of the requests failed at level {level} ({failed}); workload.max_error_rate"
                )
            first = next(iter(record.server.values())).get("cache_hit_rate") if len(record.server) > 1 else None
            reused = reuse(Scenario.parse(self.workload.scenario), measurement, watch.summary, flushed, first)
            measurement = replace(measurement, cache_reuse=reused)
            record.measurements[level] = measurement
            progress.measured(level, measurement)
            record.pruned = course.hopeless(record.measurements)
        record.complete = True

    def _blame(self, server: Deployment, unusable: ServerUnusable) -> TrialFailure:
        """A dead server tells the cause itself; a living one that serves nothing under this traffic is the configuration's fault."""
        deadline = time.monotonic() + DYING_S
        while (status := server.exit_status()) is None and not unusable.rejected and time.monotonic() < deadline:
            time.sleep(READY_POLL_S)
        if status is not None:
            return self.engine.diagnose(status)
        return Infeasible(unusable.reason, server.log_tail())


def _text(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""
