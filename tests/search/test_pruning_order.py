"""Which load level comes next."""

from __future__ import annotations

import pytest

from tuner.search.pruner_order import Order

LEVELS = (4, 16, 64, 256)


def course(order: Order) -> list[int]:
    run: list[int] = []
    while (level := order.next_level(run)) is not None:
        run.append(level)
    return run


def test_up_and_down_run_every_level_whatever_they_cost() -> None:
    assert course(Order("up", LEVELS, {64})) == [4, 16, 64, 256]
    assert course(Order("down", LEVELS, {64})) == [256, 64, 16, 4]


def test_the_busiest_that_is_asked_for_comes_first_while_costs_are_unknown_and_what_nobody_asks_for_last() -> None:
    assert course(Order("auto", LEVELS, {16, 64})) == [64, 16, 256, 4]


def test_the_cheapest_comes_first_before_any_has_stopped_a_trial() -> None:
    order = Order("auto", LEVELS, {16, 64})
    order.learn({4: 9.0, 16: 10.0, 64: 30.0, 256: 90.0}, None)
    assert course(order)[:2] == [16, 64]


def test_what_stops_most_trials_a_second_comes_first() -> None:
    order = Order("auto", LEVELS, {16, 64})
    order.learn({4: 9.0, 16: 10.0, 64: 15.0, 256: 90.0}, None)
    for _ in range(4):
        order.learn({16: 10.0, 64: 15.0}, {64})
    assert course(order)[:2] == [64, 16]


def test_a_level_that_costs_more_than_it_can_bring_is_not_tried_first() -> None:
    order = Order("auto", LEVELS, {16, 256})
    order.learn({16: 1.0, 256: 100.0}, None)
    for ends in ({16}, set()) * 10:
        order.learn({16: 1.0}, ends)
    assert course(order)[0] == 16


@pytest.mark.parametrize("kind", ["auto", "up", "down"])
def test_levels_beside_those_of_the_workload_do_not_matter(kind: str) -> None:
    order = Order(kind, (4, 16), {4})  # type: ignore[arg-type]
    order.learn({4: 1.0, 16: 2.0, 11: 1.5}, ())  # as bisection for goodput adds them
    assert sorted(course(order)) == [4, 16]
