"""The study: created or resumed in Optuna's storage, asked for configurations, told outcomes. The only trial state there is lives here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from tuner.benchmark.measurement import Measurement
from tuner.errors import ConfigError, Infeasible
from tuner.evaluation import evaluate
from tuner.heartbeat import SEEN, Heartbeat, in_doubt, owner_lives, sign
from tuner.launch import Configuration, Value
from tuner.owner import Owner
from tuner.search import samplers
from tuner.search.encoding import Encoding
from tuner.search.history import History
from tuner.search.knowledge import Knowledge
from tuner.search.tried import Tried
from tuner.settings import Settings, difference
from tuner.space import Space

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
SERVED = ("measured", "pruned")
"""Outcomes of trials whose server served its load."""
RETRIES = 1
"""How often the configuration of a trial that ended through nobody's fault is tried again. Fewer than `max_consecutive_failures` allows:
one configuration that always fails so is given up, and does not stop the study."""
MISSES = 5
"""Suggestions in a row that are known or break a constraint, after which an unknown one is drawn at random. Optuna does not avoid repeats
itself."""
HOPELESS = 200
"""The same in a space that cannot be counted, and so not drawn from: such a search leads nowhere."""
UNSIGNED = timedelta(seconds=20)
"""A running trial that no process has signed after this time was abandoned between two writes, which are some 50 ms apart."""
SIGNATURE_POLL_S = 0.2
NOTHING = Knowledge()


@dataclass(frozen=True, slots=True)
class Asked:
    """A configuration to be tried.

    Attributes:
        trial: Optuna's running trial.
        configuration: What to deploy. For the default only the fixed values: the engine decides the rest.
        default: Whether this is the engine's defaults.
    """

    trial: Trial
    configuration: Mapping[str, Value]
    default: bool


class Ledger:
    """One study, seen by one process.

    Args:
        settings: The experiment.
        storage: Where it is kept.
        defaults: The engine's own values, by parameter.
        planned: Whether somebody else decides what is deployed, by `again`: then nothing is queued, or taken from the queue.
        knowledge: What the sampler is told beforehand.

    Raises:
        ConfigError: the storage holds a study of this name that measured something else.
    """

    def __init__(
        self,
        settings: Settings,
        storage: optuna.storages.BaseStorage,
        defaults: Mapping[str, Value],
        planned: bool = False,
        knowledge: Knowledge = NOTHING,
    ) -> None:
        self.settings = settings
        self.space: Space = settings.space
        self.owner = Owner.current()
        self.noise = settings.noise
        """Relative standard deviation between runs of one configuration, as far as it is known by now."""
        self._planned = planned
        self._given_up: list[FrozenTrial] = []
        self._tried = Tried()
        self._refuse: Callable[[Configuration], str | None] = lambda configuration: None
        self._default = _default_parameters(settings, defaults)
        self.study = optuna.create_study(
            storage=storage,
            study_name=settings.study_name,
            directions=[objective.direction for objective in settings.objectives],
            load_if_exists=True,
        )
        self._check_same()
        # resumed with the same seed, a sampler would first suggest again what it suggested before
        seed = None if settings.seed is None else settings.seed + len(self.study.get_trials(deepcopy=False))
        self.study.sampler = samplers.create(settings, seed, replace(knowledge, refuse=lambda configuration: self._refuse(configuration)))
        self._random = random.Random(seed)
        alive = self.study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING, TrialState.WAITING))
        if not planned and not any(trial.user_attrs.get("default") for trial in alive):
            self.study.enqueue_trial(self._default, user_attrs={"default": True})

    def _check_same(self) -> None:
        used = bool(self.study.get_trials(deepcopy=False))  # asked first: a process that starts just now signs before it queues
        known = self.study.user_attrs.get("fingerprint")
        if known is None:
            directions = [direction.name.lower() for direction in self.study.directions]
            if used or directions != [objective.direction for objective in self.settings.objectives]:
                raise ConfigError(
                    f"study_name={self.settings.study_name}: the storage has a study of this name that tuner did not make; "
                    "choose another study_name"
                )
            self.study.set_metric_names(self.settings.objective_labels)
            self.note("settings", self.settings.identity)
            self.note("fingerprint", self.settings.fingerprint)
        elif known != self.settings.fingerprint:
            different = difference(self.study.user_attrs.get("settings", {}), self.settings.identity)
            raise ConfigError(
                f"study_name={self.settings.study_name}: this study exists {different}; choose another study_name to measure this"
            )

    def at_work(self, trial: Trial) -> Heartbeat:
        """While it is entered, other processes know that the trial is being worked on."""
        return Heartbeat(self.study._storage, trial._trial_id)

    def note(self, key: str, value: Any) -> None:
        """Keeps a fact about the study."""
        if self.study.user_attrs.get(key) != value:
            self.study.set_user_attr(key, value)

    def recover(self) -> int:
        """Ends the running trials whose owners are dead and queues their configurations again; returns how many."""
        abandoned = [trial for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if _abandoned(trial)]
        recovered = 0
        for trial in abandoned:
            try:
                self.study._storage.set_trial_user_attr(trial._trial_id, "outcome", "abandoned")
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
                continue  # another process that starts just now was faster
            self._queue_again(trial, counts=False)
            recovered += 1
        return recovered

    def take_over(self) -> bool:
        """For when only running trials of other processes are missing: whether some remain after all, because those have died.

        Waits for trials that nobody has signed yet, until they are or `UNSIGNED` is over, and for those whose owner is out of sight and
        silent: otherwise a study whose process was killed would end one trial short.
        """
        while True:
            self.recover()
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if self.remaining or not any(_unclear(trial) for trial in running):
                return bool(self.remaining)
            time.sleep(SIGNATURE_POLL_S)

    @property
    def finished(self) -> list[FrozenTrial]:
        """Trials that count: measured, or infeasible. What breaks a constraint of the space was refused before, and does not."""
        return [t for t in self.study.get_trials(deepcopy=False, states=FINISHED) if t.user_attrs.get("outcome") != "refused"]

    @property
    def refused(self) -> list[str]:
        """Why configurations were refused without a deployment, one reason for each, in their order."""
        trials = self.study.get_trials(deepcopy=False, states=FINISHED)
        return [t.user_attrs["reason"] for t in trials if t.user_attrs.get("outcome") == "refused"]

    @property
    def remaining(self) -> int:
        """Trials still to be started, those in progress in other processes counted as finished."""
        started = self.study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
        return max(0, self.settings.trials - sum(1 for trial in started if trial.user_attrs.get("outcome") != "refused"))

    def ask(self, refuse: Callable[[Configuration], str | None] = lambda configuration: None) -> Asked | None:
        """The next configuration to deploy; None when the whole space is known, or all that is left of it refused.

        Suggestions that break a constraint of the space or are refused are told to the sampler as pruned, and known ones as failed, which
        it ignores; neither is deployed.

        Args:
            refuse: Why a configuration would certainly never serve, None where it may.

        Raises:
            ConfigError: the constraints of the space cannot be evaluated, or what is suggested is always known or refused.
        """
        self._refuse = refuse
        misses, broken = 0, None
        while True:
            deployed = self.study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
            self._tried.take((*deployed, *self._given_up))
            if self.space.size is None:
                if misses >= HOPELESS:
                    why = f"; the last refusal: {broken}" if broken else ""
                    raise ConfigError(f"space: the last {misses} suggestions were known or refused; widen ranges or constraints{why}")
            elif (misses >= MISSES or len(self._tried) >= self.space.size) and not self._queue_unknown(refuse):
                return None
            trial = self._start()
            default = bool(trial.user_attrs.get("default"))
            try:
                suggested = self.space.suggest(trial)
                configuration = dict(self.space.fixed) if default else suggested
                broken = (None if default else self._broken(configuration)) or refuse(configuration)
            except ValueError as error:
                self.study.tell(trial, state=TrialState.FAIL)
                raise ConfigError(f"space: {error}") from error
            if broken is not None:
                self._tell_infeasible(trial, "refused", broken)
            elif self._tried.has(trial.params, default):
                trial.set_user_attr("outcome", "repeat")
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                return Asked(trial, configuration, default)
            misses += 1

    def again(self, configuration: Configuration, default: bool, attributes: Mapping[str, Any]) -> Asked:
        """A configuration that is to be deployed whatever is known of it.

        Args:
            configuration: What to deploy; for the default only the fixed values.
            default: Whether it is the engine's default.
            attributes: Kept with the trial.
        """
        encoded = self._default if default else self.space.encode(configuration)
        own = {**attributes, **({"default": True} if default else {}), **self._signature}
        # in one step: queued and then asked for, it could get what an interrupt or another process has left in the queue
        distributions = {name: self._distributions[name] for name in encoded}
        running = create_trial(state=TrialState.RUNNING, params=encoded, distributions=distributions, user_attrs=own)
        trial_id = self.study._storage.create_new_trial(self.study._study_id, template_trial=running)
        return Asked(Trial(self.study, trial_id), configuration, default)

    def _start(self) -> Trial:
        trial = self.study.ask()
        for key, value in self._signature.items():
            trial.set_user_attr(key, value)
        return trial

    @property
    def _signature(self) -> dict[str, str]:
        """Whose trial it is; what comes last says that the rest is there."""
        return {SEEN: sign(), "owner": self.owner.to_str()}

    @cached_property
    def _distributions(self) -> Mapping[str, BaseDistribution]:
        return Encoding(self.space).distributions

    def _broken(self, configuration: Configuration) -> str | None:
        broken = self.space.violated(configuration)
        return None if broken is None else f"space.constraints: {broken}"

    def _queue_unknown(self, refuse: Callable[[Configuration], str | None]) -> bool:
        """Queues an allowed configuration of a finite space that was never tried, if nothing is queued; False when there is none."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return True
        for configuration, code in self._shuffled:
            if not self._tried.has(code, default=False) and refuse(configuration) is None:
                self.study.enqueue_trial(code)
                return True
        return False

    @cached_property
    def _shuffled(self) -> list[tuple[Configuration, dict[str, Value]]]:
        """All configurations of a finite space in a random order, as they are and encoded."""
        every = [(configuration, self.space.encode(configuration)) for configuration in self.space.configurations()]
        return self._random.sample(every, len(every))

    def tell_measured(self, trial: Trial, measurements: Mapping[int, Measurement]) -> list[float]:
        """Ends a trial with the values of its objectives, and returns them.

        Raises:
            Infeasible: an objective or a constraint has no finite value, which Optuna would not take.
        """
        shown = evaluate(self.settings, measurements, trial.user_attrs.get("gpus", 0))
        if shown.unknown:
            raise Infeasible(f"{shown.unknown[0]} has no value: too few requests or tokens to measure it")
        objectives = [value for value in shown.values if value is not None]
        if shown.doubts:
            trial.set_user_attr("doubts", list(shown.doubts))
        self._judge(trial, "measured", {**shown.violations, "deployable": -1.0})
        self.study.tell(trial, objectives)
        return objectives

    def tell_pruned(self, trial: Trial, measurements: Mapping[int, Measurement], reason: str) -> None:
        """Ends a trial that was stopped between two load levels; what it has shown by then stays in the study."""
        shown = evaluate(self.settings, measurements, trial.user_attrs.get("gpus", 0))
        trial.set_user_attr("reason", reason)
        self._judge(trial, "pruned", {**shown.violations, "deployable": -1.0})
        self.study.tell(trial, state=TrialState.PRUNED)

    def missed(self, trial: Trial | FrozenTrial) -> list[str]:
        """The SLOs that a trial misses."""
        constraints = trial.constraints  # of a running trial, Optuna reads them from the storage each time
        return [label for label in self.settings.constraint_labels if constraints.get(label, 0.0) > 0]

    def tell_infeasible(self, trial: Trial, reason: str) -> None:
        """Ends a trial whose configuration was deployed and cannot serve."""
        self._tell_infeasible(trial, "infeasible", reason)

    def _tell_infeasible(self, trial: Trial, outcome: str, reason: str) -> None:
        # FAIL would teach the sampler nothing: it would go on suggesting the same region
        trial.set_user_attr("reason", reason)
        self._judge(trial, outcome, dict.fromkeys([*self.settings.constraint_labels, "deployable"], 1.0))
        self.study.tell(trial, state=TrialState.PRUNED)

    def tell_failed(self, trial: Trial, reason: str) -> bool:
        """Ends a trial that failed through no fault of its configuration; returns whether the configuration is queued again."""
        trial.set_user_attr("outcome", "failed")
        trial.set_user_attr("reason", reason)
        failed = self.study.tell(trial, state=TrialState.FAIL)
        again = self._queue_again(failed, counts=True)
        if not again:
            self._given_up.append(failed)
        return again

    def tell_interrupted(self, trial: Trial) -> None:
        """Ends a trial that the user broke off; its configuration is tried when the study goes on. One that has ended stays as it is."""
        if self.study._storage.get_trial(trial._trial_id).state.is_finished():
            return
        trial.set_user_attr("outcome", "interrupted")
        self._queue_again(self.study.tell(trial, state=TrialState.FAIL), counts=False)

    def _judge(self, trial: Trial, outcome: str, constraints: Mapping[str, float]) -> None:
        """Writes how a trial ends, once: Optuna's own `Trial.set_constraint` reads the whole trial back before each."""
        for label, violation in constraints.items():
            self.study._storage.set_trial_system_attr(trial._trial_id, f"constraints:{label}", violation)
        # optuna-dashboard 0.21 reads only this older place; samplers see each constraint twice, which changes no comparison between trials
        self.study._storage.set_trial_system_attr(trial._trial_id, "constraints", list(constraints.values()))
        trial.set_user_attr("outcome", outcome)
        trial.set_user_attr("feasible", all(violation <= 0 for violation in constraints.values()))

    def _queue_again(self, trial: FrozenTrial, counts: bool) -> bool:
        """Queues the configuration of a failed trial.

        Not by Optuna's retry callback: the copy it makes inherits the constraints, which then cannot be set again.

        Args:
            trial: The failed trial.
            counts: Whether the failure was its own; after `RETRIES` of those it is given up.
        """
        tries = trial.user_attrs.get("tries", 0) + counts
        # what was queued is whole; what was suggested may have been broken off between two parameters
        parameters = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        if self._planned or tries > RETRIES or not parameters:
            return False
        attributes: dict[str, Any] = {"retry_of": trial.number, "tries": tries}
        if trial.user_attrs.get("default"):
            attributes["default"] = True
        self.study.enqueue_trial(parameters, user_attrs=attributes)
        return True

    @cached_property
    def history(self) -> History:
        """The deployed configurations, for those who decide by them."""
        return History(self.study)

    @property
    def front(self) -> list[FrozenTrial]:
        """The feasible, non-dominated trials, ordered by the first objective."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values)

    @property
    def default(self) -> FrozenTrial | None:
        """The measured trial of the engine's defaults, if there is one."""
        return next((t for t in self.finished if t.user_attrs.get("default") and t.values is not None), None)


def _abandoned(trial: FrozenTrial) -> bool:
    if "owner" in trial.user_attrs:
        return not owner_lives(trial.user_attrs)
    return trial.datetime_start is None or datetime.now() - trial.datetime_start > UNSIGNED


def _unclear(trial: FrozenTrial) -> bool:
    return "owner" not in trial.user_attrs or in_doubt(trial.user_attrs)


def _default_parameters(settings: Settings, defaults: Mapping[str, Value]) -> dict[str, Value]:
    """The engine's defaults as parameters of a trial; a value outside the space moves to the nearest inside."""
    declared = {name: parameter.default for name, parameter in settings.space.parameters.items() if parameter.default is not None}
    try:
        return settings.space.encode({**defaults, **declared, **settings.engine.args})
    except KeyError as error:
        name = error.args[0]
        raise ConfigError(
            f"space.{name}.default: missing; {settings.engine.name} decides its own value at start, so say which one stands for it"
        ) from error
