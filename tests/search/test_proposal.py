"""What the proposer puts first, on a line of configurations whose curves are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tuner.search.gaussian_process import Array
from tuner.search.proposal import Aim, Data, Proposer

POSITIONS = np.array([0.0, 1.0])
FAST, MUCH = Aim("seconds", 0, 1), Aim("tokens", 1, -1)
GRID = np.linspace(0, 1, 41)[:, None]


def seconds(x: Array) -> Array:
    """Least in the middle; shape (n, levels)."""
    return np.stack([2 * (x[:, 0] - 0.5) ** 2, 2 * (x[:, 0] - 0.5) ** 2 + 1], axis=1)


def tokens(x: Array) -> Array:
    """Ever more."""
    return np.stack([x[:, 0], 1.5 * x[:, 0] + 2], axis=1)


def data(
    x: Sequence[float], served: Sequence[bool] | None = None, features: Mapping[str, Array] | None = None, risk: Array | None = None
) -> Data:
    at = np.array(x, dtype=float)[:, None]
    ok = np.ones(len(at), dtype=bool) if served is None else np.array(served)
    logs = {"seconds": np.where(ok[:, None], seconds(at), np.nan), "tokens": np.where(ok[:, None], tokens(at), np.nan)}
    return Data(at, ok, logs, {name: np.zeros((len(at), 2)) for name in logs}, features or {}, risk)


def rank(
    aims: Sequence[Aim], known: Data, pending: Array | None = None, seed: int = 0, before: Data | None = None, risk: Array | None = None
) -> Array:
    proposer = Proposer(aims, {"seconds": POSITIONS, "tokens": POSITIONS}, 0.02)
    return proposer.rank(known, GRID, {}, np.random.default_rng(seed), None if pending is None else (pending, {}), before, risk)


def best(value: Array) -> float:
    return float(GRID[np.argmax(value), 0])


def test_one_objective_leads_to_its_best() -> None:
    known = data([0.0, 0.2, 0.35, 0.65, 0.8, 1.0])
    assert best(rank([FAST], known)) == pytest.approx(0.5, abs=0.08)
    assert best(rank([MUCH], data([0.0, 0.2, 0.4, 0.6]))) > 0.9


def test_two_objectives_lead_to_what_is_not_dominated() -> None:
    value = rank([FAST, MUCH], data([0.0, 0.15, 0.3, 0.45, 0.5]))
    # left of 0.5 everything is slower and brings less than the middle
    assert best(value) > 0.55
    assert value[GRID[:, 0] > 0.6].mean() > 5 * value[GRID[:, 0] < 0.4].mean()


def test_what_is_known_gains_nothing_more() -> None:
    x = [0.0, 0.25, 0.5, 0.75, 1.0]
    value = rank([FAST, MUCH], data(x))
    at = [int(np.argmin(np.abs(GRID[:, 0] - known))) for known in x]
    others = np.setdiff1d(np.arange(len(GRID)), at)
    assert value[at].max() < 0.3 * value[others].max()


@pytest.mark.parametrize(("bound", "below", "allowed"), [(0.4, True, (0.0, 0.4)), (0.6, False, (0.6, 1.0))])
def test_bounds_are_respected(bound: float, below: bool, allowed: tuple[float, float]) -> None:
    bounded = Aim("tokens", 0, 0, bound, below)  # the logarithm of tokens at level 0 is x itself
    value = rank([FAST, bounded], data([0.05, 0.2, 0.8, 0.95]))
    inside = (GRID[:, 0] >= allowed[0] - 0.05) & (GRID[:, 0] <= allowed[1] + 0.05)
    assert inside[np.argmax(value)]
    assert value[~inside].max() < 0.2 * value[inside].max()


def test_where_all_miss_a_bound_the_likeliest_to_meet_it_comes_first() -> None:
    bounded = Aim("tokens", 0, 0, 0.9, False)
    assert best(rank([FAST, bounded], data([0.0, 0.1, 0.2, 0.3]))) > 0.7


def test_what_failed_and_its_like_are_worth_less() -> None:
    x = [0.1, 0.3, 0.5, 0.85, 0.92, 1.0]
    failed = rank([MUCH], data(x, [True, True, True, False, False, False]))
    served = rank([MUCH], data(x[:3]))
    assert best(served) > 0.9
    left = failed / np.maximum(served, 1e-9)
    assert left[-1] < 0.5
    assert left[np.isclose(GRID[:, 0], 0.6)][0] > 1.5 * left[-1], "the farther away, the less"


def danger(x: Array) -> Array:
    """Beyond the middle memory runs out, as far as anybody can tell beforehand."""
    return 4 * (x[:, 0] - 0.35)


def test_a_risky_candidate_is_avoided_until_its_like_have_served() -> None:
    def ranked(x: Sequence[float]) -> Array:
        return rank([MUCH], data(x, risk=danger(np.array(x)[:, None])), risk=danger(GRID))

    x = [0.0, 0.1, 0.2, 0.3]
    assert best(rank([MUCH], data(x))) > 0.9, "the end that is worth most"
    assert 0.3 < best(ranked(x)) < 0.7
    assert best(ranked([*x, 0.6, 0.7, 0.75])) > 0.8


def test_a_failure_teaches_where_on_the_scale_of_risk_the_trouble_begins() -> None:
    # of the same risk everywhere but in its parameter, which alone would not tell: it failed at the other end
    x, risk = [0.4, 0.5, 0.6, 0.0], np.array([-1.0, -0.5, 0.0, 0.5])
    ahead = np.where(GRID[:, 0] > 0.8, 0.6, -1.0)
    failed, served = (rank([MUCH], data(x, [True, True, True, last], risk=risk), risk=ahead) for last in (False, True))
    risky = GRID[:, 0] > 0.8
    assert failed[risky].max() / failed[~risky].max() < 0.5 * served[risky].max() / served[~risky].max()


def test_earlier_trials_teach() -> None:
    before = data([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert best(rank([FAST], data([0.0]), before=before)) == pytest.approx(0.5, abs=0.08)
    failed = data([0.7, 0.8, 0.9, 1.0], [False] * 4)
    told, alone = (rank([MUCH], data([0.0, 0.2, 0.4]), before=known) for known in (failed, None))
    assert best(told) < 0.7 < best(alone)


def test_earlier_trials_are_not_of_the_front() -> None:
    own, shown = data([0.0, 0.15, 0.85]), [0.3, 0.5, 0.7]
    at = int(np.argmin(np.abs(GRID[:, 0] - 0.5)))
    earlier, again = rank([FAST], own, before=data(shown)), rank([FAST], data([0.0, 0.15, 0.85, *shown]))
    assert best(earlier) == pytest.approx(0.5, abs=0.03), "what was best is measured again"
    assert again[at] < 0.1 * earlier[at]


def test_both_together_keep_their_rows() -> None:
    def told(x: Sequence[float], served: Sequence[bool]) -> Data:
        features = {name: np.array(x)[:, None, None] * np.ones((1, 2, 1)) for name in ("seconds", "tokens")}
        return data(x, served, features, np.array(x))

    one, two, both = told([0.1, 0.2], [True, False]), told([0.3], [True]), told([0.1, 0.2, 0.3], [True, False, True])
    together = one.followed_by(two)
    assert together.risk is not None
    assert np.array_equal(together.x, both.x)
    assert np.array_equal(together.served, both.served)
    assert together.risk.tolist() == [0.1, 0.2, 0.3]
    for name in ("seconds", "tokens"):
        assert np.array_equal(together.logs[name], both.logs[name], equal_nan=True)
        assert np.array_equal(together.spread[name], both.spread[name])
        assert np.array_equal(together.features[name], both.features[name])


@pytest.mark.parametrize("before", [None, data([0.0, 0.5, 1.0])], ids=["nothing known", "earlier trials"])
def test_where_all_has_failed_something_comes_first(before: Data | None) -> None:
    value = rank([FAST, MUCH], data([0.8, 0.9], [False, False]), before=before)
    assert np.isfinite(value).all()
    assert best(value) < 0.7, "far from what failed"


def test_what_is_being_tried_is_not_suggested_again_nor_its_like() -> None:
    known = data([0.0, 0.15, 0.3, 0.45, 0.5])
    alone = rank([FAST, MUCH], known)
    first = GRID[np.argmax(alone)]
    value = rank([FAST, MUCH], known, pending=first[None])
    near = np.abs(GRID[:, 0] - first[0]) < 0.03
    assert value[near].max() < 0.35 * alone[near].max()
    assert not near[np.argmax(value)]


def test_a_prior_that_is_right_tells_the_best_at_once() -> None:
    def told(x: Array) -> dict[str, Array]:
        return {"seconds": (seconds(x) - 0.5)[:, :, None], "tokens": (tokens(x) - 1)[:, :, None]}

    known = data([0.0, 0.1], features=told(np.array([[0.0], [0.1]])))
    proposer = Proposer([FAST], {"seconds": POSITIONS}, 0.02)
    value = proposer.rank(known, GRID, told(GRID), np.random.default_rng(0))
    assert best(value) == pytest.approx(0.5, abs=0.1)


def test_the_same_numbers_rank_the_same() -> None:
    known = data([0.0, 0.4, 0.7])
    assert np.array_equal(rank([FAST, MUCH], known, seed=3), rank([FAST, MUCH], known, seed=3))


def test_three_objectives() -> None:
    third = Aim("tokens", 0, -1)
    value = rank([FAST, MUCH, third], data([0.0, 0.15, 0.3, 0.45, 0.5]))
    assert best(value) > 0.5
    assert np.isfinite(value).all()


def test_trials_that_were_stopped_early_count() -> None:
    stopped = data([0.0, 0.2, 0.4, 0.6, 0.8])
    logs = {name: np.where([[True, i < 2] for i in range(5)], values, np.nan) for name, values in stopped.logs.items()}
    value = rank([MUCH], Data(stopped.x, stopped.served, logs, stopped.spread, {}))
    assert best(value) > 0.8, "level 0 of the last three shows where level 1 is best"
