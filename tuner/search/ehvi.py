"""tuner's own sampler behind Optuna's interface: expected hypervolume improvement over models of whole latency-throughput curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.search.deployable import Deployable
from tuner.search.gaussian_process import Array
from tuner.search.history import History, Seen
from tuner.search.knowledge import Knowledge
from tuner.search.pool import Batch, Pool
from tuner.search.proposal import CAUTION, Data, Proposer
from tuner.search.targets import Targets
from tuner.settings import Settings

LOOKED_AT = 2500
"""Candidates that are reckoned through for one trial."""
MODELLED = 60
"""Trials that are modelled: more of them make each ask slow, and teach little."""
SPREAD_OVER = 60
"""Random candidates of which the one farthest from all that is known is taken: of all, it would be a corner of the space."""


class EhviSampler(optuna.samplers.BaseSampler):
    """Suggests what is expected to add most to the feasible front, each configuration once.

    Args:
        settings: The experiment.
        knowledge: What is known of configurations before they are deployed.
        seed: For all that is drawn; None draws one.
    """

    def __init__(self, settings: Settings, knowledge: Knowledge, seed: int | None = None) -> None:
        self._space = settings.space
        self._knowledge = knowledge
        # who knows model and GPU, or an earlier study, needs no look around first
        sure = knowledge.known or any(prior.trust == 1.0 for prior in knowledge.priors)
        self._startup = 0 if sure else settings.sampler.startup_trials
        self._targets = Targets(settings, knowledge.gpus)
        self._rng = np.random.default_rng(seed)
        self._proposer = Proposer(self._targets.aims, self._targets.positions, settings.noise)
        self._history: History | None = None
        self._taken: set[int] = set()
        self._fallback = optuna.samplers.RandomSampler(seed=seed)

    @cached_property
    def _pool(self) -> Pool:
        """Made when it is first asked for: to list a large space takes seconds, and many a study is opened only to be read."""
        return Pool(self._space, self._targets, self._knowledge)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._pool.encoding.distributions

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if self._history is None:
            self._history = History(study)
        seen = self._history.seen(by_now=False)
        # what Optuna has read for this trial already: to read it again would take longer than to choose
        trials = study._get_trials(deepcopy=False, use_cache=True)
        ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.number not in self._taken]
        self._pool.take(t.params for t in ended)
        self._taken |= {t.number for t in ended}
        others = [t.params for t in trials if t.state == TrialState.RUNNING and t.number != trial.number]
        running = [code for code in others if self._pool.encoding.whole(code)]
        # later a trial brings less; and of an endless space each candidate is drawn and judged anew
        brief = len(seen) > MODELLED or self._space.size is None
        count = LOOKED_AT // 4 if brief else LOOKED_AT
        candidates = self._pool.untried(running, [s.parameters for s in seen[-MODELLED:]], count, self._rng)
        if not candidates.codes:
            return {}
        told = [*self._knowledge.known, *seen]
        if not seen or len(seen) + len(running) <= self._startup or not any(s.curve for s in told):
            value = self._apart([*(s.parameters for s in seen), *running], told, candidates)
        else:
            value = self._value(seen, running, candidates)
        for best in np.argsort(-value, kind="stable"):
            code = candidates.codes[int(best)]
            if self._knowledge.refuse(self._space.decode(code)) is None:
                return dict(code)
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._fallback.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._fallback.reseed_rng()

    def _apart(self, known: Sequence[Mapping[str, Any]], told: Sequence[Seen], candidates: Batch) -> Array:
        """How far each of a few random candidates lies from all that is known; those come first that will probably serve."""
        serves = np.ones(len(candidates.codes))
        if told:
            data = self._data(told)
            serves = Deployable(data.x, data.served, data.risk).probability(candidates.x, candidates.risk) ** CAUTION
        chosen = self._rng.random(len(serves)) < SPREAD_OVER / len(serves)
        if not known or not chosen.any():
            return np.asarray(self._rng.random(len(serves)) * serves)
        away = ((candidates.x[:, None] - self._pool.encoding.rows(known)[None]) ** 2).sum(axis=2).min(axis=1)
        return np.where(chosen, away * serves, -1.0)

    def _value(self, seen: Sequence[Seen], running: Sequence[Mapping[str, Any]], candidates: Batch) -> Array:
        pending = self._pool.batch(running) if running else None
        return self._proposer.rank(
            self._data(_worth_modelling(seen)),
            candidates.x,
            candidates.features,
            self._rng,
            (pending.x, pending.features) if pending else None,
            self._data(self._knowledge.known) if self._knowledge.known else None,
            candidates.risk,
        )

    def _data(self, told: Sequence[Seen]) -> Data:
        batch = self._pool.batch([s.parameters for s in told])
        logs, spread = self._targets.logs(told)
        served = np.array([self._targets.served(s) for s in told])
        return Data(batch.x, served, logs, spread, batch.features, batch.risk)


def _worth_modelling(seen: Sequence[Seen]) -> Sequence[Seen]:
    """The latest trials and, before them, those that were measured and met all bounds."""
    if len(seen) <= MODELLED:
        return seen
    earlier = [s for s in seen[: -MODELLED // 2] if s.outcome == "measured" and not s.missed][-MODELLED // 2 :]
    return [*earlier, *seen[-MODELLED // 2 :]]
