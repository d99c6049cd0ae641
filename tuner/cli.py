"""The command line: a Hydra application, and the verbs that are not a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.errors import ConfigError, TunerError
from tuner.explain import nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

INTERRUPTED = 130
"""Exit code of a shell command that Ctrl-C ended."""

Verb = Callable[[dict[str, Any], int], int]
"""A composed configuration and the verbosity (-1 quiet, 0, 1 verbose) to an exit code."""


def run(config: dict[str, Any], verbosity: int) -> int:
    """Runs or resumes a study."""
    from tuner.settings import load

    settings = load(config)
    from tuner.parties import decide  # each import takes seconds, for which nobody wants to wait to hear of a typing error

    settings = decide(settings)
    from tuner.session import run_study  # nor of a cluster that does not answer

    return run_study(settings, verbosity)


def dashboard(config: dict[str, Any], verbosity: int) -> int:
    """Serves optuna-dashboard for the configured storage."""
    from tuner.report.dashboard import serve
    from tuner.settings import load

    return serve(load(config))


def doctor(config: dict[str, Any], verbosity: int, as_json: bool = False) -> int:
    """Examines whether this environment is ready for the experiment."""
    from tuner.doctor import run as examine
    from tuner.settings import load

    return examine(load(config), as_json, verbosity)


def clean(config: dict[str, Any], verbosity: int) -> int:
    """Removes what killed runs left behind."""
    from tuner.session import reap_all
    from tuner.settings import load

    return reap_all(load(config))


VERBS: dict[str, Verb] = {"doctor": doctor, "dashboard": dashboard, "clean": clean}
QUIETER, LOUDER = ("-q", "--quiet"), ("-v", "--verbose")
JSON = "--json"


def main() -> None:
    """Entry point of `tuner` and `python -m tuner`; exits with the code that README lists."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = dispatch(sys.argv[1:])
        sys.stdout.flush()  # here, where a reader that went away is no surprise
    except TunerError as error:
        code = complain(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # the reader of our output went away (`| head`); the interpreter would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def dispatch(arguments: list[str]) -> int:
    """Runs what `arguments` ask for and returns the exit code, the worst one of a multirun."""
    verbosity = sum(word in LOUDER for word in arguments) - sum(word in QUIETER for word in arguments)
    as_json = JSON in arguments
    arguments = [word for word in arguments if word not in (*QUIETER, *LOUDER, JSON)]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("tuner").setLevel(logging.DEBUG if verbosity > 0 else logging.WARNING)
    if "--version" in arguments:
        sys.stdout.write(f"tuner {__version__}\n")
        return 0

    from tuner.host import nvidia_device
    from tuner.hydra_app import plain, refuse_overruled, run_app, split, with_stand_in

    options, words = split(arguments)
    verb, overrides = _verb(words)
    if as_json:
        if verb is not doctor:
            raise ConfigError(f"{JSON}: only doctor has it")
        verb = partial(doctor, as_json=True)
    asked = [*options, *overrides]
    arguments = with_stand_in(asked) if nvidia_device() is None else asked
    # why keys of the experiment that the user named may be unknown
    note = "".join(f" [without an NVIDIA device: {word}]" for word in arguments if word not in asked)
    codes = [0]
    studies: list[str] = []

    def job(config: DictConfig, overrides: list[str]) -> None:
        # one job's error must not end the others of a multirun
        try:
            refuse_overruled(config, overrides)
            composed = plain(config)
            if (name := str(composed.get("study_name"))) in studies:
                example = f"'study_name={name}-${{sampler.name}}'"
                raise ConfigError(f"study_name={name}: a job before has this name; give each its own, as {example}")
            studies.append(name)
            codes.append(verb(composed, verbosity))
        except TunerError as error:
            which = f" (job {' '.join(overrides)})" if {"-m", "--multirun"} & set(options) else ""
            codes.append(complain(error, which + note * isinstance(error, ConfigError)))

    try:
        run_app(job, arguments)
    except ConfigError as error:
        codes.append(complain(error, note))
    return max(codes)


def _verb(words: list[str]) -> tuple[Verb, list[str]]:
    """The verb among the words that are no options, and the overrides."""
    overrides = [word for word in words if "=" in word[1:] or word.startswith("~")]
    names = [word for word in words if word not in overrides]
    for name in names:
        if name not in VERBS:
            raise ConfigError(f"'{name}': neither a verb ({', '.join(VERBS)}) nor key=value{nearest(name, VERBS)}")
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: give one verb at a time")
    return VERBS[names[0]] if names else run, overrides


def complain(error: TunerError, note: str = "") -> int:
    """Says the error in one line on stderr and returns its exit code."""
    sys.stderr.write(f"tuner: {error}{note}\n")
    return error.exit_code


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # a second Ctrl-C would break off the orderly stop of the server; that stop is bounded
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
