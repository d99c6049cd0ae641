"""Which parameters a study has tried, kept from ask to ask: a long study is not gone through anew for each suggestion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

Key = frozenset[tuple[str, Any]]
"""Parameters to be compared."""


def key(parameters: Mapping[str, Any]) -> Key:
    """Parameters to be compared: where steps of 0.05 are added up, 0.85 is also 0.8500000000000001."""
    return frozenset((name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in parameters.items())


class Tried:
    """The parameters of trials that have ended, and of those that run just now."""

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._keys: set[Key] = set()
        self._running: dict[Key, bool] = {}
        self._default: set[Key] = set()

    def __len__(self) -> int:
        """How many trials that were."""
        return len(self._ended) + len(self._running)

    def take(self, trials: Iterable[FrozenTrial]) -> None:
        """Takes over what is new.

        Args:
            trials: All that count as tried.
        """
        self._running = {}
        for trial in trials:
            if trial.number not in self._ended:
                self._take(trial)

    def _take(self, trial: FrozenTrial) -> None:
        known, default = key(trial.params), bool(trial.user_attrs.get("default"))
        if not trial.state.is_finished():
            self._running[known] = default or self._running.get(known, False)
            return
        self._ended.add(trial.number)
        self._keys.add(known)
        if default:
            self._default.add(known)

    def has(self, parameters: Mapping[str, Any], default: bool) -> bool:
        """Whether this would be a repeat.

        Args:
            parameters: Encoded.
            default: Whether they are the default's. It stands for its neighbour inside the space, but not the other way round: it is always
                measured as it is.
        """
        asked = key(parameters)
        if default:
            return asked in self._default or self._running.get(asked, False)
        return asked in self._keys or asked in self._running
