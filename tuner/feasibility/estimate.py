"""Whether weights and KV cache can fit at all: reckoned from the model and the GPUs, then from what launches logged."""

from __future__ import annotations

import math

from tuner.feasibility.memory import GIB, KV_VALUE_BYTES, kv_budget, kv_token_bytes, least_fraction, weights_per_gpu
from tuner.feasibility.model_shape import ModelShape
from tuner.feasibility.rules import EngineRules, positive, size
from tuner.launch import Configuration, Value
from tuner.server_facts import Startup

_ROUNDING = 0.005
"""GiB; engines log two decimals."""


class Estimate:
    """The memory model of one engine, one model and one kind of GPU.

    It speaks only of configurations all of whose parameters it knows, and errs on the side of letting them run: it takes the most room that
    there can be, the least that the weights can take, and of the KV cache only what the engine insists on at start.

    Args:
        rules: The engine's.
        shape: The model's; None where it is not known: then it knows only what launches log.
        memory_gib: All memory of the smallest GPU; None where it cannot be seen.
        taken_gib: How much of it was in use when the study began, and may be free later.
    """

    def __init__(self, rules: EngineRules, shape: ModelShape | None, memory_gib: float | None, taken_gib: float = 0.0) -> None:
        self._rules = rules
        self._shape = shape
        self._memory = memory_gib
        self._taken = taken_gib
        self._most_free: float | None = None
        self._logged_weights: dict[frozenset[tuple[str, Value]], float] = {}

    def learn(self, full: Configuration, startup: Startup) -> None:
        """Takes over what a launch logged: its weights for configurations that load alike, its free memory for all."""
        if not self._knows(full):
            return
        if startup.weights_gib is not None:
            key = self._loads_like(full)
            self._logged_weights[key] = min(startup.weights_gib - _ROUNDING, self._logged_weights.get(key, math.inf))
        if startup.free_before_gib is not None:
            self._most_free = max(startup.free_before_gib + _ROUNDING, self._most_free or 0.0)

    def refuse(self, full: Configuration) -> str | None:
        """Why weights and KV cache cannot fit, with the bound; None where they may."""
        room, weights = self._room(), self._weights(full)
        if room is None or weights is None or not self._knows(full):
            return None
        rules = self._rules
        given = positive(full.get(rules.fraction))
        request = self._request(full)
        budget = kv_budget(room, given or 1.0, weights)
        if budget > 0 and budget >= request:
            return None
        gpu = f"a GPU of {room:.1f} GiB" if room == self._memory else f"a GPU with {room:.1f} GiB free"
        what = f"weights of {weights:.1f} GiB"
        if weights >= room:
            least = math.ceil(weights * size(full, rules.tp) * size(full, rules.pp) / room)
            return f"{what} do not fit on {gpu}: {rules.tp} x {rules.pp} >= {least} needed"
        bound = least_fraction(room, weights, request)
        if request:
            what += f" and {request:.1f} GiB of KV cache for {rules.request}={full[str(rules.request)]} do not fit on {gpu}"
        else:
            what += f" leave no KV cache on {gpu}"
        if given is None or bound > 1:
            return f"{what}: lower {rules.request}, or raise {rules.tp} or {rules.pp}"
        return f"{rules.fraction}={given:g}: {what}; {rules.fraction} >= {math.ceil(bound * 1000) / 1000:g} needed"

    def _knows(self, full: Configuration) -> bool:
        return full.keys() <= self._rules.weights | self._rules.harmless

    def _loads_like(self, full: Configuration) -> frozenset[tuple[str, Value]]:
        return frozenset((name, full[name]) for name in self._rules.weights & full.keys())

    def _room(self) -> float | None:
        """The most that the fraction can be a fraction of, GiB."""
        if not self._rules.of_free or self._most_free is None:
            return self._memory
        return min(self._most_free + self._taken, self._memory or math.inf)

    def _weights(self, full: Configuration) -> float | None:
        """The least that the weights take on the fullest GPU, GiB."""
        if (logged := self._logged_weights.get(self._loads_like(full))) is not None:
            return logged
        if self._shape is None or full.get("quantization", self._shape.quantization) != self._shape.quantization:
            return None
        rules = self._rules
        replicas = size(full, rules.dp) if rules.shares_experts and self._shape.experts else 1
        return weights_per_gpu(self._shape, size(full, rules.tp) * size(full, rules.pp) * replicas)

    def _request(self, full: Configuration) -> float:
        """The KV cache that the engine insists on at start, GiB; 0 for a token, which is next to nothing, and where it is not known."""
        shape, rules = self._shape, self._rules
        length = positive(full.get(rules.request)) if rules.request else None
        if shape is None or length is None or not shape.full_attention:
            return 0.0
        kind = str(full.get("kv_cache_dtype", "auto"))
        value_bytes = shape.kv_value_bytes if kind == "auto" else KV_VALUE_BYTES.get(kind)
        if value_bytes is None:
            return 0.0
        return length * kv_token_bytes(shape, size(full, rules.tp), size(full, rules.pp), value_bytes) / GIB
