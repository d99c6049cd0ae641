"""A run from beginning to end: puts engine, backend, benchmark, study and display together. The only place that knows all of them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import optuna

from tuner import host
from tuner.backends import auto
from tuner.backends.base import Backend
from tuner.backends.local import Local
from tuner.benchmark.genai_bench import GenaiBench
from tuner.engines.base import Engine
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, NotReadyError, Systemic
from tuner.explain import nearest
from tuner.report import summary
from tuner.report.pages import Pages, artifacts_folder
from tuner.runner import run_trials
from tuner.settings import BackendSettings, LlamaCppSettings, Settings
from tuner.storage import open_storage, shown
from tuner.study import Ledger
from tuner.telemetry.display import Display, create_display
from tuner.trial import Rig


def run_study(settings: Settings, verbosity: int) -> int:
    """Runs or resumes the study that `settings` describe, and reports it.

    Args:
        settings: The experiment.
        verbosity: -1 quiet, 0 normal, 1 verbose.

    Returns:
        The exit code 0.

    Raises:
        TunerError: the study cannot run or go on; one line.
        KeyboardInterrupt: the user broke off; everything is stopped and the same command goes on.
    """
    try:
        return _run_study(with_backend(settings), verbosity)
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise NotReadyError(f"storage.url: {shown(settings.storage.url)} failed: {cause}; the same command goes on from here") from error


def _run_study(settings: Settings, verbosity: int) -> int:
    engine, backend = create_engine(settings), create_backend(settings)
    check_parameters(settings, engine)
    display = create_display(settings, verbosity, sys.stdout)
    quiet_optuna()
    backend.check()
    storage = open_storage(settings.storage.url)
    _make_folder(settings.study_folder)
    engine.prepare()
    ledger = Ledger(settings, storage, engine.defaults)
    if settings.stand_in_for is not None:
        why = "No NVIDIA device on this host: t" if host.nvidia_device() is None else "T"
        display.notice(
            f"{why}uning a stand-in for {settings.stand_in_for}, {settings.engine.name} with the model {settings.engine.model} on the CPU. "
            "Every step is real, but the numbers say nothing about a GPU."
        )
    for removed in backend.reap():
        display.notice(removed)
    if abandoned := ledger.recover():
        display.notice(f"{abandoned} trial{'s' if abandoned > 1 else ''} of a killed run will be tried again")
    for key, value in {"host": host.describe(), "engine": dict(engine.describe())}.items():
        ledger.note(key, value)
    if ledger.remaining or ledger.take_over():
        try:
            _run(settings, ledger, engine, backend, display)
        except (KeyboardInterrupt, Systemic) as error:
            how = "Stopped" if isinstance(error, Systemic) else "Interrupted"
            display.notice(f"{how} after {len(ledger.finished)} of {settings.trials} trials. The same command goes on from here.")
            display.notice(f"Logs and results so far: {settings.study_folder}/")
            raise
    summary.show(ledger, engine, display.console)
    return 0


def _run(settings: Settings, ledger: Ledger, engine: Engine, backend: Backend, display: Display) -> None:
    pages = Pages(ledger, artifacts_folder(settings))
    pages.introduction()
    workload = settings.workload
    benchmark = GenaiBench(
        engine.tokenizer,
        settings.benchmark.mode,
        dataset=workload.dataset,
        prompt_column=workload.prompt_column,
        request_params=workload.request_params,
    )
    with benchmark, display.following(ledger):
        run_trials(ledger, Rig(engine, backend, benchmark, settings.workload), display, pages)
    if ledger.remaining:
        display.notice(f"All {settings.space.size} configurations of the space are known; the study ends before {settings.trials} trials.")


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
    """Removes what dead owners left behind on every backend of this host, and says what; returns the exit code 0."""
    display = create_display(settings, 0, sys.stdout)
    removed = Local().reap()
    for line in removed:
        display.notice(line)
    display.notice("Nothing was left behind." if not removed else f"Removed {len(removed)}.")
    return 0


def with_backend(settings: Settings) -> Settings:
    """The settings with `backend=auto` decided.

    Raises:
        NotReadyError: this host cannot run the engine; names the cause and the fix.
    """
    if settings.backend.name != "auto":
        return settings
    name = auto.resolve(settings.engine.name)
    return settings.model_copy(update={"backend": BackendSettings.model_validate({"name": name})})


def create_engine(settings: Settings) -> Engine:
    """The engine that `settings` name."""
    match settings.engine:
        case LlamaCppSettings(model=model, tokenizer=tokenizer, args=args, ready_timeout_s=timeout):
            return LlamaCpp(model, args, tokenizer=tokenizer, ready_timeout_s=timeout)
        case engine:
            kind = Sglang if engine.name == "sglang" else Vllm
            return kind(
                engine.model,
                engine.args,
                image=engine.image,
                executable=engine.executable,
                tokenizer=engine.tokenizer,
                ready_timeout_s=engine.ready_timeout_s,
            )


def check_parameters(settings: Settings, engine: Engine) -> None:
    """Refuses a search space with parameters that the engine does not have: not one trial could be launched.

    Raises:
        ConfigError: names the first of them.
    """
    for name in settings.space.parameters:
        if engine.parameters is not None and name not in engine.parameters:
            known = sorted(engine.parameters)
            raise ConfigError(f"space.{name}: {engine.name} has no such parameter{nearest(name, known)}; known: {', '.join(known)}")


def create_backend(settings: Settings) -> Backend:
    """The backend that `settings` name.

    Raises:
        NotReadyError: it is not there yet.
    """
    if settings.backend.name == "docker":
        raise NotReadyError(auto.DOCKER_LATER)
    return Local()
