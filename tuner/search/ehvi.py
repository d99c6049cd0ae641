"""tuner's own sampler behind Optuna's interface: expected hypervolume improvement over models of whole latency-throughput curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.launch import Configuration
from tuner.search.encoding import Encoding, key
from tuner.search.gaussian_process import Array
from tuner.search.history import History, Seen
from tuner.search.knowledge import Knowledge
from tuner.search.proposal import Data, Proposer
from tuner.search.targets import Targets
from tuner.settings import Settings

LOOKED_AT = 2500
"""Candidates that are reckoned through for one trial."""
LATEST = 70
"""Trials that are modelled: more of them make each ask slow, and teach little."""


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
        self._startup = 0 if knowledge.priors else settings.sampler.startup_trials
        self._encoding = Encoding(settings.space)
        self._targets = Targets(settings, knowledge.gpus)
        self._rng = np.random.default_rng(seed)
        self._proposer = Proposer(self._targets.aims, self._targets.positions, settings.noise)
        self._histories: dict[str, History] = {}
        self._told: dict[tuple[Any, ...], dict[str, Array]] = {}
        self._fallback = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._encoding.distributions

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        history = self._histories.setdefault(study.study_name, History(study))
        seen = history.seen()
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED))
        tried = {key(other.params) for other in others}
        candidates, points = self._encoding.candidates(tried, [s.parameters for s in seen], LOOKED_AT, self._rng)
        if not candidates:
            return {}
        running = [other.params for other in others if other.state == TrialState.RUNNING and other.params and other.number != trial.number]
        if len(seen) + len(running) <= self._startup or not any(s.curve for s in seen):
            value = self._far_from([*(s.parameters for s in seen), *running], points)
        else:
            value = self._value(seen, running, candidates, points)
        for best in np.argsort(-value, kind="stable"):
            code = candidates[int(best)]
            if self._knowledge.refuse(self._configuration(code)) is None:
                return dict(code)
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._fallback.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._fallback.reseed_rng()

    def _far_from(self, known: Sequence[Mapping[str, Any]], points: Array) -> Array:
        """How far each of a few random candidates lies from all that is known."""
        chosen = self._rng.random(len(points)) < 60 / len(points)
        if not known or not chosen.any():
            return self._rng.random(len(points))
        away = ((points[:, None] - self._encoding.rows(known)[None]) ** 2).sum(axis=2).min(axis=1)
        return np.where(chosen, away, -1.0)

    def _value(
        self, seen: Sequence[Seen], running: Sequence[Mapping[str, Any]], candidates: Sequence[Mapping[str, Any]], points: Array
    ) -> Array:
        told = [*_worth_modelling(seen)]
        x = self._encoding.rows([s.parameters for s in told])
        logs, spread = self._targets.logs(told)
        codes = [s.parameters for s in told]
        data = Data(x, np.array([self._targets.served(s) for s in told]), logs, spread, self._features(codes))
        pending = None
        if running:
            pending = (self._encoding.rows(running), self._features(running))
        return self._proposer.rank(data, points, self._features(candidates), self._rng, pending)

    def _features(self, codes: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
        """What the priors say of encoded configurations, by metric; shape (n, levels, priors) each."""
        if not self._knowledge.priors:
            return {}
        for code in codes:
            if (name := key(code)) not in self._told:
                self._told[name] = self._targets.predicted(self._knowledge.priors, self._configuration(code))
        return self._targets.stacked([self._told[key(code)] for code in codes])

    def _configuration(self, code: Mapping[str, Any]) -> Configuration:
        return self._space.decode(code)


def _worth_modelling(seen: Sequence[Seen]) -> Sequence[Seen]:
    """The latest trials and, before them, those that were measured and met all bounds."""
    if len(seen) <= LATEST:
        return seen
    earlier = [s for s in seen[: -LATEST // 2] if s.outcome == "measured" and not s.missed][-LATEST // 2 :]
    return [*earlier, *seen[-LATEST // 2 :]]
