"""Stands in for engines on GPUs, which do not run here: hidden truths about memory, drawn at random, decide how a launch ends."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from tuner.errors import MemoryStage
from tuner.feasibility.model_shape import ModelShape
from tuner.launch import Value
from tuner.server_facts import Startup

Outcome = tuple[Startup, MemoryStage | None, bool]


@dataclass(frozen=True)
class Cost:
    """Memory that grows with something, by a law that nobody told the gate."""

    base: float
    slope: float
    power: float

    @classmethod
    def draw(cls, rng: random.Random, at: float, most: float) -> Cost:
        """A law that reaches at most about `most` GiB at `at`."""
        power = rng.choice((0.5, 1.0, 1.3))
        return cls(rng.uniform(0, most / 10), rng.uniform(0, most) / at**power, power)

    def __call__(self, value: float) -> float:
        return float(self.base + self.slope * value**self.power)


class SimulatedSglang:
    """Fails as SGLang does: at load below a least fraction, at capture and at run time above others."""

    space: Mapping[str, list[Value]] = {
        "mem_fraction_static": [round(0.2 + 0.05 * step, 2) for step in range(16)],
        "tp_size": [1, 2],
        "chunked_prefill_size": [2048, 8192, 16384],
        "max_running_requests": [64, 512],
    }
    defaults: Mapping[str, Value] = {"tp_size": 1, "pp_size": 1, "dp_size": 1, "schedule_policy": "fcfs", "kv_cache_dtype": "auto"}

    def __init__(self, rng: random.Random, least_weights: float, memory: float) -> None:
        self._free = memory - rng.uniform(0.3, 2.5)
        self._weights = least_weights * rng.uniform(1.0, 1.1) + rng.uniform(0.0, 1.0)
        self._replicated = rng.uniform(0.0, 0.2)
        self._graphs = Cost.draw(rng, 512, 6.0)
        self._prefill_graphs = Cost.draw(rng, 16384, 3.0)
        self._activations = Cost.draw(rng, 16384, 12.0)

    def launch(self, configuration: Mapping[str, Value]) -> Outcome:
        full = self.defaults | configuration
        fraction, chunk, requests = (float(full[name]) for name in self.space if name != "tp_size")
        weights = self._weights / int(full["tp_size"]) + self._replicated
        startup = Startup(free_before_gib=round(self._free, 2), weights_gib=round(weights, 2))
        if self._free * fraction - weights <= 0:
            return startup, "load", False
        slack = self._free * (1 - fraction)
        captured = self._graphs(min(requests, 256)) + self._prefill_graphs(chunk)
        if captured > slack:
            return startup, "capture", False
        if captured + self._activations(chunk) > slack:
            return startup, "run", False
        return startup, None, True

    def goodness(self, configuration: Mapping[str, Value]) -> float:
        """A throughput to look for: more of everything is better, so that the best sits at the edge of what runs."""
        return sum(float(configuration[name]) / float(max(self.space[name])) for name in self.space if name != "tp_size")


class SimulatedVllm:
    """Fails as vLLM does: what it profiles comes out of the KV cache, which must hold one request; warm-up comes on top."""

    space: Mapping[str, list[Value]] = {
        "gpu_memory_utilization": [round(0.2 + 0.05 * step, 2) for step in range(17)],
        "max_num_seqs": [64, 256, 1024],
        "max_num_batched_tokens": [2048, 16384],
        "max_model_len": [4096, 131072],
    }
    defaults: Mapping[str, Value] = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1}

    def __init__(self, rng: random.Random, least_weights: float, memory: float, shape: ModelShape) -> None:
        self._total = memory - rng.uniform(0.0, 0.6)
        self._weights = least_weights * rng.uniform(1.0, 1.1) + rng.uniform(0.0, 1.0)
        self._activations = Cost.draw(rng, 16384, 8.0)
        self._warm_up = Cost.draw(rng, 1024, 6.0)
        self._context = rng.uniform(0.3, 1.5)
        self._per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2 / 2**30

    def launch(self, configuration: Mapping[str, Value]) -> Outcome:
        utilization, requests, tokens, length = (float(configuration[name]) for name in self.space)
        startup = Startup(weights_gib=round(self._weights, 2))
        profiled = self._activations(tokens) + self._warm_up(requests) / 2
        if utilization * self._total - self._weights - profiled < length * self._per_token:
            return startup, "load", False
        if self._warm_up(requests) + self._context > (1 - utilization) * self._total + self._activations(tokens):
            return startup, "capture", False
        return startup, None, True

    def goodness(self, configuration: Mapping[str, Value]) -> float:
        """See `SimulatedSglang.goodness`."""
        return sum(float(configuration[name]) / float(max(self.space[name])) for name in self.space)


def configurations(space: Mapping[str, list[Value]]) -> list[dict[str, Value]]:
    """All configurations of a space."""
    return [dict(zip(space, values, strict=True)) for values in product(*space.values())]
