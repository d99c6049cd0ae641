"""What the gate promises, whatever the truth is: nothing that runs is refused, and the search becomes cheaper."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.feasibility.model_folders import downloaded, gpus, shape
from tests.feasibility.simulated import SimulatedSglang, SimulatedVllm, configurations
from tuner.feasibility.gate import Gate, create
from tuner.feasibility.memory import weights_per_gpu
from tuner.launch import Value

# The share of failing configurations that a search with the gate still deploys, at most. The larger the model, the more of them are
# impossible beforehand; of the smallest, those that fail are few and all at the edge.
MODELS = {"Llama-3.2-1B": 0.85, "Llama-3.1-8B": 0.5, "Qwen3-30B-A3B": 0.1}
SEEDS = range(12)
MEMORY = 79.1

Simulated = SimulatedSglang | SimulatedVllm


def _search(folder: Path, engine: str, model: str, seed: int) -> tuple[Simulated, Gate, random.Random]:
    rng = random.Random(seed)
    model_shape = shape(folder, model)
    weights = weights_per_gpu(model_shape, 1)
    assert weights is not None
    simulated: Simulated = SimulatedSglang(rng, weights, MEMORY) if engine == "sglang" else SimulatedVllm(rng, weights, MEMORY, model_shape)
    gate = create(engine, simulated.defaults, downloaded(folder, model), gpus(2, MEMORY, rng.choice((0.6, 20.0))))
    return simulated, gate, rng


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("model", MODELS)
def test_a_search_loses_nothing_and_saves_deployments(tmp_path: Path, engine: str, model: str) -> None:
    failed_with, failed_without = 0, 0
    for seed in SEEDS:
        simulated, gate, rng = _search(tmp_path, engine, model, seed)
        space = configurations(simulated.space)
        rng.shuffle(space)
        deployed: list[dict[str, Value]] = []
        for configuration in space:
            startup, failed, measured = simulated.launch(configuration)
            failed_without += not measured
            reason = gate.refuse(configuration)
            if reason is not None:
                assert failed, f"{configuration} would have run: {reason}"
                assert "\n" not in reason
                continue
            failed_with += not measured
            gate.learn(configuration, startup, failed, measured)
            if measured:
                deployed.append(configuration)
        runnable = [each for each in space if simulated.launch(each)[2]]
        assert max(map(simulated.goodness, deployed)) == max(map(simulated.goodness, runnable))
        assert all(gate.refuse(each) is None for each in deployed)
    assert failed_with < MODELS[model] * failed_without


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_order_and_repetition_make_no_difference(tmp_path: Path, engine: str) -> None:
    for seed in SEEDS:
        simulated, first, rng = _search(tmp_path, engine, "Llama-3.1-8B", seed)
        _, second, _ = _search(tmp_path, engine, "Llama-3.1-8B", seed)
        space = configurations(simulated.space)
        launched = rng.sample(space, 25)
        # two that failed for another reason than their own: noise must not make the order matter either
        ends = [(each, *simulated.launch(each)) for each in launched] + [
            (each, simulated.launch(each)[0], "run", False) for each in launched[:2]
        ]
        for end in ends:
            first.learn(*end)
        rng.shuffle(ends)
        for end in [*ends, *ends]:
            second.learn(*end)
        assert [first.refuse(each) for each in space] == [second.refuse(each) for each in space]


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_what_is_refused_lies_below_one_fraction_or_above_another(tmp_path: Path, engine: str) -> None:
    for seed in SEEDS:
        simulated, gate, rng = _search(tmp_path, engine, "Llama-3.1-8B", seed)
        space = configurations(simulated.space)
        for configuration in rng.sample(space, 40):
            gate.learn(configuration, *simulated.launch(configuration))
        fraction = next(iter(simulated.space))
        rows: dict[str, list[bool]] = {}
        for configuration in space:  # in the order of the fraction, the first in the space
            others = str({name: value for name, value in configuration.items() if name != fraction})
            rows.setdefault(others, []).append(gate.refuse(configuration) is None)
        for allowed in rows.values():
            assert "".join("y" if each else "n" for each in allowed).strip("n").count("n") == 0


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_learning_a_failure_never_allows_more(tmp_path: Path, engine: str) -> None:
    for seed in SEEDS:
        simulated, gate, rng = _search(tmp_path, engine, "Llama-3.1-8B", seed)
        space = configurations(simulated.space)
        refused: set[str] = set()
        for configuration in rng.sample(space, 40):
            startup, failed, measured = simulated.launch(configuration)
            if measured:
                continue
            gate.learn(configuration, startup, failed, measured)
            now = {str(each) for each in space if gate.refuse(each) is not None}
            assert refused <= now
            assert str(configuration) in now
            refused = now
