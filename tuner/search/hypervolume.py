"""Hypervolume: what a set of objective vectors dominates, and what another vector would add. All objectives are minimised."""

from __future__ import annotations

import numpy as np

from tuner.search.gaussian_process import Array

PROBES = 1500
"""Points by which a volume of three or more dimensions is estimated: a standard error of 1 to 3 % of it."""


def front_of(vectors: Array) -> Array:
    """The non-dominated rows, each once, ordered by the first objective; shape (f, m)."""
    rest = np.unique(vectors, axis=0)  # in order: what dominates a row stands before it
    front = []
    while len(rest):
        front.append(rest[0])
        rest = rest[np.any(rest < rest[0], axis=1)]
    return np.array(front).reshape(-1, vectors.shape[1])


def volume(vectors: Array, reference: Array) -> float:
    """What `vectors` dominate up to `reference`; exact."""
    inside = vectors[np.all(vectors < reference, axis=1)]
    if not len(inside):
        return 0.0
    front = front_of(inside)
    if front.shape[1] == 1:
        return float(reference[0] - front[0, 0])
    # slices along the first objective, each with the volume of what lies before it
    edges = np.append(front[1:, 0], reference[0])
    return float(
        sum((edge - row[0]) * volume(front[: i + 1, 1:], reference[1:]) for i, (row, edge) in enumerate(zip(front, edges, strict=True)))
    )


def improvement(vectors: Array, front: Array, reference: Array, rng: np.random.Generator) -> Array:
    """What each vector would add to the volume that `front` dominates.

    Args:
        vectors: Shape (..., m).
        front: As `front_of` returns it; shape (f, m), f may be 0.
        reference: Shape (m,).
        rng: For the probes that three or more objectives need.

    Returns:
        Shape (...,).
    """
    front = front[np.all(front < reference, axis=1)]
    if len(reference) == 1:
        best = min([reference[0], *front[:, 0]])
        return np.asarray(np.maximum(best - vectors[..., 0], 0.0))
    if len(reference) == 2:
        return _in_strips(vectors, front, reference)
    return _by_probes(vectors, front, reference, rng)


def _in_strips(vectors: Array, front: Array, reference: Array) -> Array:
    left = np.concatenate([[-np.inf], front[:, 0]])
    right = np.append(front[:, 0], reference[0])
    ceiling = np.concatenate([[reference[1]], front[:, 1]])
    total = np.zeros(vectors.shape[:-1])
    for start, end, height in zip(left, right, ceiling, strict=True):
        total += np.maximum(end - np.maximum(start, vectors[..., 0]), 0.0) * np.maximum(height - vectors[..., 1], 0.0)
    return total


def _by_probes(vectors: Array, front: Array, reference: Array, rng: np.random.Generator) -> Array:
    low = np.minimum(vectors.reshape(-1, len(reference)).min(axis=0), front.min(axis=0) if len(front) else np.inf)
    probes = low + (reference - low) * rng.random((PROBES, len(reference)))
    if len(front):
        probes = probes[~np.any(np.all(front[None] <= probes[:, None], axis=2), axis=1)]
    box = float(np.prod(reference - low)) / PROBES
    flat = vectors.reshape(-1, len(reference))
    parts = np.array_split(flat, max(1, len(flat) // 512))  # all at once would take gigabytes
    counts = np.concatenate([np.all(part[:, None] <= probes[None], axis=2).sum(axis=1) for part in parts])
    return np.asarray(counts.reshape(vectors.shape[:-1]) * box)
