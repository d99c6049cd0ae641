"""How wrong the priors are: against measured servers that come with aiconfigurator-core, and against step times of one GPU.

Run from the repository, where the extra `prior` is installed: `python benchmarks/prior_accuracy.py`; about a minute.
`--steps FOLDER` takes the files that tools/step_times wrote, by default those kept in tests/prior/data. `--fit` prints instead the
constants of the roofline that fit them best.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from scipy.optimize import least_squares
from scipy.stats import spearmanr

from tuner.feasibility.rules import RULES
from tuner.launch import Configuration, Value
from tuner.prior import aiconfigurator, gpu_specs, roofline
from tuner.prior.closed_loop import Traffic
from tuner.prior.model_work import ModelWork
from tuner.prior.roofline import Roofline
from tuner.prior.serving import ServingPrior
from tuner.prior.step_times import Layout, StepTimes

# NVML's names, and memory in GiB, of the package's systems
GPUS = {
    "h100_sxm": ("NVIDIA H100 80GB HBM3", 79.6),
    "h200_sxm": ("NVIDIA H200", 140.4),
    "b200_sxm": ("NVIDIA B200", 178.4),
}
# the bf16 model whose shape each of them has
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama--Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama--Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "meta-llama--Meta-Llama-3.1-70B",
    "Qwen/Qwen3-32B": "Qwen--Qwen3-32B",
}
STEP_SHAPES = {
    "llama8b": {
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 14336,
    },
    "llama1b": {
        "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192,
    },
}  # fmt: skip
# constants of the roofline with their bounds, in the unit given last; a large read and matrix product alone reached the first two's upper
FITTED = {
    "WEIGHTS_BANDWIDTH": (0.5, 0.89, 1),
    "MATRIX_FLOPS": (0.5, 0.77, 1),
    "KV_BANDWIDTH": (0.5, 1, 1),
    "ATTENTION_FLOPS": (0.2, 0.8, 1),
    "LAYER_S": (0.1, 10, 1e-5),
    "TOKEN_LAYER_BYTES": (1, 20, 10),
    "SHARPNESS": (1.5, 10, 1),
}
METRICS = ("output_tokens_per_s", "tpot_mean_s", "ttft_mean_s")
REQUESTS_PER_USER, SHORTEST_TO_LONGEST = 10, 0.2
MIXES_LIKE = {"sglang": "sglang", "vllm": "vllm", "trtllm": "vllm"}


@dataclass(frozen=True)
class Row:
    """One measured server: what it served, how, and its mean timings."""

    group: tuple[str, ...]
    backend: str
    configuration: Configuration
    level: int
    traffic: Traffic
    measured: dict[str, float]


Pair = tuple[Row, dict[str, float]]
"""What was measured, and what a prior predicts."""


def rows() -> list[Row]:
    """The measured rows of dense models in bf16 and fp8."""
    with (files("aiconfigurator_core") / "systems" / "silicon_sample.csv").open(newline="") as file:
        content = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    return [row(each) for each in content if each["model_path"] in MODELS and each["system"] in GPUS and each["precision"] in ("", "fp8")]


def row(each: dict[str, str]) -> Row:
    level, given, answer = int(each["batch_size"]), int(each["isl"]), int(each["osl"])
    first, between = float(each["silicon_ttft_ms"]) / 1e3, float(each["silicon_tpot_ms"]) / 1e3
    rules = RULES[MIXES_LIKE[each["backend"]]]
    configuration: dict[str, Value] = {rules.tp: int(each["tp_size"])}
    if each["precision"] == "fp8":
        configuration["quantization"] = "fp8"
    group = tuple(each[name] for name in ("model_path", "system", "backend", "precision", "isl", "osl"))
    output = level * answer / (first + between * (answer - 1))
    measured = dict(zip(METRICS, (output, between, first), strict=True))
    # InferenceX sends ten prompts for each user, of 80 to 100 % of the lengths; the other rows come from equal ones
    same_length = "gap-analysis" in each["silicon_data_source"]
    spread = 0.0 if same_length else SHORTEST_TO_LONGEST / sqrt(12)
    traffic = Traffic(given, answer, REQUESTS_PER_USER, spread * given, spread * answer, first_wave=True)
    return Row(group, each["backend"], configuration, level, traffic, measured)


class Priors:
    """The priors, made once for each case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[Any, ...], dict[str, ServingPrior | None]] = {}

    def of(self, row: Row) -> dict[str, ServingPrior | None]:
        model, system = row.group[:2]
        key = (model, system, row.backend, row.traffic)
        if key not in self._made:
            folder = self._folder / MODELS[model]
            folder.mkdir(exist_ok=True)
            config = files("aiconfigurator_core") / "model_configs" / f"{MODELS[model]}_config.json"
            (folder / "config.json").write_text(config.read_text())
            self._made[key] = make(MIXES_LIKE[row.backend], row.backend, folder, *GPUS[system], row.traffic)
        return self._made[key]


