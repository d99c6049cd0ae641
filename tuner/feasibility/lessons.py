"""What launches that failed and succeeded teach: where one ran out of memory, those that ask for no less will too."""

from __future__ import annotations

from typing import get_args

from tuner.errors import MemoryStage
from tuner.feasibility.rules import EngineRules, positive
from tuner.launch import Configuration

STAGES: tuple[MemoryStage, ...] = get_args(MemoryStage)

_WHAT_FAILED: dict[MemoryStage, str] = {
    "load": "weights and KV cache did not fit",
    "capture": "graph capture or warm-up ran out of memory",
    "run": "serving ran out of memory",
}


class Lessons:
    """Bounds learned from launches, separately for each stage.

    They rest on order alone, not on an estimate of what a parameter takes: of two configurations that are equal otherwise, the one that
    asks for no less runs out of memory where the other did. A larger fraction asks for less at load, and for more after it.

    Args:
        rules: The engine's.
    """

    def __init__(self, rules: EngineRules) -> None:
        self._rules = rules
        self._failed: dict[MemoryStage, list[Configuration]] = {stage: [] for stage in STAGES}
        self._passed: dict[MemoryStage, list[Configuration]] = {stage: [] for stage in STAGES}

    def learn(self, full: Configuration, failed: MemoryStage | None, measured: bool) -> None:
        """Takes a launch that has ended.

        Args:
            full: All of its parameters.
            failed: The stage at which GPU memory ran out.
            measured: Whether it passed all stages.
        """
        passed = STAGES[: STAGES.index(failed)] if failed else STAGES if measured else ()
        for stage in passed:
            if full not in self._passed[stage]:
                self._passed[stage].append(full)
            # one that asked for no less and passed shows that a failure had another cause
            self._failed[stage] = [earlier for earlier in self._failed[stage] if not self._asks_no_less(stage, full, earlier)]
        if failed and full not in self._failed[failed] and not self._passed_with_no_less(failed, full):
            self._failed[failed].append(full)

    def loads(self, full: Configuration) -> bool:
        """Whether one that asks for no less was loaded."""
        return self._passed_with_no_less("load", full)

    def refuse(self, full: Configuration) -> str | None:
        """Which failure shows that this configuration fails too, and what to change; None where none does."""
        for stage in STAGES:
            evidence = [failed for failed in self._failed[stage] if self._asks_no_less(stage, full, failed)]
            if evidence:
                return self._reason(stage, full, evidence)
        return None

    def _passed_with_no_less(self, stage: MemoryStage, full: Configuration) -> bool:
        return any(self._asks_no_less(stage, passed, full) for passed in self._passed[stage])

    def _asks_no_less(self, stage: MemoryStage, one: Configuration, other: Configuration) -> bool:
        for name in one.keys() | other.keys():
            if one.get(name) == other.get(name) or name in self._rules.irrelevant[stage]:
                continue
            a, b = positive(one.get(name)), positive(other.get(name))
            if a is None or b is None:
                return False
            if name == self._rules.fraction and stage == "load":
                a, b = b, a
            if a < b or name not in {self._rules.fraction, *self._rules.larger_is_worse[stage]}:
                return False
        return True

    def _reason(self, stage: MemoryStage, full: Configuration, evidence: list[Configuration]) -> str:
        fraction = self._rules.fraction
        others = sorted(self._rules.larger_is_worse[stage] & full.keys())
        sign = -1 if stage == "load" else 1
        # the one with the tightest bound; by name where several have it, so that the order of launches does not show
        failed = min(evidence, key=lambda one: (sign * (positive(one.get(fraction)) or 0), [str(one.get(name)) for name in others]))
        values = ", ".join(f"{name}={failed[name]}" for name in (fraction, *others) if name in failed)
        remedies = [f"lower {' or '.join(others)}"] if others else []
        if fraction in failed:
            direction = "raise {} above {}" if stage == "load" else "lower {} below {}"
            remedies.insert(0, direction.format(fraction, failed[fraction]))
        remedy = ", or ".join(remedies) or "change another parameter"
        return f"{_WHAT_FAILED[stage]} before with {values or 'these values'}, and this asks for no less: {remedy}"
