"""The engine `replay`: configurations are looked up in a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tuner.engine_settings import ReplaySettings
from tuner.engines.base import Engine
from tuner.engines.llamacpp_flags import FLAGS
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, Infeasible, TrialFailure
from tuner.feasibility.rules import RULES
from tuner.launch import Configuration, Endpoint, ExitStatus, LaunchSpec, Value
from tuner.replay.reading import read_table
from tuner.replay.table import MEMORY_STAGES, Row
from tuner.space import Space

KNOWN_DEFAULTS: Mapping[str, Mapping[str, Value]] = {
    "sglang": Sglang.fixed_defaults,
    "vllm": Vllm.fixed_defaults,
    "llamacpp": {flag.parameter: flag.default for flag in FLAGS if flag.default is not None},
}
"""What the engines that may be replayed do when a parameter is not given."""


class Replay(Engine):
    """A table in place of an engine.

    Args:
        settings: Its settings.
        space: What is searched; it tells the defaults of parameters, and which values of them there are.

    Raises:
        ConfigError: the table cannot be read, or `model` is no folder with a `config.json`.
    """

    name: ClassVar[str] = "replay"

    def __init__(self, settings: ReplaySettings, space: Space) -> None:
        self._settings = settings
        self._space = space
        self.table = read_table(settings.table)
        if settings.model is not None and not (Path(settings.model).expanduser() / "config.json").is_file():
            raise ConfigError(f"engine.model={settings.model}: no folder with a config.json; give one, or null to do without")

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(self.table.parameters)

    @property
    def defaults(self) -> Mapping[str, Value]:
        known = KNOWN_DEFAULTS.get(self._settings.replays or "", {})
        constants = {name: value for name, value in self.table.constants.items() if value is not None}
        return {**{name: value for name, value in known.items() if name in self.table.parameters}, **constants, **self._settings.args}

    def prepare(self) -> None:
        """The table was read."""

    @property
    def tokenizer(self) -> str:
        """None is needed."""
        return ""

    @property
    def model_folder(self) -> Path | None:
        return None if self._settings.model is None else Path(self._settings.model).expanduser()

    def row(self, configuration: Configuration) -> Row:
        """The row of a configuration. What it leaves out was not given, or else has the default's value.

        Raises:
            Infeasible: the table has none.
        """
        full = {**self._settings.args, **configuration}
        tries = [full, *({**default, **full} for default in self._default)]
        for tried in tries:
            if (row := self.table.find(tried)) is not None:
                return row
        shown = " ".join(f"{name}={value}" for name, value in (full if configuration else tries[-1]).items())
        raise Infeasible(f"not in the table: {self.table.path.name} has no row with {shown}")

    @cached_property
    def _default(self) -> list[Configuration]:
        """The default's values as they are, and as they are inside the space; nothing where one of them is not known."""
        declared = {name: parameter.default for name, parameter in self._space.parameters.items() if parameter.default is not None}
        values = {**self.defaults, **declared, **self._settings.args}
        exact: dict[str, Value] = {}
        inside: dict[str, Value] = {}
        for name, parameter in self._space.parameters.items():
            if self._space.active(name, inside):
                if name in self._space.searched and name not in values:
                    return []
                inside[name] = parameter.decode(parameter.encode(values.get(name)))
                exact[name] = values[name] if name in self._space.searched else inside[name]
        return [exact, inside]

    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        row = self.row(configuration)
        rules = RULES.get(self._settings.replays or "")
        held = rules.gpus(rules.canonical(self.defaults, row.configuration)) if rules else 1
        words = [f"{name}={value}" for name, value in row.configuration.items()]
        return LaunchSpec(
            argv=(str(self.table.path), str(row.index), *words),
            served_model=f"{self.name}-{token}",
            gpus=held if row.gpus is None else row.gpus,
        )

    def ready(self, endpoint: Endpoint) -> bool:
        return True

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        return {}

    def version(self, endpoint: Endpoint) -> str:
        return self.table.digest

    def flush_cache(self, endpoint: Endpoint) -> bool:
        return True  # what was recorded was recorded as it should be

    def diagnose(self, status: ExitStatus) -> TrialFailure:
        """From the last words of a recorded server: its outcome, and the reason where there is one."""
        outcome, _, reason = status.log_tail.partition(": ")
        stage = MEMORY_STAGES.get(outcome)
        ran_out = f"GPU memory ran out at {stage}" if stage else outcome or "ended"
        return Infeasible(f"recorded: {ran_out}{f': {reason}' if reason else ''}", status.log_tail, stage)

    def describe(self) -> Mapping[str, str]:
        table = self.table
        return {
            "table": str(table.path),
            "digest": table.digest,
            "rows": str(len(table.rows)),
            **({} if self._settings.replays is None else {"replays": self._settings.replays}),
        }
