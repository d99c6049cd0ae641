"""What a study has seen, read once."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState

from tests.doubles import measurement
from tuner.search.history import History

SPACE = {"x": optuna.distributions.IntDistribution(0, 9)}


def add(
    study: optuna.Study, state: TrialState, outcome: str | None, constraints: dict[str, float] | None = None, **attributes: Any
) -> None:
    trial = optuna.create_trial(
        state=state,
        params={"x": 1},
        distributions=SPACE,
        values=[1.0, 2.0] if state == TrialState.COMPLETE else None,
        user_attrs={**attributes, **({} if outcome is None else {"outcome": outcome})},
        constraints=constraints,
    )
    study.add_trial(trial)


def a_study() -> optuna.Study:
    return optuna.create_study(directions=["minimize", "maximize"])


def test_only_what_was_deployed_and_has_ended_by_its_own_doing() -> None:
    study = a_study()
    for state, outcome in [
        (TrialState.COMPLETE, "measured"),
        (TrialState.PRUNED, "pruned"),
        (TrialState.PRUNED, "infeasible"),
        (TrialState.PRUNED, "refused"),
        (TrialState.FAIL, "failed"),
        (TrialState.FAIL, "interrupted"),
        (TrialState.FAIL, "repeat"),
        (TrialState.RUNNING, None),
        (TrialState.WAITING, None),
        (TrialState.COMPLETE, None),
    ]:
        add(study, state, outcome)
    assert [(seen.number, seen.outcome) for seen in History(study).seen()] == [(0, "measured"), (1, "pruned"), (2, "infeasible")]


def test_a_trial_as_it_was_told() -> None:
    study = a_study()
    curve = {4: measurement(4), 16: measurement(16, errors={"503": 2})}
    add(
        study,
        TrialState.COMPLETE,
        "measured",
        {"ttft_p99_s@4<=1": 0.2, "deployable": -1.0},
        configuration={"n": 4},
        measurements={str(level): shown.to_dict() for level, shown in curve.items()},
        gpus=2,
        default=True,
    )
    (seen,) = History(study).seen()
    assert (seen.parameters, seen.configuration, seen.gpus, seen.default) == ({"x": 1}, {"n": 4}, 2, True)
    assert seen.curve == curve
    assert list(seen.values or ()) == [1.0, 2.0]
    assert seen.missed


def test_whether_it_serves_is_not_an_slo() -> None:
    study = a_study()
    add(study, TrialState.PRUNED, "infeasible", {"ttft_p99_s@4<=1": 1.0, "deployable": 1.0})
    add(study, TrialState.COMPLETE, "measured", {"ttft_p99_s@4<=1": 0.0, "deployable": -1.0})
    add(study, TrialState.PRUNED, "pruned", {"ttft_p99_s@4<=1": 0.5, "deployable": -1.0})
    seen = History(study).seen()
    assert [one.missed for one in seen] == [False, False, True]
    assert [len(one.curve) for one in seen] == [0, 0, 0]
    assert seen[0].values is None


def test_new_trials_are_added_in_the_order_of_their_numbers_and_the_others_kept() -> None:
    study = a_study()
    history = History(study)
    assert history.seen() == []
    first, second = study.ask(SPACE), study.ask(SPACE)
    for trial in (second, first):
        trial.set_user_attr("outcome", "measured")
        study.tell(trial, [0.0, 0.0])
        seen = history.seen()
    assert [one.number for one in seen] == [0, 1]
    assert history.seen()[0] is seen[0], "read once"
