"""Times what an engine's step is made of on one GPU: decode, prefill and mixed steps of two Llama shapes with random bf16 weights.

    python -m tools.step_times --out DIR        # writes DIR/step_times.csv and DIR/step_times.json, in under four minutes

Needs torch and triton and, of this repository, only this folder; no engine, no checkpoint, no network. The roofline of `tuner/prior` gets
its efficiencies from the result (docs/prior.md). A step is that of a real server without its scheduler: all layers, the KV cache in one
pool of tokens, the output layer for the tokens that are sampled; times are of CUDA graphs unless the kind says `eager`.
`--cpu-check` runs every part on tiny shapes without a GPU and without the Triton kernels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import triton

from tools.step_times import say
from tools.step_times.model import LLAMA_1B, LLAMA_8B, TINY
from tools.step_times.timing import COLUMNS, KINDS, run_part


def describe(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "memory_bytes": properties.total_memory, "processors": properties.multi_processor_count}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for step_times.csv and step_times.json")
    parser.add_argument("--cpu-check", action="store_true", help="run everything on tiny shapes without a GPU")
    parser.add_argument("--budget-s", type=float, default=210.0, help="seconds after which no further point is begun")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if options.cpu_check else "cuda"
    if options.part:
        run_part(options.part, options.out / f"{options.part}.csv", device, options.budget_s)
        return
    start = time.monotonic()
    facts = describe(device)
    say(json.dumps(facts))
    (options.out / "step_times.json").write_text(json.dumps(facts) + "\n")
    shapes = [TINY] if options.cpu_check else [LLAMA_8B, LLAMA_1B]
    rows: list[str] = []
    for part in ["device", *(f"{shape.name}.{kind}" for shape in shapes for kind in KINDS)]:
        left = options.budget_s - (time.monotonic() - start)
        if left <= 0:
            break
        say(f"== {part}, {left:.0f} s left")
        # each in a process of its own: an error on the GPU ends every later use of it in the same process
        words = [sys.executable, "-m", "tools.step_times", "--out", str(options.out), "--part", part, "--budget-s", str(left)]
        code = subprocess.run([*words, *(["--cpu-check"] if options.cpu_check else [])], check=False).returncode
        if code:
            say(f"   {part} ended with {code}")
        path = options.out / f"{part}.csv"
        if path.exists():
            rows += path.read_text().splitlines()[1:]
            path.unlink()
        (options.out / "step_times.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    say(f"{len(rows)} rows in {options.out / 'step_times.csv'} after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
