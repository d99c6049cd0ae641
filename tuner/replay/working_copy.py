"""The studies of a replay while it runs: in memory, because a database takes longer over a trial than the replay itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState


@contextmanager
def working_copy(storage: RDBStorage, names: Sequence[str]) -> Iterator[InMemoryStorage]:
    """A copy of studies in memory, written back when it is left, in whatever way. A process that is killed loses what it has replayed.

    Args:
        storage: Where they are kept.
        names: Of the studies; those that do not exist yet may be created in the copy.
    """
    memory = InMemoryStorage()
    for name in _existing(storage, names):
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=memory)
    try:
        yield memory
    finally:
        for name in _existing(memory, names):
            _write_back(optuna.load_study(study_name=name, storage=memory), storage)


def _existing(storage: BaseStorage, names: Sequence[str]) -> list[str]:
    there = optuna.get_all_study_names(storage)
    return [name for name in names if name in there]


def _write_back(study: optuna.Study, storage: RDBStorage) -> None:
    kept = optuna.create_study(storage=storage, study_name=study.study_name, directions=study.directions, load_if_exists=True)
    for key, value in study.user_attrs.items():
        storage.set_study_user_attr(kept._study_id, key, value)
    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        storage.set_study_system_attr(kept._study_id, key, value)
    before, appended = kept.get_trials(deepcopy=False), _Appending(storage)
    for trial in study.get_trials(deepcopy=False):
        if trial.number >= len(before):
            appended.create_new_trial(kept._study_id, trial)
        elif not before[trial.number].state.is_finished() and trial.state != TrialState.WAITING:
            _go_on(storage, before[trial.number], trial)


def _go_on(storage: BaseStorage, before: FrozenTrial, now: FrozenTrial) -> None:
    """Brings a trial that was queued or abandoned to where it is now."""
    trial_id = before._trial_id
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    for name in now.params.keys() - before.params.keys():
        distribution = now.distributions[name]
        storage.set_trial_param(trial_id, name, distribution.to_internal_repr(now.params[name]), distribution)
    for key, value in now.user_attrs.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in now.system_attrs.items():
        storage.set_trial_system_attr(trial_id, key, value)
    if now.state.is_finished():
        storage.set_trial_state_values(trial_id, now.state, now.values)


class _Appending(RDBStorage):
    """A storage, only for trials that are new in it.

    Optuna looks up the trial before each attribute, in case it has one of this name, and before each parameter another trial that has it.
    Both are known here; a trial takes less than half the time. If Optuna stops calling these two methods, that is lost and nothing else.

    Args:
        storage: Its connections are used.
    """

    def __init__(self, storage: RDBStorage) -> None:
        self.__dict__.update(storage.__dict__)

    def _set_trial_attr_without_commit(self, session: Any, model_cls: Any, trial_id: int, key: str, value: Any) -> None:
        session.add(model_cls(trial_id=trial_id, key=key, value_json=json.dumps(value)))

    def _set_trial_param_without_commit(
        self, session: Any, trial_id: int, param_name: str, value: float, distribution: BaseDistribution, previous: Any = None
    ) -> None:
        super()._set_trial_param_without_commit(session, trial_id, param_name, value, distribution, previous or distribution)
