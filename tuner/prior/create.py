"""Which prior a study gets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.benchmark.scenario import Scenario
from tuner.benchmark.window import MIN_WAVES
from tuner.feasibility.memory import GIB
from tuner.feasibility.rules import RULES
from tuner.gpus import Gpu
from tuner.launch import Value
from tuner.prior import aiconfigurator, gpu_specs
from tuner.prior.base import Prior
from tuner.prior.closed_loop import Traffic
from tuner.prior.model_work import ModelWork
from tuner.prior.nominal import NominalRoofline
from tuner.prior.roofline import Roofline
from tuner.settings import Workload

_LOG = logging.getLogger(__name__)


def create(
    engine_name: str, fixed: Mapping[str, Value], model_folder: Path | None, gpus: Sequence[Gpu] | None, workload: Workload
) -> Prior | None:
    """The best prior that is to be had: measured kernels, else the roofline, else that of a nominal case where model or GPUs are not known.

    Args:
        engine_name: `Engine.name`.
        fixed: `Engine.defaults`: the engine's own values under those of `engine.args`.
        model_folder: Folder with the model's `config.json`; None where there is none.
        gpus: The GPUs of the study; None where they cannot be seen, empty where the engine runs without.
        workload: The traffic.

    Returns:
        None, with a line in the log, for an engine or traffic that it knows nothing of, and without GPUs.
    """
    rules, traffic = RULES.get(engine_name), traffic_of(workload)
    missing = {
        f"engine {engine_name}": rules is None,
        f"workload.scenario={workload.scenario}": traffic is None,
        "servers without GPUs": gpus is not None and not gpus,
    }
    if rules is None or traffic is None or any(missing.values()):
        _LOG.info("no prior: it knows nothing of %s", _listed(missing))
        return None
    work = None if model_folder is None else ModelWork.read(model_folder)
    names = {gpu.name for gpu in gpus or ()}
    spec = gpu_specs.find(*names) if len(names) == 1 else None
    if work is None or spec is None or model_folder is None or not gpus:
        unknown = {"the model": work is None, "GPUs " + (", ".join(sorted(names)) or "that cannot be seen"): spec is None}
        _LOG.info("the prior tells only directions: it knows nothing of %s", _listed(unknown))
        return NominalRoofline(rules, fixed, work, spec, traffic)
    memory = min(gpu.memory_bytes for gpu in gpus) / GIB
    measured = aiconfigurator.create(rules, fixed, work, spec, memory, traffic, engine_name, model_folder)
    return measured or Roofline(rules, fixed, work, spec, memory, traffic)


def _listed(which: Mapping[str, bool]) -> str:
    return " and ".join(what for what, does in which.items() if does)


def traffic_of(workload: Workload) -> Traffic | None:
    """What the users ask for; None where the dataset or the model decides."""
    scenario = Scenario.parse(workload.scenario)
    if scenario.input_tokens is None or scenario.output_tokens is None:
        return None
    each = workload.requests_per_user
    # a first wave that is slower than the others is left out where there are others (`tuner.benchmark.window.slow_start`)
    return Traffic(scenario.input_tokens, scenario.output_tokens, each, scenario.input_sd, scenario.output_sd, first_wave=each < MIN_WAVES)
