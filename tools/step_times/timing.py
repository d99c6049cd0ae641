"""Times on the GPU, and the rows of one part of the run: a shape and a kind of step."""

from __future__ import annotations

import csv
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools.step_times import kernels, say
from tools.step_times.model import LLAMA_1B, LLAMA_8B, TINY, Batch, Model, Shape

COLUMNS = ("shape", "kind", "batch", "context", "chunk", "prefix", "seconds", "repeat_cv")
SPARE_BYTES = 10 * 2**30
"""Left beside weights and KV cache for activations and graphs."""
SHAPES = {shape.name: shape for shape in (LLAMA_8B, LLAMA_1B, TINY)}
KINDS = ("decode", "prefill", "mixed", "decode_eager", "prefill_eager")


class Graph:
    """Work captured as a CUDA graph. It reads the tensors of the work by their addresses, so it keeps the work."""

    def __init__(self, work: Callable[[], Any], pool: Any) -> None:
        self._work, self._graph = work, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            work()

    def __call__(self) -> None:
        self._graph.replay()


class Clock:
    """Times work on the GPU by events; without one by the wall clock, which only shows that the work runs."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            # all graphs share one pool of memory, which lives as long as one graph of it does
            number, self._pool = torch.zeros(1, device=device), torch.cuda.graph_pool_handle()
            self._first = self.graph(lambda: number + 1)

    def graph(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work as a CUDA graph, run once before so that everything is compiled."""
        if self.device == "cpu":
            return work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        return Graph(work, self._pool)

    def seconds(self, run: Callable[[], Any], total_s: float = 0.08, most: int = 30) -> float:
        """Median of one run, over as many as take about `total_s`."""
        run()
        first = self._once(run)
        return statistics.median(self._once(run) for _ in range(max(3, min(most, int(total_s / max(first, 1e-6))))))

    def _once(self, run: Callable[[], Any]) -> float:
        if self.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1000


class Recorder:
    """The rows, and points that are timed again after every other one, to see how much a time varies over the run."""

    def __init__(self, clock: Clock, deadline: float) -> None:
        self.clock, self.deadline = clock, deadline
        self.rows: list[dict[str, Any]] = []
        self._again: list[tuple[dict[str, Any], Callable[[], Any], list[float]]] = []

    def add(self, shape: str, kind: str, run: Callable[[], Any], again: bool = False, **point: int) -> float:
        seconds = self.clock.seconds(run)
        row = dict.fromkeys(COLUMNS, "") | {"shape": shape, "kind": kind, "seconds": f"{seconds:.4e}"} | point
        self.rows.append(row)
        for _, repeated, times in self._again:
            if len(times) < 40:
                times.append(self.clock.seconds(repeated, 0.02, 5))
        if again:
            self._again.append((row, run, [seconds]))
        return seconds

    def finish(self) -> None:
        """Writes how much the repeated points varied."""
        for row, _, times in self._again:
            if len(times) > 2:
                row["repeat_cv"] = f"{statistics.stdev(times) / statistics.mean(times):.4f}"
                say(f"  varies by {row['repeat_cv']} over {len(times)}: {row['shape']} {row['kind']} {row['batch']} {row['chunk']}")

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)


def device_part(recorder: Recorder, device: str, small: bool) -> None:
    size, edge = (2**16, 64) if small else (2**31, 8192)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = recorder.add("device", "copy", lambda: target.copy_(source), chunk=size)
    say(f"  copy: {2 * size / seconds / 1e9:.0f} GB/s read and written")
    seconds = recorder.add("device", "read", lambda: torch.sum(source.view(torch.int64)), chunk=size)
    say(f"  read: {size / seconds / 1e9:.0f} GB/s")
    a, b = (torch.randn(edge, edge, device=device).bfloat16() for _ in range(2))
    seconds = recorder.add("device", "gemm_bf16", lambda: a @ b, chunk=edge)
    say(f"  bf16 matrix product: {2 * edge**3 / seconds / 1e12:.0f} TFLOP/s")
    if small:
        return
    c, d, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t(), torch.ones((), device=device)
    seconds = recorder.add(
        "device", "gemm_fp8", lambda: torch._scaled_mm(c, d, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), chunk=edge
    )
    say(f"  fp8 matrix product: {2 * edge**3 / seconds / 1e12:.0f} TFLOP/s")


