from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.conformance.backend import eventually
from tests.doubles import DEFAULTS, settings
from tuner import heartbeat
from tuner.heartbeat import SEEN, SILENT, Heartbeat, in_doubt, owner_lives
from tuner.owner import Owner
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

ELSEWHERE = "another-pod/pid:[4026532000]:7:12.5:"
HERE = Owner.current().to_str()
DEAD_HERE = Owner(Owner.current().host, 2**22 - 1, 1.0, Owner.current().boot).to_str()


def attributes(owner: str, ago: timedelta | None = None) -> dict[str, Any]:
    return {"owner": owner} | ({} if ago is None else {SEEN: (datetime.now(UTC) - ago).isoformat()})


@pytest.mark.parametrize(
    ("signed", "lives", "doubt"),
    [
        ((HERE,), True, False),
        ((HERE, 2 * SILENT), True, False),
        ((DEAD_HERE, timedelta(0)), False, False),
        ((ELSEWHERE, timedelta(0)), True, False),
        ((ELSEWHERE, timedelta(minutes=2)), True, True),
        ((ELSEWHERE, 2 * SILENT), False, True),
        ((ELSEWHERE,), True, False),
    ],
)
def test_who_lives(signed: tuple[Any, ...], lives: bool, doubt: bool) -> None:
    given = attributes(*signed)
    assert (owner_lives(given), in_doubt(given)) == (lives, doubt)


def ledger(folder: Path) -> Ledger:
    return Ledger(settings(folder, trials=1), optuna.storages.InMemoryStorage(), DEFAULTS)


def test_signs_are_given_while_a_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    study = ledger(tmp_path).study
    trial = study.ask()

    def seen() -> Any:
        return study.get_trials()[0].user_attrs.get(SEEN)

    with Heartbeat(study._storage, trial._trial_id) as beating:
        eventually(seen, "a sign")
        first = seen()
        eventually(lambda: seen() != first, "another")
        study.tell(trial, state=TrialState.FAIL)
    assert not beating._thread.is_alive()


def test_a_trial_of_a_silent_owner_is_tried_again_at_the_end(tmp_path: Path) -> None:
    """Also where it was silent for less than the limit when the study came to its end."""
    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    for key, value in attributes(ELSEWHERE, SILENT - timedelta(seconds=1)).items():
        asked.trial.set_user_attr(key, value)
    assert book.remaining == 0
    assert book.take_over()
    assert book.remaining == 1
    again = book.ask()
    assert again is not None
    assert again.configuration == asked.configuration
