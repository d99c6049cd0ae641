"""Settings: one validated, frozen object built from the composed configuration. What cannot run is refused here, in one line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from tuner.backend_settings import BackendSettings
from tuner.benchmark.scenario import DATASET, Scenario
from tuner.benchmark_settings import BenchmarkSettings
from tuner.engine_settings import EngineSettings, LlamaCppSettings, ReplaySettings
from tuner.errors import ConfigError
from tuner.explain import NOT_GLOBAL, one_line, show
from tuner.goodput import Goodput
from tuner.objectives import Objective, Slo, Wanted
from tuner.search_settings import ConfirmSettings, ControlSettings, PrunerSettings, SamplerSettings, StopSettings
from tuner.section import Args, Section, Text, as_tuple
from tuner.space import Space
from tuner.space_settings import check_encodable, read_space


def _levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(levels)) < len(levels):
        raise ValueError(f"{list(levels)} names a level twice")
    return tuple(sorted(levels))


def _scenario(text: str) -> str:
    Scenario.parse(text)
    return text


class Workload(Section):
    """The traffic.

    Attributes:
        scenario: genai-bench traffic scenario, for example `D(100,32)`: 100 prompt tokens, 32 output tokens.
        dataset: File (txt, csv, json) or hub id of prompts for the scenario `dataset`; null takes genai-bench's own text.
        prompt_column: Column of the dataset that holds the prompts.
        request_params: Further fields of the request body, such as `max_tokens` for the answers to a dataset's prompts.
        levels: Load levels: numbers of users that each keep one request in flight.
        requests_per_user: A level ends after this many requests for each user, but not before `min_requests`.
        min_requests: Fewest completed requests of a level.
        max_time_s: Seconds after which a level ends in any case.
        stall_s: Seconds without a finished request after which the server counts as hung.
        warmup_requests: Requests before the first level, not measured.
        max_error_rate: Share of failed requests above which a level does not count as measured.
        goodput: Bounds for `at: goodput`, and how closely the largest load that meets them is looked for; null looks for none.
    """

    scenario: Annotated[str, AfterValidator(_scenario)]
    dataset: Text | None = None
    prompt_column: Text | None = None
    request_params: Args = Field(default_factory=dict)
    levels: Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple), Field(min_length=1), AfterValidator(_levels)]
    requests_per_user: PositiveInt = 3
    min_requests: PositiveInt = 16
    max_time_s: PositiveFloat = 60.0
    stall_s: PositiveFloat = 30.0
    warmup_requests: NonNegativeInt = 4
    max_error_rate: Annotated[float, Field(ge=0, lt=1)] = 0.02
    goodput: Goodput | None = None

    @model_validator(mode="after")
    def _has_its_dataset(self) -> Workload:
        if self.scenario == DATASET and self.dataset is None:
            raise ConfigError("workload.dataset: missing; workload.scenario=dataset needs a file or hub id of prompts")
        if self.scenario != DATASET and self.dataset is not None:
            raise ConfigError(f"workload.dataset: not used by workload.scenario={self.scenario}; set workload.scenario=dataset")
        return self

    @model_validator(mode="after")
    def _goodput_reaches_beyond_its_levels(self) -> Workload:
        if self.goodput is not None:
            low, high = self.levels[0], self.levels[-1]
            if self.goodput.low is not None and self.goodput.low > low:
                raise ConfigError(f"workload.goodput.low: {self.goodput.low} is above the lowest of workload.levels={list(self.levels)}")
            if self.goodput.high is not None and self.goodput.high < high:
                raise ConfigError(f"workload.goodput.high: {self.goodput.high} is below the highest of workload.levels={list(self.levels)}")
        return self

    def requests(self, level: int) -> int:
        """Completed requests after which `level` ends: a multiple of the users, so that whole waves are counted."""
        waves = max(self.requests_per_user, -(-self.min_requests // level))
        return waves * level


NOT_MEASURED = {
    *("gpus", "pull", "pull_timeout_s", "bind", "model_cache", "stop_grace_s"),
    *("kubeconfig", "context", "namespace", "gpu_budget", "local_queue", "access", "url", "ome_namespace"),
    *("queue_timeout_s", "delete_timeout_s", "on_stuck", "max_restarts", "lease_s"),
}
"""Keys of `backend` that do not decide what a study measures."""


class StorageSettings(Section):
    """Optuna's storage: any SQLAlchemy URL."""

    url: Text


