"""The earlier studies in a storage that say something about a new one, and what they teach its feasibility gate."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.confirm.companion import CONFIRM, CONTROL
from tuner.errors import MemoryStage
from tuner.launch import Configuration, Value
from tuner.search.history import DEPLOYED, Seen
from tuner.server_facts import Startup
from tuner.settings import Settings, Workload
from tuner.study import SERVED

if TYPE_CHECKING:
    import optuna

_LOG = logging.getLogger(__name__)

Facts = Mapping[str, Mapping[str, Any]]
"""What a study notes beside its settings, by the keys `host`, `engine` and `backend`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One deployment of an earlier study.

    Attributes:
        seen: What it showed.
        startup: What its server logged about memory.
        memory: The stage at which GPU memory ran out, if it did.
        effective: Values that its server said it uses.
    """

    seen: Seen
    startup: Startup
    memory: MemoryStage | None
    effective: Configuration


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier study.

    Attributes:
        name: Of the study.
        identity: `Settings.identity` of its experiment.
        facts: What it noted of `host`, `engine` and `backend`.
        workload: Its traffic.
        trials: Its deployments, in their order.
        alike: Whether the new study would measure the same: with the same build of the engine and the same traffic, at some of its levels.
    """

    name: str
    identity: Mapping[str, Any]
    facts: Facts
    workload: Workload
    trials: Sequence[Trial]
    alike: bool

    @property
    def args(self) -> Mapping[str, Value]:
        """Parameters of every launch."""
        return dict(self.identity["engine"].get("args", {}))

    @property
    def origin(self) -> str:
        """What decides its measurements beside the configuration."""
        return origin_of(self.identity)


def read(settings: Settings, facts: Facts, storage: optuna.storages.BaseStorage) -> list[Earlier]:
    """The earlier studies that say something about this one, oldest first; without those that cannot be read.

    Args:
        settings: The experiment.
        facts: Of this study, as it will note them: `host`, `engine`, `backend`.
        storage: Where all of them are.
    """
    wanted, build = _subject(settings.identity, facts), _build(settings.identity, facts)
    studies = storage.get_all_studies()
    names = {study.study_name for study in studies}
    companions = {f"{name}.{part}" for name in names for part in (CONFIRM, CONTROL)}
    found = []
    for study in studies:
        noted = study.user_attrs
        if study.study_name in companions | {settings.study_name} or not {"settings", *facts} <= noted.keys():
            continue
        try:
            if _subject(noted["settings"], noted) != wanted:
                continue
            workload = Workload.model_validate(noted["settings"]["workload"])
            trials = [_trial(trial) for trial in storage.get_all_trials(study._study_id, deepcopy=False) if _ended(trial)]
        except (KeyError, TypeError, ValueError) as error:
            _LOG.info("nothing is learned from study %s, which cannot be read: %s", study.study_name, type(error).__name__)
            continue
        identity, theirs = noted["settings"], {name: noted[name] for name in facts}
        same_build = build is not None and _build(identity, theirs) == build
        same_load = origin_of(identity) == origin_of(settings.identity) and bool({*workload.levels} & {*settings.workload.levels})
        found.append(Earlier(study.study_name, identity, theirs, workload, trials, same_build and same_load))
    return found


def lessons(
    settings: Settings, facts: Facts, earlier: Sequence[Earlier]
) -> Iterator[tuple[Configuration, Startup, MemoryStage | None, bool]]:
    """What earlier launches of the same build of the engine teach the gate: arguments of `Gate.learn`.

    How much memory serving takes hangs on the traffic, too: of another workload only what happened before it is believed.

    Args:
        settings: The experiment.
        facts: As for `read`.
        earlier: What `read` found.
    """
    build = _build(settings.identity, facts)
    for study in earlier:
        if build is None or _build(study.identity, study.facts) != build:
            continue
        same = origin_of(settings.identity) == study.origin and settings.workload.levels == study.workload.levels
        for trial in study.trials:
            full = {**study.args, **trial.seen.configuration}
            if settings.engine.args.keys() <= full.keys():  # else the gate would take the new value for what was launched then
                failed = trial.memory if same or trial.memory != "run" else None
                yield full, trial.startup, failed, same and trial.seen.outcome in SERVED


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state.is_finished() and trial.user_attrs.get("outcome") in DEPLOYED


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    kept = trial.user_attrs
    return Trial(Seen.of(trial), Startup(**kept.get("startup", {})), kept.get("memory"), kept.get("effective", {}))


def origin_of(identity: Mapping[str, Any]) -> str:
    """All that decides measurements beside the configuration and its load, as a text to be compared; not the seed of a replay's noise."""
    engine = {name: value for name, value in identity["engine"].items() if name not in ("args", "seed")}
    workload = {name: identity["workload"].get(name) for name in ("scenario", "dataset", "prompt_column", "request_params")}
    return json.dumps([engine, workload], sort_keys=True)


def _subject(identity: Mapping[str, Any], facts: Facts) -> Any:
    """Engine, model and machine, to be compared. A replay without a model is of its table; where no GPU was seen, the cluster's runtime or
    the processor tells the machine."""
    engine, host, backend = identity["engine"], facts["host"], facts["backend"]
    model = engine.get("model") or engine.get("table")
    cluster = [backend[name] for name in ("cluster", "runtime") if name in backend]
    return engine["name"], engine.get("replays"), model, sorted(set(host["gpus"])) or cluster or [host["cpu_model"], host["cpus"]]


def _build(identity: Mapping[str, Any], facts: Facts) -> Any:
    """Which build of the engine it is, and of which revision the model, to be compared; None where nobody can tell before a launch."""
    engine, backend = identity["engine"], facts["backend"]
    build = [backend.get("image_id") or backend.get("image"), engine.get("version"), facts["engine"].get("digest")]
    return [*build, facts["engine"].get("model_revision")] if any(build) else None