def make(engine: str, backend: str, folder: Path, product: str, memory_gib: float, traffic: Traffic) -> dict[str, ServingPrior | None]:
    """Both priors, by name."""
    # a `config.json` without a checkpoint says nothing of a quantization beside it: an index with the full size does
    work = ModelWork.read(folder) or exit(f"{folder}: not known")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 2 * (work.plain_weights + work.head_weights)}})
    )
    work, gpu = ModelWork.read(folder), gpu_specs.find(product)
    assert work is not None
    assert gpu is not None
    case = (RULES[engine], {}, work, gpu, memory_gib, traffic)
    return {"roofline": Roofline(*case), "aiconfigurator": aiconfigurator.create(*case, backend, folder)}


def errors(pairs: Iterable[tuple[float, float]]) -> str:
    """Mean absolute error and median of predicted over measured."""
    ratios = [predicted / measured for predicted, measured in pairs]
    return f"MAPE {100 * statistics.mean(abs(ratio - 1) for ratio in ratios):5.1f} %, median ratio {statistics.median(ratios):5.2f}"


def servers(priors: Priors) -> None:
    """Prints rank correlations within each group of at least five rows, and errors over all of them."""
    found: dict[str, dict[tuple[str, ...], list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for each in rows():
        for name, prior in priors.of(each).items():
            predicted = prior.predict(each.configuration, each.level) if prior else None
            if predicted:
                found[name][each.group].append((each, dict(predicted)))
    for backends in (("sglang", "vllm"), ("trtllm",)):
        for name, groups in found.items():
            chosen = [pairs for group, pairs in groups.items() if group[2] in backends and len(pairs) >= 5]
            print(f"{' and '.join(backends)}, {name}: {sum(map(len, chosen))} measured servers in {len(chosen)} groups")
            for metric in METRICS:
                show(chosen, metric)


def show(groups: list[list[Pair]], metric: str) -> None:
    """Prints the line of one metric."""
    by_group = [[(predicted[metric], each.measured[metric]) for each, predicted in pairs] for pairs in groups]
    ranks = [float(spearmanr(*zip(*pairs, strict=True)).statistic) for pairs in by_group]
    # of servers that differ in tp only, at one load: the part that no growing load makes easy
    same_load = [ordered for pairs in groups for ordered in at_one_load(pairs, metric)]
    print(
        f"  {metric:20} rank correlation median {statistics.median(ranks):.3f}, least {min(ranks):.3f}; "
        f"pairs at one load in order {100 * statistics.mean(same_load):.1f} % of {len(same_load)}; "
        f"{errors(pair for pairs in by_group for pair in pairs)}"
    )


def at_one_load(pairs: list[Pair], metric: str) -> list[bool]:
    """For each two rows of one load that measured more than 5 % apart, whether the prior has them in the same order."""
    return [
        (one.measured[metric] > other.measured[metric]) == (this[metric] > that[metric])
        for index, (one, this) in enumerate(pairs)
        for other, that in pairs[:index]
        if one.level == other.level and abs(one.measured[metric] / other.measured[metric] - 1) > 0.05
    ]


@dataclass(frozen=True)
class Step:
    """One step that was timed; the first five as `StepTimes.seconds` takes them."""

    prefills: float
    new: int
    prefix: int
    decoding: int
    context: int
    shape: str
    kind: str
    seconds: float

    def by(self, steps: StepTimes) -> float:
        return steps.seconds(self.prefills, self.new, self.prefix, self.decoding, self.context)


class Steps:
    """The timed steps of one GPU, and priors of the shapes that were timed."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        facts = json.loads((folder / "step_times.json").read_text())
        self.gpu: str = facts["gpu"]
        with (folder / "step_times.csv").open(newline="") as file:
            steps = [self._step(each) for each in csv.DictReader(file) if each["shape"] in STEP_SHAPES]
        self.timed = [step for step in steps if step.kind in ("decode", "prefill", "mixed")]
        self._eager = [step for step in steps if step.kind == "decode_eager" and step.decoding == 1]
        self.priors = {}
        for shape in dict.fromkeys(step.shape for step in self.timed):
            model = scratch / shape
            model.mkdir()
            common = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False}
            config = common | STEP_SHAPES[shape] | {"max_position_embeddings": 131072, "rope_theta": 5e5}
            (model / "config.json").write_text(json.dumps(config))
            self.priors[shape] = make("sglang", "sglang", model, self.gpu, facts["memory_bytes"] / 2**30, Traffic(1024, 256, 3))

    @staticmethod
    def _step(each: dict[str, str]) -> Step:
        batch, context, chunk, prefix = (int(each[column]) for column in ("batch", "context", "chunk", "prefix"))
        return Step(float(chunk > 0), chunk, prefix, batch, context, each["shape"], each["kind"], float(each["seconds"]))

    def show(self) -> None:
        """Prints the errors by shape and kind."""
        print(self.gpu)
        for shape, priors in self.priors.items():
            for name, prior in priors.items():
                times = prior.step_times(Layout(1, None, "auto")) if prior else None
                for kind in ("decode", "prefill", "mixed") if times else ():
                    pairs = [(step.by(times), step.seconds) for step in self.timed if (step.shape, step.kind) == (shape, kind)]
                    if pairs:
                        print(f"  {shape} {name:14} {kind:8} {len(pairs):3} steps, {errors(pairs)}")

    def fit(self) -> None:
        """Prints the constants with the least squares of log(predicted / measured) over the steps without a prefix, in their bounds."""
        names, low, high, unit = zip(*((name, *bounds) for name, bounds in FITTED.items()), strict=True)
        steps = [step for step in self.timed if not step.prefix]

        def residuals(values: Any) -> list[float]:
            for name, value, scale in zip(names, values, unit, strict=True):
                setattr(roofline, name, value * scale)
            times = {shape: priors["roofline"].step_times(Layout(1, None, "auto")) for shape, priors in self.priors.items()}
            return [log(step.by(times[step.shape]) / step.seconds) for step in steps]

        found = least_squares(residuals, [(least + most) / 2 for least, most in zip(low, high, strict=True)], bounds=(low, high))
        for name, value, scale in zip(names, found.x, unit, strict=True):
            print(f"{name} = {value * scale:.3g}")
        layers = [step.seconds / self.priors[step.shape]["roofline"].work.layers for step in self._eager]
        print(f"closed_loop.EAGER_LAYER_S = {statistics.mean(layers):.3g}, the mean of {' and '.join(f'{each:.3g}' for each in layers)}")
        print(f"mean absolute error {100 * statistics.mean(abs(exp(each) - 1) for each in residuals(found.x)):.1f} % of {len(steps)} steps")


def main() -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=Path, default=Path(__file__).parents[1] / "tests" / "prior" / "data")
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(options.steps, Path(name))
        if options.fit:
            steps.fit()
            return
        steps.show()
        servers(Priors(Path(name)))


if __name__ == "__main__":
    main()