def kernel_check(shape: Shape, device: str) -> None:
    """Compares the decode kernel with float32; without a working Triton the run goes on with torch's slower kernels."""
    for batch, context in ((1, 1000), (3, 256), (5, 77)):
        q = torch.randn(batch, shape.heads, shape.head_dim, device=device).bfloat16()
        k, v = torch.randn(2, batch * context, shape.kv_heads, shape.head_dim, device=device).bfloat16()
        caches = (pool.view(batch, context, shape.kv_heads, shape.head_dim) for pool in (k, v))
        right = kernels.reference_attention(q.unsqueeze(1), *caches).squeeze(1).float()
        error = (kernels.decode_attention(q, k, v, context).float() - right).abs()
        say(f"  decode attention, batch {batch} context {context}: largest error {error.max().item():.4f}")


def consistency_check(model: Model, device: str) -> None:
    """A prefill in one piece and the same tokens prefilled and then decoded must end in the same sampled token."""
    length = 40
    whole = Batch(0, 0, length, 0, device)
    expected = model.step(whole)
    first, last = Batch(0, 0, length - 1, 0, device), Batch(1, length, 0, 0, device)
    first.tokens, last.tokens = whole.tokens[:-1], whole.tokens[-1:]
    model.step(first)
    say(f"  prefill then decode samples the same token as prefill: {bool((model.step(last) == expected).all())}")


def time_steps(recorder: Recorder, model: Model, kind: str, batches: list[tuple[Batch, bool]], eager: bool = False) -> None:
    for batch, again in batches:
        if batch.pool_tokens > model.pool_tokens or recorder.late:
            continue

        def work(batch: Batch = batch) -> torch.Tensor:
            return model.step(batch)

        run = work if eager else recorder.clock.graph(work)
        if eager:
            run()
        point = {"batch": batch.decoding, "context": batch.context, "chunk": batch.chunk, "prefix": batch.prefix}
        seconds = recorder.add(model.shape.name, kind, run, again, **point)
        say(f"  {kind:14} {' '.join(f'{name} {value:5}' for name, value in point.items())} {seconds * 1e3:9.3f} ms")


def shape_part(recorder: Recorder, shape: Shape, kind: str, device: str, small: bool) -> None:
    """Times the steps of one kind."""
    if small:
        pool, batches, contexts, chunks, prefixes = 600, (1, 4), (16, 128), (8, 32), (0, 16)
        mixed, eager, context = [(8, 2), (32, 4)], [(1, 0), (4, 0), (0, 32)], 16
    else:
        # from many to few, so that the allocator keeps what it got first
        batches, contexts = (256, 128, 64, 32, 16, 8, 4, 2, 1), (1024, 256, 4096)
        chunks, prefixes = (16384, 8192, 4096, 2048, 1024, 512, 256), (0, 4096)
        mixed, context = [(chunk, b) for chunk in (8192, 2048, 512, 256) for b in (128, 64, 16)], 1024
        eager = [(1, 0), (16, 0), (64, 0), (256, 0), (0, 256), (0, 1024), (0, 4096)]
        weights = 2 * (2 * shape.vocabulary * shape.hidden + shape.layers * shape.hidden * (3 * shape.width + 4 * shape.hidden))
        room = torch.cuda.mem_get_info()[0] - weights - SPARE_BYTES
        pool = min(550_000, room // shape.kv_token_bytes)
    model = Model(shape, device, pool)
    consistency_check(model, device)
    # the second of a pair says whether the point is timed again and again
    match kind:
        case "decode":
            points = [(Batch(b, c, 0, 0, device), (b, c) in {(1, 1024), (64, 1024), (4, 16)}) for c in contexts for b in batches]
        case "prefill":
            points = [(Batch(0, 0, c, p, device), (c, p) in {(2048, 0), (32, 0)}) for p in prefixes for c in chunks]
        case "mixed":
            points = [(Batch(b, context, c, 0, device), (c, b) == (512, 64)) for c, b in mixed]
        case "decode_eager":
            points = [(Batch(b, context, 0, 0, device), False) for b, c in eager if not c]
        case _:
            points = [(Batch(0, 0, c, 0, device), False) for b, c in eager if c]
    time_steps(recorder, model, kind, points, eager=kind.endswith("eager"))


def run_part(part: str, path: Path, device: str, budget_s: float) -> None:
    """One part of the run: `device`, or a shape and a kind of step. What it has is written however it ends."""
    torch.manual_seed(0)
    recorder = Recorder(Clock(device), time.monotonic() + budget_s)
    name, _, kind = part.partition(".")
    try:
        with torch.inference_mode():
            if name == "device":
                device_part(recorder, device, device == "cpu")
                return
            try:
                kernel_check(SHAPES[name], device)
            except Exception:
                say(traceback.format_exc(limit=-4))
                kernels.WITH_TRITON = False
            shape_part(recorder, SHAPES[name], kind, device, device == "cpu")
    finally:
        recorder.finish()
        recorder.write(path)
