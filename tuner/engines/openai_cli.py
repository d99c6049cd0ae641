"""What the SGLang and vLLM command lines have in common: `--kebab-case` flags of Python field names, and a model of the hub."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tuner.engines.base import existing_path
from tuner.engines.command_line import CommandLine
from tuner.engines.flag_drift import Drift, combined, of_today, version_of
from tuner.engines.flag_table import FlagTable
from tuner.engines.model_files import ModelFiles
from tuner.engines.model_names import replaced
from tuner.engines.openai_server import OpenAIServer, served_name
from tuner.engines.runtime_flags import Grammar, read_flags, runtime_errors
from tuner.errors import ConfigError, Infeasible, Systemic
from tuner.launch import Configuration, LaunchSpec, Value

_SECRETS = frozenset({"api_key", "admin_api_key", "hf_token", "ssl_keyfile_password"})


class OpenAICli(OpenAIServer):
    """An engine that is an executable with flags.

    Args:
        model: Hub id, or a directory of this host.
        args: Parameters that stay the same in all trials, named as in a configuration.
        image: Container image that holds the engine, for backends that need one.
        executable: The words that start the engine; None takes its usual ones.
        ready_timeout_s: Seconds from start to readiness after which a launch counts as failed.
        tokenizer: Directory or hub id of the tokenizer; None takes the model's.
        version: The engine's version, which decides how flags are spelled; None takes that of the image's tag, or else the table's.
        model_cache: Hub cache on the host where servers run, which holds the model; None where that is this host's own.
        model_path: Where servers find the model, in words that only their environment can resolve (`$(MODEL_PATH)`). Then `model` only says
            whose configuration and tokenizer are needed here, and what else `args` or a trial name is of the servers' own files.

    Attributes:
        title: The engine's name, for messages.
        official_image: Last part of the name of the official image, whose tags are versions.
        usual_executable: The words that start the engine.
        model_flag: What stands before the model on the command line.
        reserved: Parameters that only tuner sets.
        negatable: Whether `--no-x` turns off a switch `--x` that the table does not hold.
        always: What tuner adds to every launch unless the user decides otherwise.
        model_args: Parameters whose values name models, by hub id or directory.
        file_args: Parameters whose values name files that a server reads.
        costly_args: Parameters that a serving runtime may set but a measurement should not pay for.
        gpu_factors: Parameters whose product is the number of GPUs.
        drifts: What was spelled differently in older versions.
        fixed_defaults: Defaults that depend on neither GPU nor model.

    Raises:
        ConfigError: `args` holds a name or a value that cannot be, or `version` is none.
    """

    title: ClassVar[str]
    official_image: ClassVar[str]
    usual_executable: ClassVar[tuple[str, ...]]
    model_flag: ClassVar[tuple[str, ...]]
    reserved: ClassVar[frozenset[str]]
    negatable: ClassVar[bool]
    always: ClassVar[Mapping[str, Value]]
    model_args: ClassVar[frozenset[str]]
    file_args: ClassVar[frozenset[str]]
    costly_args: ClassVar[frozenset[str]]
    gpu_factors: ClassVar[Sequence[str]]
    drifts: ClassVar[Sequence[Drift]]
    fixed_defaults: ClassVar[Mapping[str, Value]]

    def __init__(
        self,
        model: str,
        args: Mapping[str, Value] | None = None,
        image: str | None = None,
        executable: Sequence[str] | None = None,
        ready_timeout_s: float = 1200.0,
        tokenizer: str | None = None,
        version: str | None = None,
        model_cache: str | None = None,
        model_path: str | None = None,
    ) -> None:
        self._model = model
        self._image = image
        self._executable = tuple(executable or self.usual_executable)
        self._ready_timeout_s = ready_timeout_s
        self._tokenizer = tokenizer
        table = FlagTable.newest(self.name)
        used = version_of(version, image, self.official_image) or table.version
        self._command_line = CommandLine(self.title, table, used, self.drifts, self.negatable)
        cache = None if model_cache is None else Path(model_cache)
        self._files = ModelFiles(model, cache, self.model_args, self.file_args, served_from=model_path)
        try:
            self._args = self._accepted(args or {})
        except Infeasible as error:
            raise ConfigError(f"engine.args.{error.reason}") from error

    @property
    def parameters(self) -> frozenset[str] | None:
        return self._command_line.names - self.reserved - _SECRETS if self._command_line.judges else None

    @property
    def defaults(self) -> Mapping[str, Value]:
        fixed = {name: value for name, value in self.fixed_defaults.items() if self._command_line.has(name)}
        return {**fixed, **combined(self._args, self.drifts)}

    def prepare(self) -> None:
        self._files.fetch(self._args)
        if self._files.folder is None and self._tokenizer is None:
            raise Systemic(f"engine.model={self._model}: not on this host, where the load generator runs: set engine.tokenizer")

    @property
    def tokenizer(self) -> str:
        return self._tokenizer or str(self._files.folder or self._model)

    @property
    def model_folder(self) -> Path | None:
        return self._files.folder

    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        full = self._full(configuration)
        path = existing_path(self._model)
        served = served_name(self._model if path is None else path.name, token)
        return LaunchSpec(
            argv=self._argv(full, served, self._files.places(full)),
            served_model=served,
            env=self._files.environment(full),
            gpus=self._gpus(full),
            image=self._image,
            mounts=self._files.mounts(full),
            ready_timeout_s=self._ready_timeout_s,
        )

    def describe(self) -> Mapping[str, str]:
        facts = {"model": self._model, "image": self._image or "", "executable": " ".join(self._executable)}
        if self._files.served_from is not None:
            # of which revision the servers' own copy is cannot be seen from here
            return facts | {"model_path": self._files.served_from}
        if snapshot := self._files.snapshots.get(self._model):
            facts["model_revision"] = snapshot.commit
        return facts

    def read_flags(self, words: Sequence[str]) -> dict[str, Value]:
        line, own = self._command_line, set(self._args) | set(combined(self._args, self.drifts))
        grammar = Grammar(
            line.spellings,
            ignored=self.reserved | self.costly_args | own,
            secrets=_SECRETS,
            negatable=self.negatable,
            positional=not self.model_flag,
        )
        with runtime_errors():
            found = of_today(line.version, line.canonical(read_flags(words, grammar)), self.drifts)
        return {name: value for name, value in found.items() if name not in own}

    @abstractmethod
    def check(self, full: Mapping[str, Value]) -> None:
        """Refuses what the engine certainly refuses.

        Args:
            full: The configuration over the fixed arguments over the fixed defaults, by the names of today.

        Raises:
            Infeasible: names the rule.
        """

    def attention_heads(self) -> int | None:
        """Attention heads of the model; None where its configuration cannot be read or does not say."""
        if self.model_folder is None:
            return None
        try:
            config: Any = json.loads((self.model_folder / "config.json").read_text())
        except (OSError, ValueError):
            return None
        text = config.get("text_config", config) if isinstance(config, dict) else None
        heads = text.get("num_attention_heads") if isinstance(text, dict) else None
        return heads if isinstance(heads, int) else None

    def _full(self, configuration: Configuration) -> dict[str, Value]:
        full = combined({**self.always, **self._args, **self._accepted(configuration)}, self.drifts)
        self.check({**self.fixed_defaults, **full})
        return full

    def _accepted(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """`given` by the names of today, unless it holds what is not the user's to set."""
        for name in given:
            canonical = self._command_line.canonical_name(name)
            if canonical in self.reserved or name in self.reserved:
                raise Infeasible(f"{name}: set by tuner itself; leave it out")
            if canonical in _SECRETS:
                way_out = "set HF_TOKEN in your environment" if name == "hf_token" else "servers of a study need none"
                raise Infeasible(f"{name}: every user of the host can read a command line; {way_out}")
        return self._command_line.canonical(given)

    def _argv(self, full: Mapping[str, Value], served: str, places: Mapping[str, Path]) -> tuple[str, ...]:
        def value_of(name: str, value: Value) -> Value:
            return replaced(value, places) if name in self.model_args | self.file_args else value

        address = ("--served-model-name", served, "--host", "{host}", "--port", "{port}")
        elsewhere = self._files.served_from
        model = str(places.get(self._model, self._model)) if elsewhere is None else elsewhere
        return (*self._executable, *self.model_flag, model, *address, *self._command_line.words(full, value_of))

    def _gpus(self, full: Mapping[str, Value]) -> int:
        gpus = 1
        for name in self.gpu_factors:
            gpus *= positive(full, name)
        return gpus


def positive(full: Mapping[str, Value], name: str) -> int:
    """The size `name`, 1 where none is given.

    Raises:
        Infeasible: it is no positive integer.
    """
    value = full.get(name, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Infeasible(f"{name}={value!r}: must be a positive integer")
    return value


def number(full: Mapping[str, Value], name: str) -> float | None:
    """The value of `name` where it is a number."""
    value = full.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
