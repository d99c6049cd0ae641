"""What the SGLang and vLLM command lines have in common: `--kebab-case` flags of Python field names, judged by the engine itself."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tuner.engines.base import existing_path
from tuner.engines.openai_server import OpenAIServer, served_name
from tuner.errors import ConfigError, Infeasible, Systemic
from tuner.launch import Configuration, LaunchSpec, Mount, Value

FORWARDED_ENV = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Variables of the user's environment that a server in a container needs as well, to fetch the model."""

_SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")


class OpenAICli(OpenAIServer):
    """An engine that is an executable with flags.

    Args:
        model: Hub id, or a directory of this host.
        args: Parameters that stay the same in all trials, named as in a configuration.
        image: Container image that holds the engine, for backends that need one.
        executable: The words that start the engine; None takes its usual ones.
        ready_timeout_s: Seconds from start to readiness after which a launch counts as failed.
        tokenizer: Directory or hub id of the tokenizer; None takes the model's.

    Raises:
        ConfigError: `args` holds a name that is not the user's to set.
    """

    usual_executable: ClassVar[tuple[str, ...]]
    model_flag: ClassVar[tuple[str, ...]]
    reserved: ClassVar[frozenset[str]]
    gpu_factors: ClassVar[Sequence[tuple[str, ...]]]
    fixed_defaults: ClassVar[Mapping[str, Value]]

    def __init__(
        self,
        model: str,
        args: Mapping[str, Value] | None = None,
        image: str | None = None,
        executable: Sequence[str] | None = None,
        ready_timeout_s: float = 1200.0,
        tokenizer: str | None = None,
    ) -> None:
        self._model = model
        self._args = dict(args or {})
        self._image = image
        self._executable = tuple(executable or self.usual_executable)
        self._ready_timeout_s = ready_timeout_s
        self._tokenizer = tokenizer
        for name in self._args:
            if name in self.reserved:
                raise ConfigError(f"engine.args.{name}: set by tuner itself; leave it out")
            if name in _SECRETS:
                raise ConfigError(
                    f"engine.args.{name}: every user of the host can read a command line; the server is on 127.0.0.1 and needs none"
                )

    @property
    def parameters(self) -> None:
        return None

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {**self.fixed_defaults, **self._args}

    def prepare(self) -> None:
        # A hub id has at most one slash and begins with a letter or digit; anything else can only be a path.
        if self._model.startswith(("/", ".", "~")) and existing_path(self._model) is None:
            raise Systemic(f"engine.model={self._model}: no such directory")

    @property
    def tokenizer(self) -> str:
        return self._tokenizer or self._location()

    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        full = {**self._args, **configuration}
        for name in full:
            if name in self.reserved or name in _SECRETS:
                raise Infeasible(f"{name}: set by tuner itself, not a parameter to search")
        self.check({**self.fixed_defaults, **full})
        path = existing_path(self._model)
        served = served_name(self._model if path is None else path.name, token)
        address = ("--served-model-name", served, "--host", "{host}", "--port", "{port}")
        return LaunchSpec(
            argv=(*self._executable, *self.model_flag, self._location(), *address, *self._flags(full)),
            served_model=served,
            env={name: os.environ[name] for name in FORWARDED_ENV if name in os.environ},
            gpus=self._gpus(full),
            image=self._image,
            mounts=() if path is None else (Mount(path, str(path)),),
            ready_timeout_s=self._ready_timeout_s,
        )

    def describe(self) -> Mapping[str, str]:
        return {"model": self._model, "image": self._image or "", "executable": " ".join(self._executable)}

    @abstractmethod
    def check(self, full: Mapping[str, Value]) -> None:
        """Refuses what the engine certainly refuses.

        Args:
            full: The configuration over the fixed arguments over the fixed defaults.

        Raises:
            Infeasible: names the rule.
        """

    @abstractmethod
    def off(self, flag: str) -> list[str]:
        """The words that turn the switch `flag` (`--some-thing`) off."""

    def _location(self) -> str:
        path: Path | None = existing_path(self._model)
        return self._model if path is None else str(path)

    def _flags(self, full: Mapping[str, Value]) -> list[str]:
        words: list[str] = []
        for name, value in full.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value is False:
                words += self.off(flag)
            else:
                words += [flag, str(value)]
        return words

    def _gpus(self, full: Mapping[str, Value]) -> int:
        gpus = 1
        for spellings in self.gpu_factors:
            gpus *= positive(full, spellings)
        return gpus


def positive(full: Mapping[str, Value], spellings: Sequence[str]) -> int:
    """The size given under one of its spellings, 1 where none is.

    Raises:
        Infeasible: it is no positive integer.
    """
    for name in spellings:
        value = full.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise Infeasible(f"{name}={value!r}: must be a positive integer")
        if value > 1:
            return value
    return 1


def number(full: Mapping[str, Value], name: str) -> float | None:
    """The value of `name` where it is a number."""
    value = full.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
