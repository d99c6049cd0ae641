"""The Hydra application: parses the command line, composes, and runs a task for each job."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.composition import CONF, VERSION_BASE, UserConf, compose, content
from tuner.errors import ConfigError
from tuner.hydra_errors import explain

logger = logging.getLogger(__name__)


def run_app(task: Callable[[DictConfig, list[str]], None], arguments: list[str]) -> None:
    """Lets Hydra compose and call `task(composition, overrides)`, once for each job of a multirun.

    Args:
        task: What to do with a composition.
        arguments: Options of Hydra, then overrides.

    Raises:
        ConfigError: the composition is impossible; one line.
    """
    Plugins.instance().register(UserConf)
    warn_of_shadowed()
    # Hydra prints its own errors over many lines and exits with 1, unless this asks it to raise them
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failures: list[Exception] = []
    with tempfile.TemporaryDirectory(prefix="tuner-") as scratch:
        sys.argv = [sys.argv[0], *map(quote_scenario, arguments), f"hydra.sweep.dir='{scratch}'"]

        @hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="config")
        def app(config: DictConfig) -> None:
            from hydra.core.hydra_config import HydraConfig

            # of a multirun Hydra keeps the whole composition there, a password in `storage.url` too
            Path(scratch, "multirun.yaml").unlink(missing_ok=True)
            overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            assert isinstance(overrides, list)
            try:
                task(config, overrides)
            except Exception as error:
                failures.append(error)
                raise

        try:
            app()
        except Exception as error:
            if error in failures or isinstance(error, BrokenPipeError):
                raise
            # not only ERRORS: Hydra has a bare TypeError or ValueError for some wrong command lines
            raise ConfigError(explain(error, arguments)) from error


def refuse_overruled(config: DictConfig, overrides: list[str]) -> None:
    """Refuses `objectives=NAME` beside an experiment with a list of its own: Hydra would put that one in its place without a word.

    Raises:
        ConfigError: that is so.
    """
    chosen = next((word.partition("=")[2] for word in overrides if re.fullmatch(r"objectives=[\w-]+", word)), None)
    wanted = content("objectives", chosen).get("objectives", []) if chosen else []
    if not wanted:
        return
    found = OmegaConf.to_container(config.objectives, resolve=False)
    assert isinstance(found, list)
    changed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    if len(wanted) != len(found) or any(
        one.get(key) != other.get(key) and f"objectives.{i}.{key}" not in changed
        for i, (one, other) in enumerate(zip(wanted, found, strict=True))
        for key in one.keys() | other.keys()
    ):
        raise ConfigError(
            f"objectives={chosen}: the experiment has a list `objectives` of its own, which counts instead; remove it there, or change "
            "single keys of it without this, as in objectives.0.metric=..."
        )


def plain(config: DictConfig) -> dict[str, Any]:
    """The composition as plain Python values.

    Raises:
        ConfigError: a value is missing or an interpolation leads nowhere.
    """
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, [])) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's options with their values, and the other words, in whatever order they were given.

    Raises:
        ConfigError: an option that Hydra does not know, or one without its value.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; `--hydra-help` lists all options")

    parser.error = refuse  # type: ignore[method-assign]  # argparse itself prints eight lines of usage and exits
    words = list(parser.parse_intermixed_args(arguments).overrides)
    return [word for word in arguments if word not in words], words


def with_stand_in(arguments: list[str]) -> list[str]:
    """Exchanges the experiment for its `stand_in`, where it names one and the user chose neither engine nor backend.

    Meant for hosts without an NVIDIA device. A user who names an engine or a backend means it, and gets it or an error.
    """
    if any(re.match(r"\+{0,2}(engine|backend)(\.name)?=", word) for word in arguments if word != "backend=auto"):
        return arguments
    position = next((i for i, word in enumerate(arguments) if re.fullmatch(r"\+experiment=[\w/.-]+", word)), None)
    if position is None:
        return arguments
    try:
        config = compose(
            [arguments[position], *(word for word in arguments if word.startswith("stand_in="))], option(arguments, "--config-dir", "-cd")
        )
    except Exception:
        return arguments  # the run itself will say what is wrong
    if config.backend.name != "auto" or not config.stand_in:
        return arguments
    return [*arguments[:position], f"+experiment={config.stand_in}", *arguments[position + 1 :]]


def quote_scenario(word: str) -> str:
    """Puts quotes around traffic scenarios, which Hydra would take for function calls: `workload.scenario=D(100,32)`.

    Several of a multirun stay apart: `workload.scenario=D(100,32),D(500,64)`.
    """
    found = re.fullmatch(r"(\+{0,2}workload\.scenario)=([DNU]\([^'\"]+)", word)
    if not found:
        return word
    scenarios = re.split(r",(?=[DNU]\()", found[2])
    return f"{found[1]}={','.join(map(repr, scenarios))}"


def option(arguments: list[str], *names: str) -> str | None:
    """The value of a command line option, written as `--name value` or `--name=value`."""
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word in names:
            return following
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def warn_of_shadowed() -> None:
    """Tells of files in the user's `conf/` that are not read, because a shipped one has their name."""
    user = Path.cwd() / "conf"
    for path in sorted(user.rglob("*.yaml")) if user != CONF else ():
        shipped = CONF / path.relative_to(user)
        if shipped.is_file() and shipped.read_bytes() != path.read_bytes():
            logger.warning("%s is not read: tuner has its own file of this name; rename yours", path.relative_to(user.parent))
