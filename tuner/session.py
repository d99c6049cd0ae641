"""A run from beginning to end: puts engine, backend, benchmark, study and display together. The only place that knows all of them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import optuna

from tuner import host
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.base import Backend
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.backends.ome.backend import Ome
from tuner.engines.base import Engine
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.feasibility import gate as feasibility
from tuner.feasibility.gate import Gate
from tuner.gpus import GpuSlots
from tuner.ome_settings import OmeBackendSettings
from tuner.parties import create_backend, create_benchmark, create_engine, find_gpus, known_gpus
from tuner.report import summary
from tuner.report.pages import Pages, artifacts_folder
from tuner.runner import run_trials
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
        return _run_study(settings, verbosity)
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise NotReadyError(f"storage.url: {shown(settings.storage.url)} failed: {cause}; the same command goes on from here") from error


def _run_study(settings: Settings, verbosity: int) -> int:
    engine = create_engine(settings)
    display = create_display(settings, verbosity, sys.stdout)
    quiet_optuna()
    gpus = find_gpus(settings)
    backend = create_backend(settings, gpus, display.notice)
    backend.check()
    storage = open_storage(settings.storage.url)
    _make_folder(settings.study_folder)
    engine.prepare()
    gate = feasibility.create(engine.name, engine.defaults, engine.model_folder, known_gpus(backend, gpus))
    ledger = Ledger(settings, storage, engine.defaults)
    if settings.stand_in_for is not None:
        why = "No NVIDIA device on this host: t" if host.nvidia_device() is None else "T"
        display.notice(
            f"{why}uning a stand-in for {settings.stand_in_for}, {settings.engine.name} with the model {settings.engine.model} on the CPU. "
            "Every step is real, but the numbers say nothing about a GPU."
        )
    for line in (*backend.reap(), *backend.stuck):
        display.notice(line)
    if abandoned := ledger.recover():
        display.notice(f"{abandoned} trial{'s' if abandoned > 1 else ''} of a killed run will be tried again")
    facts = {
        "host": host.describe() | {"gpus": [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in gpus or ()]},
        "engine": dict(engine.describe()),
        "backend": dict(backend.describe()),
    }
    for key, value in facts.items():
        ledger.note(key, value)
    if ledger.remaining or ledger.take_over():
        try:
            _run(settings, ledger, gate, engine, backend, display)
        except (KeyboardInterrupt, Systemic) as error:
            how = "Stopped" if isinstance(error, Systemic) else "Interrupted"
            display.notice(f"{how} after {len(ledger.finished)} of {settings.trials} trials. The same command goes on from here.")
            display.notice(f"Logs and results so far: {settings.study_folder}/")
            raise
    summary.show(ledger, engine, backend, display.console)
    return 0


def _run(settings: Settings, ledger: Ledger, gate: Gate, engine: Engine, backend: Backend, display: Display) -> None:
    pages = Pages(ledger, artifacts_folder(settings))
    pages.introduction()
    benchmark = create_benchmark(settings, engine, backend)
    with benchmark, display.following(ledger):
        run_trials(ledger, Rig(gate, engine, backend, benchmark, settings.workload), display, pages)
    if not ledger.finished:
        raise ConfigError(f"space: none of its {settings.space.size} configurations can run; the last refusal: {ledger.refused[-1]}")
    if refused := len(ledger.refused):
        display.notice(f"{refused} impossible configuration{'s were' if refused > 1 else ' was'} refused without a deployment.")
    if ledger.remaining:
        display.notice(
            f"All {settings.space.size} configurations of the space are known or refused; the study ends before {settings.trials} trials."
        )


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
