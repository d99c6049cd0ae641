"""Configurations as points: where each kind of parameter stands, which are listed, and which are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.test_space import a_space, every_kind
from tuner.launch import Value
from tuner.parameters import Categorical, Fixed, Float, Int, Ordinal, Parameter, PowerOfTwo
from tuner.search.encoding import Encoding
from tuner.search.tried import key
from tuner.space import Space

KINDS: dict[str, Parameter] = {
    "int": Int(type="int", low=1, high=9),
    "int_step": Int(type="int", low=2, high=11, step=3),
    "int_log": Int(type="int", low=1, high=100, log=True),
    "float": Float(type="float", low=-1.0, high=3.0),
    "float_step": Float(type="float", low=0.8, high=0.95, step=0.05),
    "float_log": Float(type="float", low=1e-3, high=1.0, log=True),
    "power_of_two": PowerOfTwo(type="power_of_two", low=64, high=1024),
    "ordinal": Ordinal(type="ordinal", choices=(512, 768, 4096)),
}
"""All with an order, and none conditional."""


def endless() -> Space:
    """No end of configurations, constraints, a condition and every kind of parameter."""
    choice = Categorical(type="categorical", choices=("a", "b", "c"))
    share = Float(type="float", low=0.0, high=1.0, when="choice == 'a'")
    return a_space("int <= int_log", "float_step >= float / 4", **KINDS, choice=choice, share=share, n_ctx=Fixed(value=8192))


def draws(encoding: Encoding, count: int, seed: int = 0, known: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Value]]:
    return encoding.drawn(known, count, np.random.default_rng(seed))


def test_every_configuration_is_a_point_of_its_own_in_the_unit_cube() -> None:
    space = every_kind()
    encoding = Encoding(space)
    codes = [space.encode(configuration) for configuration in space.configurations()]
    rows = encoding.rows(codes)
    assert rows.min() >= 0
    assert rows.max() <= 1
    assert len(np.unique(rows, axis=0)) == len(codes) == space.size


@pytest.mark.parametrize("name", KINDS)
def test_what_has_an_order_takes_one_dimension_from_end_to_end(name: str) -> None:
    parameter = KINDS[name]
    space = a_space(x=parameter)
    values = list(parameter.values()) if parameter.size else [-1.0, 0.0, 3.0] if name == "float" else [1e-3, 1e-2, 1.0]
    rows = Encoding(space).rows([space.encode({"x": value}) for value in values])
    assert rows.shape == (len(values), 1)
    assert np.all(np.diff(rows[:, 0]) > 0)
    assert (rows[0, 0], rows[-1, 0]) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(
    ("name", "low", "middle", "high"), [("float_log", 1e-3, 10**-1.5, 1.0), ("int_log", 1, 10, 100), ("float", -1, 1, 3)]
)
def test_the_middle_of_a_scale_stands_in_the_middle(name: str, low: float, middle: float, high: float) -> None:
    space = a_space(x=KINDS[name])
    rows = Encoding(space).rows([space.encode({"x": value}) for value in (low, middle, high)])
    assert rows[:, 0] == pytest.approx([0.0, 0.5, 1.0])


def test_powers_of_two_stand_at_equal_distances() -> None:
    space = a_space(x=KINDS["power_of_two"])
    rows = Encoding(space).rows([space.encode({"x": value}) for value in (64, 128, 256, 512, 1024)])
    assert rows[:, 0] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_of_two_choices_one_dimension_tells_all_and_of_three_each_has_one() -> None:
    space = a_space(
        two=Categorical(type="categorical", choices=(True, False)), three=Categorical(type="categorical", choices=("a", "b", "c"))
    )
    rows = Encoding(space).rows([{"two": True, "three": "a"}, {"two": False, "three": "c"}])
    assert rows.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]


def test_what_does_not_exist_stands_in_the_middle_and_says_so() -> None:
    space = a_space(on=Categorical(type="categorical", choices=(True, False)), n=Int(type="int", low=0, high=4, when="on"))
    rows = Encoding(space).rows([{"on": False}, {"on": True, "n": 2}, {"on": True, "n": 4}])
    assert rows.tolist() == [[0, 0, 0.5], [1, 1, 0.5], [1, 1, 1.0]]


def test_a_range_of_one_value_says_nothing() -> None:
    space = a_space(x=Int(type="int", low=3, high=3), y=Float(type="float", low=0.5, high=0.5, log=True))
    assert Encoding(space).rows([{"x": 3, "y": 0.5}]).tolist() == [[0.5, 0.5]]


def test_fixed_values_take_no_dimension() -> None:
    assert list(Encoding(a_space(x=Fixed(value=3), y=Int(type="int", low=0, high=1))).distributions) == ["y"]


def test_what_lacks_a_parameter_is_not_whole() -> None:
    encoding = Encoding(a_space(on=Categorical(type="categorical", choices=(True, False)), n=Int(type="int", low=0, high=4, when="on")))
    assert [encoding.whole(code) for code in ({"on": False}, {"on": True, "n": 2}, {"on": True}, {})] == [True, True, False, False]


def test_a_finite_space_is_listed_with_its_points() -> None:
    space = every_kind()
    encoding = Encoding(space)
    assert encoding.everything is not None
    codes, points = encoding.everything
    assert [space.decode(code) for code in codes] == list(space.configurations())
    assert np.array_equal(points, encoding.rows(codes))


@pytest.mark.parametrize("many", [0, 6], ids=["endless", "too many"])
def test_what_cannot_be_counted_is_not_listed(many: int) -> None:
    space = a_space(**{f"p{i}": Int(type="int", low=0, high=9) for i in range(many)}) if many else endless()
    assert Encoding(space).everything is None
    assert len(draws(Encoding(space), 40)) > 20


def test_draws_keep_ranges_and_constraints_and_each_is_another() -> None:
    space = endless()
    encoding = Encoding(space)
    found = draws(encoding, 400, known=draws(encoding, 20, seed=5))
    assert len(found) > 250
    assert len({key(code) for code in found}) == len(found)
    for code in found:
        configuration = space.decode(code)
        assert key(space.encode(configuration)) == key(code), "inside all ranges, on all steps, and with what exists only"
        assert space.violated(configuration) is None
        for name, distribution in encoding.distributions.items():
            assert name not in code or distribution._contains(distribution.to_internal_repr(code[name]))


def test_the_same_numbers_draw_the_same() -> None:
    encoding = Encoding(endless())
    assert draws(encoding, 10, seed=1) == draws(encoding, 10, seed=1) != draws(encoding, 10, seed=2)


def test_draws_reach_all_values() -> None:
    space = endless()
    found = draws(Encoding(space), 800, seed=3)
    for name in ("int", "int_step", "float_step", "power_of_two", "ordinal"):
        parameter = KINDS[name]
        seen = {space.decode(code)[name] for code in found}
        assert seen == set(parameter.values()), name
    assert {code["choice"] for code in found} == {"a", "b", "c"}


def test_half_of_the_draws_lie_near_what_is_known() -> None:
    encoding = Encoding(endless())
    known = draws(encoding, 1, seed=7)
    here = encoding.rows(known)[0]

    def distances(drawn: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        return np.sort(((encoding.rows(drawn) - here) ** 2).sum(axis=1))

    around, anywhere = distances(draws(encoding, 300, known=known)), distances(draws(encoding, 300))
    assert np.quantile(around, 0.25) < 0.6 * np.quantile(anywhere, 0.25)
    assert np.quantile(around, 0.9) > 0.5 * np.quantile(anywhere, 0.9), "and the others anywhere"


def test_constraints_that_nothing_keeps_leave_no_draw() -> None:
    space = a_space("x > 2", x=Float(type="float", low=0, high=1))
    assert draws(Encoding(space), 20) == []


def test_keys_forgive_rounding_and_the_order() -> None:
    steps = [0.8]
    for _ in range(3):
        steps.append(steps[-1] + 0.05)
    assert steps[-1] != 0.95
    assert key({"x": steps[-1], "y": 1}) == key({"y": 1, "x": 0.95})
    assert len({key({"x": value}) for value in np.linspace(0, 1, 100)}) == 100
    assert all(key({"x": a}) != key({"x": b}) for a, b in pairwise(steps))
