"""The prior from measured kernels: step times of the package `aiconfigurator-core`, which the extra `prior` brings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.feasibility.rules import EngineRules
from tuner.launch import Configuration, Value
from tuner.prior import knobs
from tuner.prior.closed_loop import Traffic
from tuner.prior.gpu_specs import GpuSpec
from tuner.prior.model_work import ModelWork
from tuner.prior.serving import ServingPrior
from tuner.prior.step_times import Layout, StepTimes

_LOG = logging.getLogger(__name__)

SYSTEMS = {
    "A100 80GB": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "L40S": "l40s",
    "RTX PRO 6000": "rtx_pro_6000_server",
}
"""Its systems with measured tables, by `GpuSpec.name`."""


@dataclass(frozen=True, slots=True)
class AiconfiguratorSteps:
    """Step times of one compiled `EngineHandle`, which speaks of whole requests and tokens, and of milliseconds."""

    handle: Any

    def seconds(self, prefills: float, new: float, prefix: float, decoding: float, context: float) -> float:
        """See `StepTimes`."""
        chunk, batch = round(prefills * new), round(decoding)
        if not chunk:
            milliseconds = self.handle.decode_step_latency(max(1, batch), round(context), 2)
        elif not batch:
            milliseconds = self.handle.predict_prefill_latency(max(1, round(prefills)), round(prefix + new), round(prefix))
        else:
            milliseconds = self.handle.mixed_step_latency(chunk, batch, round(context), 2)
        return float(milliseconds) / 1000


class Aiconfigurator(ServingPrior):
    """The prior whose step times are sums of kernels that NVIDIA measured on the same kind of GPU.

    Args:
        rules: The engine's.
        fixed: Values of parameters that a configuration does not give.
        work: The model's.
        gpu: The data sheet of the GPUs.
        memory_gib: All memory of the smallest of them.
        traffic: What is asked for.
        backend: The engine's name in the package.
        model_folder: Folder with the model's `config.json`. A name in its place would make the package ask the network.
    """

    name = "aiconfigurator"

    def __init__(
        self,
        rules: EngineRules,
        fixed: Mapping[str, Value],
        work: ModelWork,
        gpu: GpuSpec,
        memory_gib: float,
        traffic: Traffic,
        backend: str,
        model_folder: Path,
    ) -> None:
        super().__init__(rules, fixed, work, gpu, memory_gib, traffic)
        self._backend = backend
        self._folder = model_folder

    def step_times(self, layout: Layout) -> StepTimes | None:
        """See `ServingPrior`. None, with a line in the log, where the package has no measurements for it."""
        quantization = {} if layout.quantization is None else {"gemm_quant_mode": layout.quantization}
        if not layout.kv_cache_dtype.startswith("fp8"):
            return self._compiled(layout, quantization)
        # SGLang's tables for Hopper know a KV cache in fp8 only together with attention in fp8
        narrow = {"kvcache_quant_mode": "fp8"}
        return self._compiled(layout, quantization | narrow) or self._compiled(layout, quantization | narrow | {"fmha_quant_mode": "fp8"})

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        """See `Prior`."""
        try:
            return super().predict(configuration, level)
        except Exception as error:  # its own and those of its Rust half, which share no base class
            _LOG.debug("aiconfigurator cannot tell of %s: %s", dict(configuration), error)
            return None

    def _compiled(self, layout: Layout, modes: Mapping[str, str]) -> StepTimes | None:
        # it reports each table that it reads
        logging.getLogger("aiconfigurator_core").setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from aiconfigurator_core.sdk import EngineHandle

                handle = EngineHandle.compile(
                    str(self._folder), SYSTEMS[self.gpu.name], self._backend, tp_size=layout.tp, moe_tp_size=layout.tp, **modes
                )
                steps = AiconfiguratorSteps(handle)
                steps.seconds(1, 128, 0, 1, 1024)  # whether it has the tables shows only when it is asked
        except Exception as error:  # see predict
            reason = str(error).partition("\n")[0][:200]
            _LOG.info("aiconfigurator has no step times for %s, %s and %s: %s", self._folder.name, self.gpu.name, layout, reason)
            return None
        return steps


def create(
    rules: EngineRules,
    fixed: Mapping[str, Value],
    work: ModelWork,
    gpu: GpuSpec,
    memory_gib: float,
    traffic: Traffic,
    backend: str,
    model_folder: Path,
) -> Aiconfigurator | None:
    """The prior; None, with a line in the log, where the package is not installed or does not know the case. Arguments are the class's."""
    if gpu.name not in SYSTEMS:
        _LOG.info("aiconfigurator has no measurements of %s", gpu.name)
        return None
    try:
        import aiconfigurator_core.sdk  # noqa: F401
    except ImportError:
        _LOG.info("aiconfigurator-core is not installed: pip install 'tuner[prior]' adds its measured kernels to the prior")
        return None
    prior = Aiconfigurator(rules, fixed, work, gpu, memory_gib, traffic, backend, model_folder)
    return prior if prior.step_times(knobs.layout(rules, rules.canonical(fixed))) else None
