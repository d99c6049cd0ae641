"""Signs of life of a running trial, for those who cannot ask after its owner: a pod that was killed has another name than its successor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import optuna

from tuner.owner import Owner

BEAT_S = 30.0
SILENT = timedelta(minutes=5)
"""A trial of an owner out of sight that has given no sign for so long is abandoned."""
SEEN = "seen"
"""The trial's attribute with the time of the last sign, UTC."""


class Heartbeat:
    """Gives a sign every `BEAT_S` seconds, until it is left.

    Args:
        storage: Where the trial is kept.
        trial_id: Optuna's id of the trial.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, trial_id: int) -> None:
        self._storage = storage
        self._trial_id = trial_id
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            # a busy database is no reason to end a trial, and a finished trial needs no more signs
            with contextlib.suppress(optuna.exceptions.StorageInternalError, optuna.exceptions.UpdateFinishedTrialError, KeyError):
                self._storage.set_trial_user_attr(self._trial_id, SEEN, sign())


def sign() -> str:
    """A sign of life at this moment, the value of `SEEN`."""
    return datetime.now(UTC).isoformat()


def owner_lives(attributes: Mapping[str, Any]) -> bool:
    """Whether the owner of a running trial may still be at it.

    Args:
        attributes: The trial's user attributes, signed by an owner.
    """
    owner = Owner.parse(attributes["owner"])
    if not owner.alive():
        return False
    return owner.host == Owner.current().host or silence(attributes) < SILENT


def in_doubt(attributes: Mapping[str, Any]) -> bool:
    """Whether a running trial of an owner out of sight has missed a sign: then it will give one soon, or turn out abandoned."""
    return Owner.parse(attributes["owner"]).host != Owner.current().host and silence(attributes) > timedelta(seconds=2 * BEAT_S)


def silence(attributes: Mapping[str, Any]) -> timedelta:
    """How long ago the last sign was; nothing where none was ever given."""
    seen = attributes.get(SEEN)
    return timedelta(0) if seen is None else datetime.now(UTC) - datetime.fromisoformat(seen)
