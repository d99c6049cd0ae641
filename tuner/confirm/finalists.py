"""Who takes part in the confirmation: what users want from the front, chosen with the noise of single measurements in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from tuner.confirm.race import Claim
from tuner.confirm.statistics import Array
from tuner.confirm.values import gains, margins, ranked
from tuner.settings import Settings

DRAWS = 300
FAR = 5.0
"""Standard deviations of noise behind another trial in every objective, or beyond an SLO, that no draw makes up for."""
SAFE = 0.8
"""Where trials meet all SLOs with this probability, only these become finalists: one at the edge would likely be confirmed in vain."""


@dataclass(frozen=True, slots=True)
class Finalists:
    """The arms of the race and what is claimed of them.

    Attributes:
        trials: Arms 1, 2, ... in this order.
        claims: See `race.Claim`. An objective in which the defaults are probably best has none.
        on_front: By number of a contender, the probability that it is on the feasible front.
    """

    trials: tuple[FrozenTrial, ...]
    claims: tuple[Claim, ...]
    on_front: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Votes:
    """Shares of the draws in which a contender is the best of an objective (contenders x objectives), on the front, the knee of it. Only
    those that are eligible can be best or the knee; the defaults are never the knee, since they take part anyway."""

    best: Array
    front: Array
    knee: Array


def choose(settings: Settings, measured: Sequence[FrozenTrial]) -> Finalists:
    """The finalists of a study: for each objective the trial that is most probably the best feasible one, and then the knee of the front.

    All measurements are drawn anew with the noise that single ones have, and the draws vote: who is best, or meets an SLO, by luck alone
    does not win. Fixed draws: the same study always has the same finalists. None where the defaults are best in everything, or nothing
    meets the SLOs.

    Args:
        settings: `confirm.finalists` limits the arms; with 1, the knee stands for all objectives.
        measured: The measured trials, the defaults among them or not.
    """
    from scipy.special import ndtr

    trials = list(measured)
    gain, margin = ranked(gains(settings, trials)), margins(settings, trials)
    near = np.flatnonzero(_contends(gain, margin, settings.noise))
    if not len(near):
        return Finalists((), (), {})
    is_default = np.array([bool(trials[i].user_attrs.get("default")) for i in near])
    safe = ndtr(margin[near] / settings.noise).prod(axis=1) >= SAFE
    votes = _vote(gain[near], margin[near], safe if safe.any() else ~safe, is_default, settings.noise)
    on_front = {trials[i].number: float(share) for i, share in zip(near, votes.front, strict=True)}
    if not votes.knee.any():
        return Finalists((), (), on_front)
    limit, objectives = settings.confirm.finalists, range(len(settings.objectives))
    best = [int(column.argmax()) for column in votes.best.T]
    knee = int(votes.knee.argmax())
    wanted = list(dict.fromkeys([knee] if limit == 1 else best))[:limit]
    arms = [i for i in wanted if not is_default[i]]
    claims = []
    for objective in objectives:
        # beyond the limit: the finalist that is best there stands for the objective
        stands = best[objective] if best[objective] in wanted else max(wanted, key=lambda i: float(gain[near][i, objective]))
        if not is_default[stands]:
            claims.append(Claim(objective, 1 + arms.index(stands)))
    if len(wanted) < limit and knee not in wanted and not is_default[knee]:
        arms.append(knee)
        claims += [Claim(objective, len(arms)) for objective in objectives]
    return Finalists(tuple(trials[near[i]] for i in arms), tuple(claims), on_front)


def _contends(gain: Array, margin: Array, noise: float) -> NDArray[np.bool_]:
    """Which trials could be on the feasible front if all were measured anew."""
    feasible = np.all(margin > -FAR * noise, axis=1)
    rivals = gain[np.all(margin > FAR * noise, axis=1)]
    beaten = np.array([np.any(np.all(rivals > row + FAR * noise, axis=1)) for row in gain], dtype=bool)
    return np.asarray(feasible & ~beaten)


def _vote(gain: Array, margin: Array, eligible: NDArray[np.bool_], is_default: NDArray[np.bool_], noise: float) -> _Votes:
    rng = np.random.default_rng(0)
    n, m = gain.shape
    best, front, knee = np.zeros((n, m)), np.zeros(n), np.zeros(n)
    for _ in range(DRAWS):
        drawn = gain + noise * rng.standard_normal((n, m))
        meets = np.all(margin + noise * rng.standard_normal(margin.shape) > 0, axis=1)
        feasible, standing = np.flatnonzero(meets), np.flatnonzero(meets & eligible)
        seen = drawn[feasible]
        # drawn numbers are never equal, so that no worse in any objective means better in all
        dominators = np.all(seen[None, :] >= seen[:, None], axis=2).sum(axis=1) - 1
        members = feasible[dominators == 0]
        front[members] += 1
        if len(standing):
            best[standing[drawn[standing].argmax(axis=0)], np.arange(m)] += 1
        others = standing[~is_default[standing]]
        if len(others):
            knee[others[_knee(drawn[members], drawn[others])]] += 1
    return _Votes(best / DRAWS, front / DRAWS, knee / DRAWS)


def _knee(front: Array, others: Array) -> int:
    """Which of `others` gives up least of the front's best values: the smallest greatest loss, relative to the front's range."""
    spread = front.max(axis=0) - front.min(axis=0)
    loss = (front.max(axis=0) - others) / np.where(spread > 0, spread, 1.0)
    return int(loss.max(axis=1).argmin())
