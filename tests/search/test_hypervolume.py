"""Hypervolume against a count of grid cells, and improvement against the difference of two volumes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tuner.search import hypervolume
from tuner.search.gaussian_process import Array
from tuner.search.hypervolume import front_of, improvement, volume

GRID = 6


def on_grid(rng: np.random.Generator, n: int, m: int) -> Array:
    return rng.integers(0, GRID + 2, (n, m)).astype(float)


def cells(vectors: Array, reference: Array) -> float:
    """The volume of vectors with whole coordinates: the unit cells that one of them dominates."""
    corners = itertools.product(*(range(int(edge)) for edge in reference))
    return float(sum(any(all(v <= c for v, c in zip(vector, corner, strict=True)) for vector in vectors) for corner in corners))


def dominated(one: Array, by: Array) -> bool:
    return bool(np.all(by <= one) and np.any(by < one))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_front_is_what_none_dominates_once_each_in_order(m: int) -> None:
    rng = np.random.default_rng(m)
    for n in (1, 2, 5, 30):
        vectors = on_grid(rng, n, m)
        expected = {tuple(one) for one in vectors if not any(dominated(one, by) for by in vectors)}
        front = front_of(vectors)
        assert {tuple(row) for row in front} == expected
        assert len(front) == len(expected)
        assert np.all(np.diff(front[:, 0]) >= 0)


def test_front_of_nothing() -> None:
    assert front_of(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_volume_counts_cells(m: int) -> None:
    rng = np.random.default_rng(10 + m)
    reference = np.arange(GRID, GRID - m, -1.0)
    for n in (1, 2, 4, 12):
        vectors = on_grid(rng, n, m)
        assert volume(vectors, reference) == pytest.approx(cells(vectors, reference))


def test_four_dimensions() -> None:
    vectors = on_grid(np.random.default_rng(9), 6, 4)
    reference = np.full(4, float(GRID))
    assert volume(vectors, reference) == pytest.approx(cells(vectors, reference))


def test_volume_of_what_lies_beyond_the_reference() -> None:
    assert volume(np.array([[1.0, 7.0]]), np.array([6.0, 6.0])) == 0.0
    assert volume(np.zeros((0, 2)), np.array([6.0, 6.0])) == 0.0


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("known", [0, 1, 7])
def test_improvement_is_the_difference_of_volumes(m: int, known: int) -> None:
    rng = np.random.default_rng(20 + known)
    vectors, reference = 1.2 * rng.random((40, m)), np.array([1.0, 0.8])[:m]
    front = front_of(0.3 + rng.random((known, m)))
    before = volume(front, reference)
    expected = [volume(np.vstack([front, one[None]]), reference) - before for one in vectors]
    assert np.allclose(improvement(vectors, front, reference, rng), expected)
    assert max(expected) > 0


@pytest.mark.parametrize("known", [0, 1, 7])
def test_improvement_in_three_dimensions_within_the_error_of_its_probes(known: int) -> None:
    rng = np.random.default_rng(30 + known)
    vectors, reference = rng.random((25, 3)), np.array([1.0, 0.9, 0.8])
    front = front_of(0.3 + 0.7 * rng.random((known, 3)))
    before = volume(front, reference)
    expected = np.array([volume(np.vstack([front, one[None]]), reference) - before for one in vectors])
    found = improvement(vectors, front, reference, rng)
    # the standard error of a share p of n probes is sqrt(p (1 - p) / n), in units of the box that they fill
    assert np.abs(found - expected).max() < 4 * 0.5 / np.sqrt(hypervolume.PROBES)


def test_improvement_keeps_the_shape_of_its_vectors() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 3):
        vectors = rng.random((4, 5, m))
        found = improvement(vectors, front_of(rng.random((3, m))), np.ones(m), np.random.default_rng(1))
        assert found.shape == (4, 5)
        if m < 3:
            front = front_of(rng.random((3, m)))
            assert improvement(vectors, front, np.ones(m), rng)[2, 3] == improvement(vectors[2, 3], front, np.ones(m), rng)


def test_what_the_front_dominates_adds_nothing() -> None:
    rng = np.random.default_rng(2)
    for m in (1, 2, 3):
        front = np.full((1, m), 0.2)
        assert np.all(improvement(0.2 + 0.8 * rng.random((50, m)), front, np.ones(m), rng) == 0.0)


def test_parts_of_the_front_beyond_the_reference_do_not_count() -> None:
    rng = np.random.default_rng(3)
    front = np.array([[0.1, 2.0], [0.5, 0.5], [3.0, 0.1]])
    vectors = rng.random((30, 2))
    assert np.allclose(improvement(vectors, front, np.ones(2), rng), improvement(vectors, front[1:2], np.ones(2), rng))
