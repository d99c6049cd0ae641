"""What all priors of serving engines share: configuration to schedule to metrics. They differ in their step times only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from tuner.feasibility.rules import EngineRules
from tuner.launch import Configuration, Value
from tuner.prior import knobs
from tuner.prior.base import Prior
from tuner.prior.closed_loop import Traffic, closed_loop
from tuner.prior.gpu_specs import GpuSpec
from tuner.prior.model_work import ModelWork
from tuner.prior.step_times import Layout, StepTimes


class ServingPrior(Prior):
    """A prior of SGLang or vLLM.

    Args:
        rules: The engine's.
        fixed: Values of parameters that a configuration does not give.
        work: The model's.
        gpu: The data sheet of the GPUs.
        memory_gib: All memory of the smallest of them.
        traffic: What is asked for.
    """

    def __init__(
        self, rules: EngineRules, fixed: Mapping[str, Value], work: ModelWork, gpu: GpuSpec, memory_gib: float, traffic: Traffic
    ) -> None:
        self.work = work
        self.gpu = gpu
        self._rules = rules
        self._fixed = dict(fixed)
        self._memory = memory_gib
        self._traffic = traffic
        self._steps: dict[Layout, StepTimes | None] = {}

    @abstractmethod
    def step_times(self, layout: Layout) -> StepTimes | None:
        """The step times of a layout; None where they are not known. Asked once for each."""

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        """See `Prior`. None where the KV cache cannot hold a request, or where step times are not known."""
        full = self._rules.canonical(self._fixed, configuration)
        schedule = knobs.schedule(self._rules, full, self.work, self._memory, self._traffic)
        if schedule is None:
            return None
        layout = knobs.layout(self._rules, full)
        if layout not in self._steps:
            self._steps[layout] = self.step_times(layout)
        steps = self._steps[layout]
        return None if steps is None else closed_loop(steps, schedule, self._traffic, level)
