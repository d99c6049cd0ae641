"""The contract of an engine: the serving software, its flags, readiness, metrics and error texts. Knows nothing of where it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tuner.errors import ConfigError, Infeasible, TrialFailure
from tuner.launch import Configuration, Endpoint, ExitStatus, LaunchSpec, Value
from tuner.server_facts import ServerMetrics, Startup


class Engine(ABC):
    """Turns a configuration into a launch spec, and reads a running or dead server of its kind.

    Implementations pass `tests/conformance/engine.py`. They never import Optuna, Docker or Kubernetes.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def parameters(self) -> frozenset[str] | None:
        """The names that a configuration may hold, or None where the engine's own command line is the only judge."""

    @property
    @abstractmethod
    def defaults(self) -> Mapping[str, Value]:
        """What the engine does when a parameter is not given, for those parameters whose default is a fixed value."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes ready, once per study, what every launch needs (model files, tokenizer).

        Raises:
            Systemic: the model cannot be had.
            NotReadyError: a package or program that the engine needs is missing; names the fix.
        """

    @property
    @abstractmethod
    def tokenizer(self) -> str:
        """Directory or hub id of the tokenizer for the load generator. Valid after `prepare`."""

    @property
    def model_folder(self) -> Path | None:
        """Folder of this host with the model's `config.json`, for the feasibility gate; None where there is none. Valid after `prepare`."""
        return None

    @abstractmethod
    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        """The server that `configuration` describes; an empty one launches the engine's own defaults.

        Args:
            configuration: Values for some of `parameters`.
            token: A word unique to the deployment (letters, digits, `-`); where possible it goes into `served_model`.

        Raises:
            Infeasible: the configuration contradicts itself and would certainly be refused.
        """

    def gpus(self, configuration: Configuration) -> int:
        """GPUs that a configuration holds; 0 where it would be refused."""
        try:
            return self.launch(configuration, "").gpus
        except Infeasible:
            return 0

    @abstractmethod
    def ready(self, endpoint: Endpoint) -> bool:
        """Asks once, within about a second, whether the server answers requests under the expected model name. Never raises."""

    @abstractmethod
    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        """The parameter values the running server says it uses; empty where it cannot be asked. Never raises."""

    @abstractmethod
    def version(self, endpoint: Endpoint) -> str:
        """The engine's version as the running server, or else the installed package, tells it; `"unknown"` otherwise. Never raises."""

    @abstractmethod
    def flush_cache(self, endpoint: Endpoint) -> bool:
        """Drops the prompt cache between load levels. False when the engine cannot. Never raises."""

    def metrics(self, endpoint: Endpoint) -> ServerMetrics | None:
        """One look at the server's metrics endpoint; None where there is none. Never raises."""
        return None

    def read_flags(self, words: Sequence[str]) -> dict[str, Value]:
        """The parameters that somebody else's command line of this engine sets, such as a serving runtime's, to be given as `args`.

        Without what only tuner sets (address, model, served name), what slows every request down (logging them), and what the engine's own
        `args` set already. May be asked before `prepare`.

        Args:
            words: Executable and arguments.

        Raises:
            ConfigError: it cannot be told what they set, this version of the engine does not take them, or they hold a secret.
        """
        raise ConfigError(f"backend.runtime: a command line of {self.name} cannot be read; set backend.runtime_args=ignore")

    def startup(self, log: str) -> Startup:
        """What a server's log, whole or broken off, says about memory."""
        return Startup()

    @abstractmethod
    def diagnose(self, status: ExitStatus) -> TrialFailure:
        """Tells from a dead server's exit and log which kind of failure it was, and says the cause and the remedy in one line."""

    def describe(self) -> Mapping[str, str]:
        """Facts for the study's record, such as the model's path and digest. Short scalars, no secrets."""
        return {}


def existing_path(model: str) -> Path | None:
    """`model` as a path when it names a file or directory of this host, None when it reads like a hub id."""
    path = Path(model).expanduser()
    return path.resolve() if path.exists() else None
