"""Settings of the engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tuner.benchmark.measurement import METRICS
from tuner.bounds import Metric
from tuner.section import Args, Section, Text, as_tuple


class LlamaCppSettings(Section):
    """The embedded CPU engine.

    Attributes:
        model: `nano` or `micro` (random weights, made on first use), or the path of a GGUF file.
        executable: First words of the command line; by default those of the launcher that comes with tuner.
        image: Container image that holds tuner with its extra `llamacpp`, where the engine runs in a container.
        tokenizer: Folder with a Hugging Face tokenizer; by default it is read from the GGUF.
        args: Further parameters of every launch, the default's too.
        ready_timeout_s: Seconds from start to readiness.
    """

    name: Literal["llamacpp"]
    model: Text
    executable: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    image: Text | None = None
    tokenizer: Text | None = None
    args: Args = Field(default_factory=dict)
    ready_timeout_s: PositiveFloat = 60.0


class GpuEngineSettings(Section):
    """SGLang or vLLM.

    Attributes:
        model: Hugging Face hub id or local directory.
        executable: First words of the command line, on this host or in the container.
        image: Container image, where it runs in a container.
        version: Version of the engine, which decides how flags are spelled; by default that of the image's tag, if it names one.
        tokenizer: Hub id or folder of the tokenizer; by default the model's own.
        args: Further flags of every launch, the default's too: `mem_fraction_static: 0.8` becomes `--mem-fraction-static 0.8`.
        ready_timeout_s: Seconds from start to readiness.
    """

    name: Literal["sglang", "vllm"]
    model: Text
    executable: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    image: Text | None = None
    version: Text | None = None
    tokenizer: Text | None = None
    args: Args = Field(default_factory=dict)
    ready_timeout_s: PositiveFloat = 1200.0


RUN_NOISE = 0.03
"""Relative standard deviation between runs on one server that a replay adds unless it is told otherwise."""


def _of_all_metrics(value: Any) -> Any:
    """One number stands for every metric."""
    return dict.fromkeys(METRICS, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _of_runs(value: Any) -> Any:
    """One number stands for the noise between runs."""
    return {"run": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class NoiseSettings(Section):
    """How far a replayed measurement strays from the recorded one. A number in its place is `run`.

    Attributes:
        run: Relative standard deviation of each metric at each load level: one number for all metrics, or one by metric, those not named
            having none.
        deployment: Relative standard deviation of what all levels of one deployment share.
        drift: Relative slowdown per hour of virtual time.
        failures: Probability that a deployment fails through nobody's fault.
    """

    run: Annotated[Mapping[Metric, NonNegativeFloat], BeforeValidator(_of_all_metrics)] = Field(
        default_factory=lambda: dict.fromkeys(METRICS, RUN_NOISE)
    )
    deployment: NonNegativeFloat = 0.0
    drift: float = 0.0
    failures: Annotated[float, Field(ge=0, lt=1)] = 0.0


class RecordedGpus(Section):
    """The GPUs that a table was recorded on.

    Attributes:
        name: Product name, as `NVIDIA H100 80GB HBM3`.
        memory_gib: All memory of one of them, GiB.
        count: How many there were.
    """

    name: Text
    memory_gib: PositiveFloat
    count: PositiveInt


class ReplaySettings(Section):
    """A table of recorded measurements in place of an engine: nothing is deployed, and time is charged instead of spent.

    Attributes:
        table: CSV (also `.csv.gz`) or Parquet file, one row for each configuration, or `demo`, which ships with tuner.
        replays: Engine whose parameters the columns are, for the feasibility gate; None leaves the gate out.
        model: Folder with the `config.json` of the model that was served, for the gate; None where it is not known.
        gpu: The GPUs that it was served on, for the gate; None where they are not known.
        args: Parameters of every configuration, the default's too: they choose a part of the table.
        deploy_s: Seconds of a deployment where the table does not say.
        warmup_s: Seconds of a warm-up where the table does not say.
        load_s: Seconds of a load level where the table does not say.
        noise: What is added to the recorded values.
        seed: Of the noise. The same study sees the same noise again, whenever it is resumed.
    """

    name: Literal["replay"]
    table: Text
    replays: Literal["sglang", "vllm", "llamacpp"] | None = None
    model: Text | None = None
    gpu: RecordedGpus | None = None
    args: Args = Field(default_factory=dict)
    deploy_s: NonNegativeFloat = 120.0
    warmup_s: NonNegativeFloat = 20.0
    load_s: NonNegativeFloat = 60.0
    noise: Annotated[NoiseSettings, BeforeValidator(_of_runs)] = Field(default_factory=NoiseSettings)
    seed: NonNegativeInt = 0


EngineSettings = LlamaCppSettings | GpuEngineSettings | ReplaySettings
