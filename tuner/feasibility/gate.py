"""The gate before a deployment: refuses what certainly cannot run, and says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.errors import MemoryStage
from tuner.feasibility.estimate import Estimate
from tuner.feasibility.lessons import Lessons
from tuner.feasibility.memory import GIB
from tuner.feasibility.model_shape import ModelShape
from tuner.feasibility.rules import RULES, EngineRules
from tuner.gpus import Gpu
from tuner.launch import Configuration, Value
from tuner.server_facts import Startup

SOMEONE_ELSE = 0.9
"""Where less than this share of a GPU is free before the load, another process holds memory: SGLang takes the same share for its warning of
GPUs `occupied by other processes` [distributed/bootstrap.py `_check_tp_memory_balance`]."""


class Gate:
    """Judges configurations of one engine with one model on one set of GPUs.

    Args:
        rules: The engine's; None for one whose memory is not modelled here: then nothing is refused.
        fixed: Values of parameters that a configuration does not give.
        shape: The model's; None where it is not known.
        gpus: The GPUs of the study; None where they cannot be seen, empty where the engine runs without.
    """

    def __init__(self, rules: EngineRules | None, fixed: Mapping[str, Value], shape: ModelShape | None, gpus: Sequence[Gpu] | None) -> None:
        self._rules = rules
        self._fixed = dict(fixed)
        self._count = len(gpus) if gpus else None
        self._memory = min(gpu.memory_bytes for gpu in gpus) / GIB if gpus else None
        taken = max(gpu.memory_bytes - gpu.free_bytes for gpu in gpus) / GIB if gpus else 0.0
        self._estimate = Estimate(rules, shape, self._memory, taken) if rules and (gpus is None or gpus) else None
        self._lessons = Lessons(rules) if rules else None

    def refuse(self, configuration: Configuration) -> str | None:
        """Why `configuration` certainly cannot run, in one line with the bound; None where it may."""
        if self._rules is None or self._lessons is None:
            return None
        full = self._rules.canonical(self._fixed, configuration)
        needed = self._rules.gpus(full)
        if self._count is not None and needed > self._count:
            factors = " x ".join(f"{name}={full[name]}" for name in (self._rules.tp, self._rules.pp, self._rules.dp) if name in full)
            return f"{factors} needs {needed} GPUs, backend.gpus has {self._count}"
        impossible = self._estimate.refuse(full) if self._estimate else None
        if impossible and not self._lessons.loads(full):
            return impossible
        return self._lessons.refuse(full)

    def learn(self, configuration: Configuration, startup: Startup, failed: MemoryStage | None, measured: bool) -> None:
        """Learns from a launch that has ended; the order of launches makes no difference, nor does hearing of one twice.

        Args:
            configuration: What was launched.
            startup: What it logged.
            failed: The stage at which GPU memory ran out, if it did.
            measured: Whether it was measured.
        """
        if self._rules is None or self._lessons is None:
            return
        full = self._rules.canonical(self._fixed, configuration)
        free = startup.free_before_gib
        if free is not None and self._memory is not None and free < SOMEONE_ELSE * self._memory:
            failed = None
        elif self._estimate:
            self._estimate.learn(full, startup)
        self._lessons.learn(full, failed, measured)


def create(engine_name: str, fixed: Mapping[str, Value], model_folder: Path | None, gpus: Sequence[Gpu] | None) -> Gate:
    """The gate for an engine.

    Args:
        engine_name: `Engine.name`.
        fixed: `Engine.defaults`: the engine's own values under those of `engine.args`.
        model_folder: Folder with the model's `config.json`; None where there is none.
        gpus: The GPUs of the study; None where they cannot be seen, empty where the engine runs without.
    """
    shape = None if model_folder is None else ModelShape.read(model_folder)
    return Gate(RULES.get(engine_name), fixed, shape, gpus)
