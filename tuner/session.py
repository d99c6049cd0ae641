"""A run from beginning to end: puts engine, backend, benchmark, study and display together. The only place that knows all of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from tuner import host
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Backend
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.backends.ome.backend import Ome
from tuner.confirm.companion import CONFIRM, CONTROL, open_companion
from tuner.confirm.control import open_control
from tuner.confirm.drift import check_drift, default_series, drift_due, estimated_noise
from tuner.confirm.run import Confirmation
from tuner.confirm.verdict import Verdict, verdict_of
from tuner.engines.base import Engine
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.feasibility.gate import Gate
from tuner.gpus import GpuSlots
from tuner.ome_settings import OmeBackendSettings
from tuner.parties import create_backend, create_benchmark, create_engine, create_gate, create_knowledge, find_gpus, known_gpus
from tuner.prior.records import lessons, read
from tuner.replay.backend import ReplayBackend
from tuner.replay.pages import LastPages
from tuner.replay.working_copy import working_copy
from tuner.report import markdown, summary
from tuner.report.pages import Pages, artifacts_folder
from tuner.runner import Patience, reason_to_end, run_trials
from tuner.settings import Settings
from tuner.storage import open_storage, shown
from tuner.study import Ledger
from tuner.telemetry.display import Display, create_display
from tuner.trial import Rig


def run_study(settings: Settings, verbosity: int) -> int:
    """Runs or resumes the study that `settings` describe, and reports it.

    Args:
        settings: The experiment, as `parties.decide` returns it.
        verbosity: -1 quiet, 0 normal, 1 verbose.

    Returns:
        The exit code 0.

    Raises:
        TunerError: the study cannot run or go on; one line.
        KeyboardInterrupt: the user broke off; everything is stopped and the same command goes on.
    """
    try:
        with ExitStack() as held:
            return _run_study(settings, verbosity, held)
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise NotReadyError(f"storage.url: {shown(settings.storage.url)} failed: {cause}; the same command goes on from here") from error


def _run_study(settings: Settings, verbosity: int, held: ExitStack) -> int:
    engine = create_engine(settings)
    display = create_display(settings, verbosity, sys.stdout)
    quiet_optuna()
    gpus = find_gpus(settings)
    backend = create_backend(settings, gpus, display.notice)
    backend.check()
    storage = open_storage(settings.storage.url)
    _make_folder(settings.study_folder)
    engine.prepare()
    gate = create_gate(settings, engine, backend, gpus)
    facts: dict[str, dict[str, Any]] = {
        "host": host.describe() | {"gpus": [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in gpus or ()]},
        "engine": dict(engine.describe()),
        "backend": dict(backend.describe()),
    }
    warm = settings.sampler.name == "ehvi" and settings.sampler.warm_start
    earlier = read(settings, facts, storage) if warm else []
    for lesson in lessons(settings, facts, earlier):
        gate.learn(*lesson)
    knowledge = create_knowledge(settings, engine, known_gpus(backend, gpus), earlier)
    studies: optuna.storages.BaseStorage = storage
    if isinstance(backend, ReplayBackend):
        names = [settings.study_name, *(f"{settings.study_name}.{part}" for part in (CONFIRM, CONTROL))]
        studies = held.enter_context(working_copy(storage, names))
    ledger = Ledger(settings, studies, engine.defaults, knowledge=knowledge)
    if earlier:
        known = f"{len(earlier)} earlier stud{'ies' if len(earlier) > 1 else 'y'}"
        display.notice(f"The search knows of {known} of this engine, model and hardware (sampler.warm_start).")
    if settings.stand_in_for is not None:
        why = "No NVIDIA device on this host: t" if host.nvidia_device() is None else "T"
        display.notice(
            f"{why}uning a stand-in for {settings.stand_in_for}, {settings.engine.name} with the model {settings.engine.model} on the CPU. "
            "Every step is real, but the numbers say nothing about a GPU."
        )
    if isinstance(backend, ReplayBackend):
        display.notice(f"Replaying {backend.table.path}: no server is started, and time is charged instead of spent.")
        for trial in ledger.study.get_trials(deepcopy=False):
            backend.clock.charge(sum(trial.user_attrs.get("durations_s", {}).values()))  # a resumed study goes on when it stopped
    for line in (*backend.reap(), *backend.stuck):
        display.notice(line)
    if abandoned := ledger.recover():
        display.notice(f"{abandoned} trial{'s' if abandoned > 1 else ''} of a killed run will be tried again")
    for key, value in facts.items():
        ledger.note(key, value)
    try:
        with ExitStack() as stack:
            verdict = _Run(ledger, gate, engine, backend, display, stack).to_the_end()
    except (KeyboardInterrupt, Systemic) as error:
        how = "Stopped" if isinstance(error, Systemic) else "Interrupted"
        where = f"after {len(ledger.finished)} of {settings.trials} trials" if ledger.remaining else "after the trials of the search"
        display.notice(f"{how} {where}. The same command goes on from here.")
        display.notice(f"Logs and results so far: {settings.study_folder}/")
        raise
    summary.show(ledger, engine, backend, display.console, verdict)
    return 0


class _Run:
    """What is left of a study: trials, confirmation, control arm, verdict.

    Args:
        ledger: The study.
        gate: Judges configurations.
        engine: Prepared.
        backend: Checked.
        display: Shows it.
        stack: Holds the load generator and the display, from the first deployment on.
    """

    def __init__(self, ledger: Ledger, gate: Gate, engine: Engine, backend: Backend, display: Display, stack: ExitStack) -> None:
        self._ledger = ledger
        self._gate = gate
        self._engine = engine
        self._backend = backend
        self._display = display
        self._stack = stack

    @cached_property
    def _work(self) -> tuple[Rig, Pages]:
        """What deploys and draws; it takes seconds to start, and is not needed for a study that is done."""
        settings = self._ledger.settings
        pages = self._stack.enter_context(_pages(settings, self._ledger))
        benchmark = self._stack.enter_context(create_benchmark(settings, self._engine, self._backend))
        self._stack.enter_context(self._display.following(self._ledger))
        return Rig(self._gate, self._engine, self._backend, benchmark, settings.workload), pages

    def to_the_end(self) -> Verdict:
        """Deploys what is missing, says what it has shown, and writes the report."""
        settings, defaults = self._ledger.settings, self._engine.defaults
        if self._ledger.remaining or self._ledger.take_over():
            why = reason_to_end(self._ledger, wall_s=0.0) or self._search()
            if why is not None:
                self._display.notice(f"The study ends: {why}.")
        confirmation = Confirmation(self._ledger, defaults)
        control = open_control(self._ledger, defaults) if settings.control.random else None
        with self._display.aside():
            if confirmation.pending:
                confirmation.run(*self._with_display())
            if control is not None and (control.recover() or control.remaining):
                self._display.notice(f"Control arm: {control.settings.trials} random trials, to see whether the search was worth it")
                rig, pages = self._work
                run_trials(control, rig, self._display, pages)
        verdict = verdict_of(confirmation, control)
        markdown.write(confirmation, control, verdict, self._engine, self._backend)
        return verdict

    def _with_display(self) -> tuple[Rig, Display, Pages]:
        rig, pages = self._work
        return rig, self._display, pages

    def _search(self) -> str | None:
        """Runs trials, and says which condition of `stop` ended them."""
        ledger, display, settings = self._ledger, self._display, self._ledger.settings
        why = run_trials(ledger, *self._with_display(), between=self._watch_drift())
        if not ledger.finished:
            raise ConfigError(f"space: none of its {settings.space.size} configurations can run; the last refusal: {ledger.refused[-1]}")
        if refused := len(ledger.refused):
            display.notice(f"{refused} impossible configuration{'s were' if refused > 1 else ' was'} refused without a deployment.")
        if ledger.remaining and why is None:
            display.notice(
                f"All {settings.space.size} configurations of the space are known or refused; "
                f"the study ends before {settings.trials} trials."
            )
        return why

    def _watch_drift(self) -> Callable[[Patience], None]:
        """Measures the defaults again now and then, which also tells how noisy this place is."""
        ledger = self._ledger
        if not ledger.settings.confirm.drift_every or ledger.settings.trials <= ledger.settings.confirm.drift_every:
            return lambda patience: None
        companion = open_companion(ledger, CONFIRM, self._engine.defaults)
        companion.recover()

        def between(patience: Patience) -> None:
            if drift_due(ledger, companion):
                with self._display.aside():
                    check_drift(ledger, companion, *self._with_display(), patience)
            if default_series(ledger, companion)[1:]:
                ledger.noise = max(estimated_noise(ledger, companion))

        return between


@contextmanager
def _pages(settings: Settings, ledger: Ledger) -> Iterator[Pages]:
    """The dashboard's pages: drawn after each trial, those of a replay when it ends."""
    pages = (LastPages if settings.backend.name == "replay" else Pages)(ledger, artifacts_folder(settings))
    pages.introduction()
    try:
        yield pages
    finally:
        if isinstance(pages, LastPages):
            pages.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReadyError(f"folder: cannot create {folder} ({error.strerror}); choose a folder that you may write to") from error


