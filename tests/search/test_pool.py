"""What a pool offers, and that what is known of it is asked for once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.doubles import settings
from tests.search.test_encoding import endless
from tests.test_space import a_space, every_kind
from tuner.launch import Configuration, Value
from tuner.parameters import Categorical, Int
from tuner.prior.base import Prior
from tuner.search.knowledge import Knowledge
from tuner.search.pool import Batch, Pool
from tuner.search.targets import Targets
from tuner.search.tried import key
from tuner.space import Space

LATENCY = [{"metric": "latency_p99_s", "at": "max", "direction": "minimize"}]
SEVERAL = {"workload": {"scenario": "D(64,32)", "levels": [1, 4, 16], "warmup_requests": 0}, "objectives": LATENCY}


class Told(Prior):
    """Counts how often it is asked of what."""

    name: ClassVar[str] = "told"

    def __init__(self) -> None:
        self.asked: Counter[tuple[Any, ...]] = Counter()

    def predict(self, configuration: Configuration, level: int) -> Mapping[str, float] | None:
        self.asked[(key(configuration), level)] += 1
        return {"latency_p99_s": level * 2.0 ** float(configuration["n"])}


class Danger:
    """A risk that grows with `n`, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, configuration: Configuration) -> float:
        self.asked[key(configuration)] += 1
        return float(configuration["n"]) / 10


def small() -> Space:
    """15 configurations."""
    return a_space("n < 5 or not on", n=Int(type="int", low=0, high=9), on=Categorical(type="categorical", choices=(True, False)))


def uncounted() -> Space:
    """Too many to be listed."""
    return a_space(n=Int(type="int", low=0, high=9), **{f"p{i}": Int(type="int", low=0, high=9) for i in range(6)})


def pool(folder: Path, space: Space, knowledge: Knowledge | None = None) -> Pool:
    targets = Targets(settings(folder, **SEVERAL), lambda configuration: 1)
    return Pool(space, targets, knowledge or Knowledge())


def keys(batch: Batch) -> list[tuple[Any, ...]]:
    return [key(code) for code in batch.codes]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("space", [every_kind, endless])
def test_each_configuration_comes_with_its_point(tmp_path: Path, space: Callable[[], Space]) -> None:
    made = pool(tmp_path, space())
    for _ in range(2):
        batch = made.untried([], [], 40, rng())
        assert batch.x.shape == (len(batch.codes), made.encoding.rows(batch.codes).shape[1])
        assert np.array_equal(batch.x, made.encoding.rows(batch.codes))
        assert batch.features == {}
        assert batch.risk is None


def test_of_a_finite_space_all_that_was_not_tried(tmp_path: Path) -> None:
    space = every_kind()
    codes = [space.encode(configuration) for configuration in space.configurations()]
    made = pool(tmp_path, space)
    made.take(codes[::3])
    found = keys(made.untried([codes[1]], [], 10_000, rng()))
    assert len(found) == len(set(found))
    assert set(found) == {key(code) for code in codes} - {key(code) for code in (*codes[::3], codes[1])}
    assert key(codes[1]) in keys(made.untried([], [], 10_000, rng())), "what ran then, and does not now"
    made.take(codes)
    assert made.untried([], [], 10_000, rng()).codes == []


def test_of_many_some_are_drawn(tmp_path: Path) -> None:
    made = pool(tmp_path, every_kind())
    first, again, other = (keys(made.untried([], [], 10, rng(seed))) for seed in (1, 1, 2))
    assert len(set(first)) == 10
    assert first == again
    assert first != other


def test_sums_of_steps_were_tried_too(tmp_path: Path) -> None:
    space = every_kind()
    code = next(code for code in map(space.encode, space.configurations()) if code.get("draft_share") == 0.3)
    made = pool(tmp_path, space)
    made.take([{**code, "draft_share": 0.1 + 0.2}])
    assert key(code) not in keys(made.untried([], [], 10_000, rng()))


def test_of_an_endless_space_nothing_that_was_tried_or_runs(tmp_path: Path) -> None:
    first = keys(pool(tmp_path, endless()).untried([], [], 100, rng()))
    made = pool(tmp_path, endless())
    codes = [dict(name) for name in first]
    made.take(codes[::2])
    found = keys(made.untried(codes[1:4:2], [], 100, rng()))
    assert set(found) == set(first) - set(first[::2]) - set(first[1:4:2]), "the same draws, less these"


