"""How close simulated servers come to real ones: `PYTHONPATH=. python -m benchmarks.landscapes.fidelity`, with the extra `prior`.

Takes the runs of dense models in `silicon_sample.csv`, simulates each with kernels of its own engine and GPU, and compares means. Beside it
stands the steady state of the same kernels, without scheduler and queue: one prompt alone, then a full batch at half its output.

The file does not tell whether all requests of a run were equally long. With equal ones all users wait for each other in every wave; with
lengths between 80 and 100 % of the nominal ones, as the public InferenceX benchmark draws them, requests soon spread out. Both are shown.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from operator import attrgetter
from statistics import fmean, median

import numpy as np

from benchmarks.landscapes.facts import spearman
from benchmarks.landscapes.kernels import Kernels
from benchmarks.landscapes.landscape import EAGER_LAYER_S
from benchmarks.landscapes.memory import CONTEXT_GIB
from benchmarks.landscapes.model import FOLDER, Model
from benchmarks.landscapes.silicon import measurements
from benchmarks.landscapes.simulator import Host, Server, Unservable, simulate
from benchmarks.landscapes.steps import StepTimes
from tuner.feasibility.memory import GIB

MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "Qwen/Qwen3-32B": "Qwen3-32B",
}
MEMORY_GIB = {"h100_sxm": 79.6, "h200_sxm": 140.4, "b200_sxm": 179.0}
WEIGHT_BYTES = {"": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.56}
"""Of one weight by precision; 4 bits with their scales."""

FRACTION = 0.88
CHUNK = 8192
WAVES = 10
SHORTEST = 0.8
"""What the runs do not tell either: memory fraction and chunk are near the engines' own; requests for each user, and the shortest length as
a share of the nominal one, are those of InferenceX."""

Times = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One run: mean time to first token and mean time per token, s.

    Attributes:
        group: GPU, engine, model, precision and version.
        batch: Users.
        output: Nominal output tokens.
        real: As measured.
        equal: Simulated with equal lengths.
        varied: Simulated with lengths that differ.
        steady: Without scheduler and queue.
    """

    group: str
    batch: int
    output: int
    real: Times
    equal: Times
    varied: Times
    steady: Times

    def rate(self, times: Times) -> float:
        """Output tokens per second that `times` amount to."""
        return self.batch * self.output / (times[0] + times[1] * (self.output - 1))


@cache
def _steps(model: str, system: str, backend: str, tp: int, quantization: str) -> StepTimes:
    options = {"gemm_quant_mode": quantization} if quantization else {}
    return StepTimes(Kernels(str(FOLDER / model), system, tp, backend, **options))


def replay(row: dict[str, str]) -> Run:
    """Simulates one run.

    Raises:
        Unservable: by the memory formula it could not have been.
    """
    model = Model.read(MODELS[row["model_path"]])
    system, backend, tp = row["system"], row["backend"], int(row["tp_size"])
    batch, prompt, output = int(row["batch_size"]), int(row["isl"]), int(row["osl"])
    steps = _steps(MODELS[row["model_path"]], system, backend, tp, row["gemm_quant_mode"])
    weights = model.weights_gib * WEIGHT_BYTES[row["precision"]] / 2 / tp
    room = (MEMORY_GIB[system] - CONTEXT_GIB) * FRACTION - weights
    # the other two engines always let prompts ride with decoding requests
    server = Server(1024, CHUNK, backend != "sglang", 1.0, 512, int(room * GIB / model.kv_token_bytes(tp)))
    host = Host(eager_s=EAGER_LAYER_S * model.layers)

    def times(requests: Iterator[tuple[int, int]]) -> Times:
        done = simulate(steps, server, host, requests, batch, WAVES * batch, 1e9).requests
        return fmean(request.ttft_s for request in done), fmean(request.tpot_s or 0.0 for request in done)

    steady = steps.prefill(prompt, prompt / 2), steps.decode(batch, prompt + output / 2)
    real = float(row["silicon_ttft_ms"]) / 1000, float(row["silicon_tpot_ms"]) / 1000
    name = f"{system} {backend} {MODELS[row['model_path']]} {row['precision'] or 'bf16'} {row['backend_version']}".rstrip()
    return Run(name, batch, output, real, times(repeat((prompt, output))), times(_varied(prompt, output)), steady)


def _varied(prompt: int, output: int) -> Iterator[tuple[int, int]]:
    random = np.random.default_rng(0)
    while True:
        for longer, more in random.uniform(SHORTEST, 1.0, (256, 2)):
            yield round(longer * prompt), round(more * output)


def runs() -> list[Run]:
    """All runs of dense models on known GPUs without attention-dp and pipeline, where there are kernels for them."""
    found: list[Run] = []
    for row in measurements():
        if row["model_path"] in MODELS and row["system"] in MEMORY_GIB and row["pp_size"] == "1" and row["attention_dp_size"] in ("", "1"):
            try:
                found.append(replay(row))
            except Unservable:
                continue
    return found


def mape(pairs: Sequence[Times]) -> float:
    """Mean of |predicted / real - 1|, of pairs of both in this order."""
    return fmean(abs(predicted / real - 1) for predicted, real in pairs)


def _line(name: str, group: Sequence[Run]) -> str:
    cells = [name, str(len(group))]
    for predicted in (attrgetter("equal"), attrgetter("varied"), attrgetter("steady")):
        ttft, tpot = (mape([(predicted(run)[part], run.real[part]) for run in group]) for part in (0, 1))
        bias = median(predicted(run)[0] / run.real[0] for run in group)
        rank = spearman([run.rate(run.real) for run in group], [run.rate(predicted(run)) for run in group])
        cells += [f"{tpot:.0%}", f"{ttft:.0%}", f"{bias:.2f}", f"{rank:.3f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints a table in Markdown: mean absolute errors, the median of predicted / real of TTFT, and rank correlations of throughput."""
    warnings.simplefilter("ignore")
    by_group: dict[str, list[Run]] = defaultdict(list)
    everything = runs()
    for run in everything:
        by_group[run.group].append(run)
    columns = ("TPOT", "TTFT", "bias", "rank")
    print(f"| runs | n | {' | '.join(f'{kind}: {column}' for kind in ('equal', 'varied', 'steady') for column in columns)} |")
    print("|---" * 14 + "|")
    for name, group in sorted(by_group.items(), key=lambda item: -len(item[1])):
        if len(group) >= 12:
            print(_line(name, group))
    print(_line("all", everything))


if __name__ == "__main__":
    main()