def quiet_optuna() -> None:
    """Keeps Optuna's log lines and its notices on experimental functions off the display; its warnings on our use of it stay."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def reap_all(settings: Settings) -> int:
    """Removes what dead owners left behind on every backend that can be reached, and says what.

    A cluster is looked into only where `backend=ome` says so: which namespace is meant stands in its keys.

    Returns:
        The exit code: 1 where something could not be removed.

    Raises:
        NotReadyError: that cluster cannot be asked.
    """
    display = create_display(settings, 0, sys.stdout)
    chosen = settings.backend if isinstance(settings.backend, DockerBackendSettings) else DockerBackendSettings(name="docker")
    backends: list[Backend] = [Local(), Docker(chosen, GpuSlots(()))]
    if isinstance(settings.backend, OmeBackendSettings):
        backends.append(Ome(settings.backend, on_progress=display.notice))
    removed = stuck = 0
    for backend in backends:
        try:
            lines = backend.reap()
        except NotReadyError as error:
            if backend.name == settings.backend.name:
                raise
            display.notice(f"No look at backend {backend.name}: {error}")
            continue
        for line in (*lines, *backend.stuck):
            display.notice(line)
        removed += len(lines)
        stuck += len(backend.stuck)
    if removed or not stuck:
        display.notice(f"Removed {removed}." if removed else "Nothing was left behind.")
    return 1 if stuck else 0