def test_an_endless_space_is_looked_at_around_what_is_known(tmp_path: Path) -> None:
    made = pool(tmp_path, endless())
    known = made.untried([], [], 1, rng(7))

    def nearest(batch: Batch) -> float:
        return float(np.quantile(((batch.x - known.x) ** 2).sum(axis=1), 0.25))

    assert nearest(made.untried([], known.codes, 300, rng())) < 0.6 * nearest(made.untried([], [], 300, rng()))


def test_priors_and_risk_are_asked_once_of_each(tmp_path: Path) -> None:
    prior, danger = Told(), Danger()
    made = pool(tmp_path, small(), Knowledge(priors=(prior,), risk=danger))
    assert not prior.asked, "of nothing before it is needed"
    some = made.untried([], [], 5, rng(1))
    assert len(danger.asked) == 5
    again = made.batch([*some.codes, *some.codes[:2]])
    for seed in range(3):
        made.untried([], some.codes, 8, rng(seed))
    assert set(danger.asked.values()) == set(prior.asked.values()) == {1}
    assert len(prior.asked) == 3 * len(danger.asked), "at each level"
    assert some.risk is not None
    assert again.risk is not None
    assert again.risk.tolist() == [*some.risk, *some.risk[:2]]
    told = some.features["latency_p99_s"]
    assert np.array_equal(again.features["latency_p99_s"], np.concatenate([told, told[:2]]))


def test_risk_and_features_are_those_of_their_configurations(tmp_path: Path) -> None:
    made = pool(tmp_path, small(), Knowledge(priors=(Told(),), risk=Danger()))
    for seed in range(3):
        batch = made.untried([], [], 6, rng(seed))
        n = np.array([float(code["n"]) for code in batch.codes])
        assert batch.risk is not None
        assert batch.risk == pytest.approx(n / 10)
        told = batch.features["latency_p99_s"]
        assert told.shape == (6, 3, 1)
        assert told[:, :, 0] - told[0, :, 0] == pytest.approx(np.repeat((n - n[0])[:, None] * np.log(2), 3, axis=1))


def test_the_centre_stays_the_same(tmp_path: Path) -> None:
    made = pool(tmp_path, small(), Knowledge(priors=(Told(),)))
    first = made.batch([{"n": 4, "on": True}])
    assert not first.features["latency_p99_s"].any()
    later = made.batch([{"n": 9, "on": False}, {"n": 4, "on": True}, {"n": 1, "on": False}])
    assert later.features["latency_p99_s"][:, 2, 0] == pytest.approx(np.log(2) * np.array([5, 0, -3]))


def test_risk_without_priors_and_priors_without_risk(tmp_path: Path) -> None:
    code: dict[str, Value] = {"n": 4, "on": True}
    risky, told = (pool(tmp_path, small(), known).batch([code]) for known in (Knowledge(risk=Danger()), Knowledge(priors=(Told(),))))
    assert risky.features == {}
    assert risky.risk is not None
    assert risky.risk.tolist() == [0.4]
    assert told.risk is None
    assert set(told.features) == {"latency_p99_s"}


def test_what_is_none_of_a_finite_space_is_known_and_not_offered(tmp_path: Path) -> None:
    danger = Danger()
    made = pool(tmp_path, small(), Knowledge(priors=(Told(),), risk=danger))
    stranger: dict[str, Value] = {"n": 8, "on": True}  # which the constraint forbids, as that of an earlier study did not
    for _ in range(2):
        batch = made.batch([stranger, {"n": 8, "on": False}])
        assert batch.codes == [stranger, {"n": 8, "on": False}]
        assert np.array_equal(batch.x, made.encoding.rows(batch.codes))
        assert batch.risk is not None
        assert batch.risk.tolist() == [0.8, 0.8]
        assert batch.features["latency_p99_s"][0].tolist() == batch.features["latency_p99_s"][1].tolist()
    assert set(danger.asked.values()) == {1}
    offered = keys(made.untried([], [], 10_000, rng()))
    assert len(offered) == small().size
    assert key(stranger) not in offered


def test_what_was_drawn_of_an_endless_space_is_forgotten_and_what_was_tried_is_not(tmp_path: Path) -> None:
    danger = Danger()
    made = pool(tmp_path, uncounted(), Knowledge(risk=danger))
    tried = made.untried([], [], 5, rng(1)).codes[:1]
    for _ in range(2):
        made.batch(tried)
    assert danger.asked[frozenset(tried[0].items())] == 2, "when it was drawn, and when it was tried"
    assert sum(made.batch(tried).x.shape[:1]) == 1
