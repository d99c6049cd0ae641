"""What a curve lets expect of the levels that it lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtr

from tests.doubles import measurement, timing
from tests.search.servers import LEVELS, Server
from tuner.goodput import Goodput
from tuner.objectives import Objective, Slo, Trace
from tuner.search.pruner_peers import FEWEST, MOST_DOF, SLACK, Belief, Peers, bounded, regress, spread

FAST = Objective(metric="ttft_p99_s", at=16, direction="minimize")
MUCH = Objective(metric="output_tokens_per_s", at=64, direction="maximize")
NOISE = 0.03


def trace(curve: dict, levels: tuple[int, ...] = LEVELS, gpus: int = 1, **more: object) -> Trace:  # type: ignore[type-arg]
    return Trace(curve, levels, gpus, **more)  # type: ignore[arg-type]


def peers(count: int, rng: np.random.Generator, wants: tuple[Objective | Slo, ...] = (FAST, MUCH)) -> Peers:
    some = Peers(wants, LEVELS)
    for number in range(count):
        some.add(number, trace(Server.drawn(rng).curve(rng, NOISE)))
    return some


def test_what_was_measured_is_believed_with_the_noise_of_runs() -> None:
    shown = measurement(64, output_tokens_per_s=500.0)
    ((belief,),) = Peers((MUCH,), LEVELS).beliefs(trace({64: shown}), NOISE)
    assert belief == Belief(math.log(500.0), NOISE)


def test_a_run_that_scatters_in_itself_is_believed_less() -> None:
    shown = measurement(64, output_tokens_per_s=500.0, spread={"output_tokens_per_s": 0.2})
    ((belief,),) = Peers((MUCH,), LEVELS).beliefs(trace({64: shown}), NOISE)
    assert belief.sd == 0.2


def test_few_peers_say_nothing() -> None:
    rng = np.random.default_rng(1)
    shown = {4: Server(0.01, 16).at(4, rng, NOISE)}
    assert peers(FEWEST - 1, rng, (FAST,)).beliefs(trace(shown), NOISE)[0][0].source == "bounded"
    assert [way.source for way in peers(FEWEST, rng, (FAST,)).beliefs(trace(shown), NOISE)[0]] == ["expected", "bounded"]


def test_expectations_are_as_far_off_as_they_say() -> None:
    rng = np.random.default_rng(2)
    known = peers(60, rng)
    places = []
    for _ in range(400):
        server = Server.drawn(rng)
        belief = known.beliefs(trace({64: server.at(64, rng, NOISE)}), NOISE)[0][0]
        assert belief.source == "expected"
        truth = server.at(16, rng, 0.0).ttft.p99
        places.append(stdtr(belief.dof, (math.log(truth) - belief.mean) / belief.sd))
    assert np.mean(np.array(places) < 0.01) < 0.03
    assert np.mean(np.array(places) > 0.99) < 0.03


def test_a_line_is_found_and_far_from_the_peers_it_is_less_certain() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(30, 2))
    targets = features @ [2.0, -1.0] + 0.1 * rng.normal(size=30)
    near, far = (regress(features, targets, np.array(new), 0.01) for new in ([0.5, 0.5], [9.0, 9.0]))
    assert near.mean == pytest.approx(0.5, abs=0.1)
    assert near.sd == pytest.approx(0.1, rel=0.5)
    assert far.sd > near.sd
    assert near.source == "expected"
    assert near.dof == MOST_DOF


def test_peers_do_not_judge_a_trial_of_another_kind() -> None:
    rng = np.random.default_rng(4)
    known = peers(0, rng)
    for number in range(20):
        known.add(number, trace(Server(0.01 * float(np.exp(0.2 * rng.normal())), 128).curve(rng, NOISE)))
    like, other = (known.beliefs(trace({64: Server(0.01, slots).at(64, rng, NOISE)}), NOISE)[0] for slots in (128, 16))
    assert [way.source for way in like] == ["expected"]
    assert other == []


def test_peers_that_agree_in_all_are_no_certainty() -> None:
    belief = regress(np.ones((8, 1)), np.full(8, 2.0), np.array([1.0]), NOISE)
    assert belief.mean == pytest.approx(2.0)
    assert belief.sd == NOISE


@pytest.mark.parametrize(
    ("want", "level", "bounds"),
    [
        (Slo(metric="ttft_p99_s", at=64, max=0.5), 16, True),
        (Slo(metric="ttft_p99_s", at=4, max=0.5), 16, False),
        (Slo(metric="output_tokens_per_s", at=4, min=100), 16, True),
        (Slo(metric="output_tokens_per_s", at=64, min=100), 16, False),
        (Objective(metric="latency_p99_s", at=64, direction="minimize"), 16, True),
        (Objective(metric="output_tokens_per_s", at=4, direction="maximize"), 16, True),
        (Objective(metric="output_tokens_per_s", at=4, direction="minimize"), 16, False),
        (Objective(metric="output_tokens_per_s", at="best", direction="maximize"), 16, False),
        (Slo(metric="error_rate", at=64, max=0.01), 16, False),
    ],
)
def test_load_only_makes_it_worse(want: Objective | Slo, level: int, bounds: bool) -> None:
    belief = bounded(want, trace({level: measurement(level, ttft=timing(0.7))}), NOISE)
    assert (belief is not None) == bounds
    if belief is not None and want.metric == "ttft_p99_s":
        assert belief == Belief(math.log(0.7), math.hypot(NOISE, SLACK), source="bounded")


def test_per_gpu() -> None:
    want = Objective(metric="output_tokens_per_s", at=64, per="gpu", direction="maximize")
    shown = {64: measurement(64, output_tokens_per_s=800.0)}
    assert Peers((want,), LEVELS).beliefs(trace(shown, gpus=4), NOISE)[0][0].mean == pytest.approx(math.log(200.0))
    assert Peers((want,), LEVELS).beliefs(trace(shown, gpus=0), NOISE) == [[]], "without the number of GPUs nothing is known"


def test_failures_scatter_by_the_root_of_their_count() -> None:
    want = Slo(metric="error_rate", at=64, max=0.01)
    assert spread(want, trace({64: measurement(64, completed=96, errors={"503": 4})})) == 0.5
    ((none,),) = Peers((want,), LEVELS).beliefs(trace({64: measurement(64)}), NOISE)
    assert none.mean < math.log(0.01) - 9 * none.sd


def test_goodput_is_known_within_its_tolerance() -> None:
    goodput = Goodput(bounds=[{"metric": "ttft_p99_s", "max": 0.5}], tolerance=0.1)  # type: ignore[arg-type]
    want = Objective(metric="concurrency", at="goodput", direction="maximize")
    whole = trace({4: measurement(4)}, levels=(4,), goodput=goodput)
    assert Peers((want,), (4,)).beliefs(whole, NOISE) == [[Belief(math.log(4), 0.1)]]