class CostSettings(Section):
    """What hardware costs, for objectives `per: dollar`.

    Attributes:
        gpu_hour: Price of one GPU for an hour, dollars.
    """

    gpu_hour: PositiveFloat | None = None


class DashboardSettings(Section):
    """Where `tuner dashboard` listens. It has no login: think before you bind it to more than loopback."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080


class Settings(Section):
    """Everything that one study needs to know.

    Attributes:
        study_name: Name in the storage; the same name resumes.
        trials: Finished trials that the study ends with, the engine's defaults among them.
        seed: Of the sampler; None draws one.
        max_consecutive_failures: Failures of the same kind in a row after which the study stops.
        noise: Relative standard deviation between runs of one configuration that is assumed until the study shows its own.
        folder: Directory for logs and results of all studies.
        stand_in: Experiment that `backend=auto` runs instead on a host without an NVIDIA device.
        stand_in_for: Set where this is such a stand-in: what it stands for.
    """

    study_name: Text
    trials: PositiveInt
    seed: NonNegativeInt | None = None
    max_consecutive_failures: PositiveInt = 3
    noise: Annotated[float, Field(gt=0, lt=1)] = 0.03
    folder: Text = "studies"
    stand_in: Text | None = None
    stand_in_for: Text | None = None
    engine: Annotated[EngineSettings, Field(discriminator="name")]
    backend: BackendSettings
    space: Annotated[Space, BeforeValidator(read_space)]
    workload: Workload
    objectives: Annotated[tuple[Objective, ...], BeforeValidator(as_tuple), Field(min_length=1, validate_default=True)] = ()
    constraints: Annotated[tuple[Slo, ...], BeforeValidator(as_tuple)] = ()
    sampler: SamplerSettings
    pruner: PrunerSettings = PrunerSettings()
    confirm: ConfirmSettings = ConfirmSettings()
    control: ControlSettings = ControlSettings()
    stop: StopSettings = StopSettings()
    cost: CostSettings = CostSettings()
    storage: StorageSettings
    benchmark: BenchmarkSettings = BenchmarkSettings()
    dashboard: DashboardSettings = DashboardSettings()

    @field_validator("study_name")
    @classmethod
    def _fit_for_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.+@=,-]{0,199}", name):
            raise ValueError(f"{show(name)} names a folder too: at most 200 letters, digits and . _ + @ = , - and first a letter or digit")
        return name

    @model_validator(mode="after")
    def _wants_can_be_measured(self) -> Settings:
        levels = self.workload.levels
        for key, wants in self._wanted.items():
            labels = [want.label(levels) for want in wants]
            for i, want in enumerate(wants):
                if want.level(levels) not in (None, *levels):
                    allowed = f"min, max, best, or one of workload.levels={list(levels)}"
                    raise ConfigError(f"{key}.{i}.at: level {want.at} is not run; use {allowed}")
                if labels.index(labels[i]) < i:
                    raise ConfigError(f"{key}.{i}: {labels[i]} stands there twice; remove one")
                self._check_what_it_needs(f"{key}.{i}", want)
        goodput = [want for wants in self._wanted.values() for want in wants if want.at == "goodput"]
        if self.workload.goodput is not None and not goodput:
            raise ConfigError("workload.goodput: nothing uses it; give an objective or a constraint at: goodput, or set it to null")
        return self

    def _check_what_it_needs(self, key: str, want: Wanted) -> None:
        if want.at == "goodput" and self.workload.goodput is None:
            example = "{bounds: [{metric: ttft_p99_s, max: 0.5}]}"
            raise ConfigError(f"workload.goodput: missing; {key}.at=goodput needs the bounds that it must meet, for example {example}")
        if want.per is not None and not self._on_gpus:
            raise ConfigError(f"{key}.per: engine={self.engine.name} uses no GPU here; remove it")
        if want.per == "dollar" and self.cost.gpu_hour is None:
            raise ConfigError(f"cost.gpu_hour: missing; {key}.per=dollar needs the price of a GPU for an hour, dollars")

    @model_validator(mode="after")
    def _stop_can_be_reached(self) -> Settings:
        if self.stop.gpu_hours is not None and not self._on_gpus:
            raise ConfigError(f"stop.gpu_hours: engine={self.engine.name} uses no GPU here; use stop.wall_time_h")
        return self

    @property
    def _wanted(self) -> dict[str, tuple[Objective, ...] | tuple[Slo, ...]]:
        return {"objectives": self.objectives, "constraints": self.constraints, "stop.target": self.stop.target}

    @property
    def _on_gpus(self) -> bool:
        return not isinstance(self.engine, LlamaCppSettings)

    @model_validator(mode="after")
    def _job_has_its_cluster(self) -> Settings:
        if self.benchmark.mode == "job" and self.backend.name != "ome":
            raise ConfigError(f"benchmark.mode=job: runs in the cluster of backend=ome; for backend={self.backend.name} use driver")
        return self

    @model_validator(mode="after")
    def _args_fit_the_space(self) -> Settings:
        for name, value in self.engine.args.items():
            if name in self.space.parameters:
                check_encodable(f"engine.args.{name}", self.space.parameters[name], value)
        return self

    @property
    def subject(self) -> str:
        """What is tuned, in Markdown."""
        engine = self.engine
        return f"Replay of `{engine.table}`" if isinstance(engine, ReplaySettings) else f"{engine.name} serving `{engine.model}`"

    @cached_property
    def study_folder(self) -> Path:
        """Directory for the logs and results of this study."""
        return Path(self.folder) / self.study_name

    @property
    def objective_labels(self) -> list[str]:
        """Names of the objectives in the study, in their order."""
        return [objective.label(self.workload.levels) for objective in self.objectives]

    @property
    def goodput_label(self) -> str:
        """Name of the constraint that the lowest load meets the bounds of goodput."""
        goodput = self.workload.goodput
        return f"goodput>={(goodput and goodput.low) or self.workload.levels[0]}"

    @property
    def constraint_labels(self) -> list[str]:
        """Names of all constraints in the study that measurements decide."""
        labels = [slo.label(self.workload.levels) for slo in self.constraints]
        return [*labels, self.goodput_label] if self.workload.goodput is not None else labels

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same study: all that decides what is measured, and nothing about how long or where it is kept."""
        space = {name: parameter.model_dump(mode="json", exclude_none=True) for name, parameter in self.space.parameters.items()}
        dumped = self.model_dump(
            mode="json",
            include={"engine", "backend", "workload", "objectives", "constraints", "benchmark"},
            exclude={
                "engine": {"ready_timeout_s", "executable"},
                "backend": NOT_MEASURED,
                "workload": {"stall_s"},
                "benchmark": {"job": {"image", "service_account", "start_timeout_s"}} if self.benchmark.mode == "job" else {"job"},
            },
        )
        if any(want.per == "dollar" for want in (*self.objectives, *self.constraints)):
            dumped["cost"] = self.cost.model_dump(mode="json")  # decides values, though it measures nothing
        return dumped | {"space": space | {"constraints": [constraint.text for constraint in self.space.constraints]}}

    @property
    def fingerprint(self) -> str:
        """A short digest of `identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


def load(composed: Mapping[str, Any]) -> Settings:
    """Validates a composed configuration, all interpolations resolved.

    Raises:
        ConfigError: the first thing wrong, in one line: key, value, what is allowed, the nearest right spelling.
    """
    if "experiment" in composed:
        raise ConfigError(NOT_GLOBAL)
    try:
        return Settings.model_validate({key: value for key, value in composed.items() if key != "hydra"})
    except ValidationError as error:
        raise ConfigError(one_line(error, Settings, also=["experiment"])) from error


def difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The first key in which two identities differ, with both values, as the end of a sentence: `with trials=3 instead of 4`."""
    for key in [*now, *(key for key in before if key not in now)]:
        if key not in before:
            return f"without {prefix}{key}"
        if key not in now:
            return f"with {prefix}{key}, which is not there now"
        old, new = before[key], now[key]
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return difference(old, new, f"{prefix}{key}.")
        return f"with {prefix}{key}={old} instead of {new}"
    return "with other settings"
