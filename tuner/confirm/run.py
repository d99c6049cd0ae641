"""The confirmation: deploys the finalists and the defaults in turns until every claim is decided. Goes on exactly where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from tuner.confirm.companion import CONFIRM, ask_again, course, given_up, has_companion, open_companion, prior, settled
from tuner.confirm.drift import noise_of_defaults
from tuner.confirm.finalists import Finalists, choose
from tuner.confirm.race import DEFAULT, FIRST_LOOK, FUTILE, Race, Standing
from tuner.confirm.statistics import Array, Variance, chance_to_meet, residual_squares
from tuner.confirm.values import gains, margins
from tuner.launch import Value
from tuner.report.pages import Pages
from tuner.runner import Patience, run_trial
from tuner.study import Ledger
from tuner.telemetry.progress import Progress
from tuner.trial import Rig


@dataclass(frozen=True, slots=True)
class Rounds:
    """What the race has measured.

    Attributes:
        gain: Rounds x arms x objectives, as `values.gains`.
        margin: Rounds x arms x SLOs, as `values.margins`.
        reasons: Why arms could not be deployed again, by arm.
        standing: Where the race is.
        missing: Round and arm of the next deployment; None when all is decided.
        deployments: Deployments so far, failed ones too.
    """

    gain: Array
    margin: Array
    reasons: Mapping[int, str]
    standing: Standing
    missing: tuple[int, int] | None
    deployments: int


class Confirmation:
    """The confirmation of one study, as it stands in the storage.

    Args:
        ledger: The study; its trials are done.
        defaults: The engine's own values, by parameter.
    """

    def __init__(self, ledger: Ledger, defaults: Mapping[str, Value]) -> None:
        self.ledger = ledger
        self._defaults = defaults

    @cached_property
    def companion(self) -> Ledger | None:
        """What was repeated; None where nothing was and nothing will be: the dashboard would show an empty study."""
        if not self.ledger.settings.confirm.repeats and not has_companion(self.ledger, CONFIRM):
            return None
        return open_companion(self.ledger, CONFIRM, self._defaults)

    @cached_property
    def finalists(self) -> Finalists:
        """Who takes part beside the defaults: a matter of the study's trials alone."""
        return choose(self.ledger.settings, self._candidates)

    @property
    def _candidates(self) -> list[FrozenTrial]:
        ledger = self.ledger
        measured = [trial for trial in ledger.finished if trial.values is not None]
        return [trial for trial in measured if not (trial.user_attrs.get("default") and ledger.missed(trial))]

    @property
    def noise(self) -> tuple[Variance, ...]:
        """The noise between runs, by objective, from all that was measured repeatedly: the defaults over time, and the rounds."""
        known = noise_of_defaults(self.ledger, self.companion)
        if self.race is None:
            return known
        gain = self.rounds().gain
        return tuple(before.updated(*residual_squares(gain[:, :, i])) for i, before in enumerate(known))

    @property
    def on_front(self) -> Mapping[int, float]:
        """See `Finalists.on_front`; with the noise that is known by now, that of the noisiest objective for all."""
        noise = max(each.sd for each in self.noise)
        return choose(self.ledger.settings.model_copy(update={"noise": noise}), self._candidates).on_front

    @cached_property
    def race(self) -> Race | None:
        """The race to be run; None where there is nothing to compare."""
        settings, default = self.ledger.settings, self.ledger.default
        if not settings.confirm.repeats or default is None or not self.ledger.front or not self.finalists.claims:
            return None
        priors = noise_of_defaults(self.ledger, self.companion)
        return Race(self.finalists.claims, settings.confirm.repeats, settings.confirm.confidence, priors)

    @cached_property
    def arms(self) -> tuple[FrozenTrial, ...]:
        """The trials that are deployed again; the defaults first."""
        default = self.ledger.default
        return (*([default] if default else []), *self.finalists.trials)

    @property
    def key(self) -> str:
        """Tells the deployments of this race: rounds with other finalists are another race."""
        return ",".join(str(trial.number) for trial in self.arms)

    @property
    def pending(self) -> bool:
        """Whether something is still to be deployed."""
        return self.race is not None and self.rounds().missing is not None

    def run(self, rig: Rig, progress: Progress, pages: Pages) -> None:
        """Deploys what is missing. Arguments and errors: see `runner.run_trials`."""
        patience = Patience(self.ledger.settings.max_consecutive_failures, measured=True)
        if (companion := self.companion) is None:
            return
        companion.recover()
        while self.race is not None and (slot := self.rounds().missing) is not None:
            if companion.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                progress.notice("Another process is confirming the finalists of this study; the result will be there when it has ended.")
                return
            number, arm = slot
            name = "the defaults" if arm == DEFAULT else f"trial #{self.arms[arm].number}"
            progress.notice(f"Confirmation, round {number + 1} of at most {self.race.rounds}: {name} again")
            asked = ask_again(companion, self.arms[arm], {"purpose": CONFIRM, "race": self.key, "round": number, "arm": arm})
            run_trial(companion, rig, progress, pages, patience, asked, course(companion, asked))

    def rounds(self) -> Rounds:
        """What the race has measured so far.

        Played again from the first round, each decided with what was known then: a race that was broken off goes on as if it had not been.
        """
        assert self.race is not None
        settings, arms = self.ledger.settings, len(self.arms)
        tries = settled(self.companion, purpose=CONFIRM, race=self.key)
        slots: dict[tuple[int, int], list[FrozenTrial]] = {}
        for trial in tries:
            slots.setdefault((trial.user_attrs["round"], trial.user_attrs["arm"]), []).append(trial)
        gain, margin = np.empty((0, arms, len(settings.objectives))), np.empty((0, arms, len(settings.constraint_labels)))
        reasons: dict[int, str] = {}
        while True:
            number = len(gain)
            standing = self.race.standing(gain, frozenset(reasons) | self._certain_to_miss(margin))
            missing = [arm for arm in standing.running if not given_up(slots.get((number, arm), []))]
            if missing or not standing.running:
                slot = (number, missing[0]) if missing else None
                return Rounds(gain, margin, reasons, standing, slot, len(tries))
            row, met = np.full(gain.shape[1:], np.nan), np.full(margin.shape[1:], np.nan)
            for arm in standing.running:
                last = slots[number, arm][-1]
                if last.values is not None:
                    row[arm], met[arm] = gains(settings, [last])[0], margins(settings, [last])[0]
                elif last.user_attrs["outcome"] == "infeasible":
                    reasons[arm] = last.user_attrs["reason"]
            gain, margin = np.concatenate([gain, row[None]]), np.concatenate([margin, met[None]])

    def chance(self, margin: Array, arm: int) -> tuple[float, str]:
        """Probability that an arm meets the SLO that it is nearest to missing, and which one that is; 1 where there is none.

        Args:
            margin: See `Rounds`.
            arm: The arm.
        """
        settings = self.ledger.settings
        labels = settings.constraint_labels
        chances = [chance_to_meet(margin[:, :, i], arm, prior(settings)) for i in range(len(labels))]
        return min(zip(chances, labels, strict=True), default=(1.0, ""))

    def _certain_to_miss(self, margin: Array) -> frozenset[int]:
        """Finalists that need no further rounds, because they almost certainly miss an SLO."""
        if len(margin) < FIRST_LOOK:
            return frozenset()
        return frozenset(arm for arm in range(1, len(self.arms)) if self.chance(margin, arm)[0] < FUTILE)
