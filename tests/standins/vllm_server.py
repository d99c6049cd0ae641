"""A double of `vllm serve` of vLLM 0.33.0, which needs a GPU: flags, checks, logs, failures, HTTP and metrics.

It takes every flag of the real one, reckons memory by the real rules for a GPU that is not there (`gpu.py`), serves in simulated time
(`scheduler.py`) and fails on demand (`failures.py`). Of the standard library, but for the flag table in the package `tuner`. Its first
word may be `serve`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any, NoReturn

import failures
from gpu import MIB, Gpu, Model, OutOfMemoryError, read_model, this_gpu
from http_server import HttpServer, Reply, Request, listen
from metrics_text import Metric, render
from openai_api import BadRequest, Dialect, OpenAI
from scheduler import Limits, Scheduler
from stages import Stages
from vllm_args import captured, parse, resolve

VERSION = "0.33.0"
OTHER = 0.3
"""GiB that NCCL and the like take beside torch."""
GRAPH_MIB = 2.0
"""Of one captured sequence."""
WATCHDOG_S = 0.2
"""Until the HTTP server notices that its engine is dead; 5 s with the real one."""
DEATH = "The server had an error while processing your request."


def uvicorn(line: str) -> None:
    """As the HTTP server logs, which is not vLLM's own."""
    sys.stdout.write(f"INFO:     {line}\n")
    sys.stdout.flush()


def log(message: str, level: str = "INFO", process: str = "APIServer", place: str = "launcher.py:66") -> None:
    """As vLLM logs: every line with its prefix."""
    prefix = f"({process} pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} [{place}] "
    sys.stdout.write("".join(f"{prefix}{line}\n" for line in message.splitlines() or [""]))
    sys.stdout.flush()


class Vllm:
    """The engine process and the HTTP server, in one process."""

    def __init__(self, args: dict[str, Any], model_name: str, model: Model, gpu: Gpu, stages: Stages) -> None:
        self.args = args
        self.model = model
        self.gpu = gpu
        self.stages = stages
        self.served = (args.get("served_model_name") or [model_name])[0]
        self.root = model_name
        self.dead = False

    def allocate(self) -> None:
        """Loads the weights, profiles, sizes the KV cache and captures the graphs (v1/worker/gpu_worker.py)."""
        args, gpu, model = self.args, self.gpu, self.model
        shards = args["tensor_parallel_size"] * args["pipeline_parallel_size"]
        wanted = args["gpu_memory_utilization"] * gpu.total
        core(f"Initializing a V1 LLM engine (v{VERSION}) with config: model={self.root!r}, served_model_name={self.served}", "core.py:140")
        self.stages.load()
        if gpu.free < wanted:
            raise ValueError(
                f"Free memory on device cuda:0 ({gpu.free:.2f}/{gpu.total:.2f} GiB) on startup is less than desired GPU memory "
                f"utilization ({args['gpu_memory_utilization']}, {wanted:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory "
                "used by other processes."
            )
        weights = model.weights / shards
        try:
            gpu.allocate(weights, gpu.free)
        except OutOfMemoryError as error:
            core(
                "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights, "
                "increasing --tensor-parallel-size, or using --quantization. See "
                f"https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more tips. (original error: {error})",
                "gpu_model_runner.py:5086",
                "ERROR",
            )
            raise
        core(f"Model loading took {weights:.2f} GiB memory and 0.020000 seconds", "gpu_model_runner.py:5089")
        graphs = captured(args) * GRAPH_MIB * MIB
        activation = args["max_num_batched_tokens"] * gpu.activation
        memory = args.get("kv_cache_memory_bytes")
        available = memory / 2**30 if memory else wanted - weights - activation - OTHER - graphs
        core(f"Available KV cache memory: {available:.2f} GiB", "gpu_worker.py:773")
        self._size_cache(available)
        self._capture(gpu.free - weights - activation - OTHER - available, graphs)

    def _size_cache(self, available: float) -> None:
        args = self.args
        if available <= 0:
            raise ValueError(
                "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine (this "
                "flag also controls CPU memory reservation on the CPU backend, despite its name). See "
                "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
            )
        cell = self.model.token(args["tensor_parallel_size"], args["pipeline_parallel_size"], args["kv_cache_dtype"])
        tokens = int(available / cell) // args["block_size"] * args["block_size"]
        longest = args["max_model_len"]
        if tokens < longest:
            raise ValueError(
                f"To serve at least one request with the model's max seq len ({longest}), ({longest * cell:.2f} GiB KV cache is needed, "
                f"which is larger than the available KV cache memory ({available:.2f} GiB). Based on the available memory, the estimated "
                f"maximum model length is {tokens}. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU "
                "backend) or decreasing `max_model_len` when initializing the engine. See "
                "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
            )
        self.tokens = tokens
        core(
            f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {longest:,} tokens per request: {tokens / longest:.2f}x",
            "kv_cache_utils.py:1146",
        )

    def _capture(self, free: float, graphs: float) -> None:
        self.stages.pass_("capture")
        self.gpu.allocate(graphs, free)
        if graphs:
            core(f"Graph capturing finished in 0 secs, took {graphs:.2f} GiB", "gpu_model_runner.py:6517")
        requests = self.args["max_num_seqs"]
        if requests * self.model.vocab * 4 * 2 / 2**30 > free - graphs:
            raise RuntimeError(
                f"CUDA out of memory occurred when warming up sampler with {requests} dummy requests. Please try lowering `max_num_seqs` "
                "or `gpu_memory_utilization` when initializing the engine."
            )
        core("init engine (profile, create kv cache, warmup model) took 0.02 s", "core.py:413")

    def limits(self) -> Limits:
        args = self.args
        replicas = args["data_parallel_size"]
        return Limits(
            running=args["max_num_seqs"] * replicas,
            kv_tokens=self.tokens * replicas,
            chunk=args["max_num_batched_tokens"],
            mixed=True,
            graph_batch=captured(args),
            reserve=0.0,
            prefix_cache=args["enable_prefix_caching"],
            shards=args["tensor_parallel_size"] * args["pipeline_parallel_size"],
            replicas=replicas,
        )

    async def serve(self, listener: socket.socket) -> None:
        self.scheduler = Scheduler(self.limits(), lambda prefill, decode: self.stages.step(), lambda count: None)
        dialect = Dialect(
            wrap_error=lambda message, kind, code: {"error": {"message": message, "type": kind, "param": None, "code": code}},
            stop_field="stop_reason",
            too_long=too_long,
            unknown_model=lambda name: f"The model `{name}` does not exist.",
        )
        openai = OpenAI(self.scheduler, dialect, self.served, self.args["max_model_len"], self._admit)
        routes = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            ("GET", "/version"): self._version,
            ("GET", "/load"): self._load,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/v1/chat/completions"): openai.chat,
            ("POST", "/v1/completions"): openai.completions,
        }
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            routes["POST", "/reset_prefix_cache"] = self._reset
            routes["GET", "/server_info"] = self._server_info
        quiet = self.args.get("disable_uvicorn_access_log") or self.args.get("uvicorn_log_level") in ("warning", "error", "critical")
        access = (lambda line: None) if quiet else uvicorn
        host, port = listener.getsockname()[:2]
        log(f"Starting vLLM server on http://{host}:{port}", place="entry.py:139")
        engine = asyncio.ensure_future(self.scheduler.run())
        http = asyncio.ensure_future(HttpServer(routes, access).serve(listener))
        uvicorn("Application startup complete.")
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, http.cancel)
        await asyncio.wait({engine, http}, return_when=asyncio.FIRST_COMPLETED)
        if engine.done():
            self.dead = True
            core("EngineCore encountered a fatal error.\n" + _traceback(engine.exception()), "core.py:1586", "ERROR")
            log(
                "AsyncLLM output_handler failed.\nvllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack "
                "trace (above) for the root cause.",
                "ERROR",
                place="async_llm.py:943",
            )
            await asyncio.sleep(WATCHDOG_S)
        uvicorn("Shutting down")

    def _admit(self) -> None:
        if self.dead:
            raise BadRequest(DEATH, 500, "InternalServerError")
        self.stages.admit()

    async def _health(self, request: Request) -> Reply:
        return Reply(status=503 if self.dead or self.stages.unready else 200)

    async def _models(self, request: Request) -> Reply:
        if self.stages.unready:
            return Reply(status=503)
        card = {"id": self.served, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": self.root, "parent": None}
        return Reply({"object": "list", "data": [card | {"max_model_len": self.args["max_model_len"], "permission": []}]})

    async def _version(self, request: Request) -> Reply:
        return Reply({"version": VERSION})

    async def _load(self, request: Request) -> Reply:
        tracked = self.args.get("enable_server_load_tracking")
        return Reply({"server_load": len(self.scheduler.running) + len(self.scheduler.waiting) if tracked else 0})

    async def _reset(self, request: Request) -> Reply:
        return Reply({"success": self.scheduler.flush()})

    async def _server_info(self, request: Request) -> Reply:
        return Reply({"vllm_config": str(self.args)})

    async def _metrics(self, request: Request) -> Reply:
        scheduler, stats = self.scheduler, self.scheduler.stats
        metrics = [
            Metric("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", len(scheduler.running)),
            Metric("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", len(scheduler.waiting)),
            Metric(
                "vllm:kv_cache_usage_perc",
                "gauge",
                "KV-cache usage. 1 means 100 percent usage.",
                scheduler.used / scheduler.limits.kv_tokens,
            ),
            Metric(
                "vllm:prefix_cache_queries", "counter", "Prefix cache queries, in terms of number of queried tokens.", stats.prompt_tokens
            ),
            Metric("vllm:prefix_cache_hits", "counter", "Prefix cache hits, in terms of number of cached tokens.", stats.cached_tokens),
            Metric("vllm:num_preemptions", "counter", "Cumulative number of preemption from the engine.", stats.retracted),
            Metric("vllm:prompt_tokens", "counter", "Number of prefill tokens processed.", stats.prompt_tokens),
            Metric("vllm:generation_tokens", "counter", "Number of generation tokens processed.", stats.generated_tokens),
            Metric(
                "vllm:request_success",
                "counter",
                "Count of successfully processed requests.",
                stats.finished,
                {"finished_reason": "length"},
            ),
            Metric("vllm:time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds.", stats.ttft),
            Metric("vllm:inter_token_latency_seconds", "histogram", "Histogram of inter-token latency in seconds.", stats.itl),
            Metric("vllm:e2e_request_latency_seconds", "histogram", "Histogram of e2e request latency in seconds.", stats.e2e),
            Metric("vllm:request_queue_time_seconds", "histogram", "Histogram of time spent in WAITING phase for request.", stats.queue),
        ]
        return Reply(render(metrics, {"engine": "0", "model_name": self.served}), kind="text/plain; version=0.0.4; charset=utf-8")


def too_long(prompt: int, output: int, context: int) -> str | None:
    """`renderers/params.py`: more output than fits beside the prompt is cut, not refused."""
    if prompt >= context:
        return (
            f"This model's maximum context length is {context} tokens. However, your prompt contains {prompt} input tokens, which exceeds "
            "this limit even without any output tokens. Please reduce the length of the input prompt."
        )
    if output > context:
        return f"max_tokens={output} cannot be greater than max_model_len={context}. Please request fewer output tokens."
    return None


def core(message: str, place: str, level: str = "INFO") -> None:
    """As the engine process logs."""
    log(message, level, "EngineCore", place)


def _traceback(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) if error else ""


def die_of_engine(error: Exception) -> NoReturn:
    """The end of an engine process at start, and of the server with it (v1/engine/core.py, v1/engine/utils.py)."""
    core("EngineCore failed to start.\n" + _traceback(error), "core.py:1584", "ERROR")
    end_of_start({"EngineCore_0": 1})


def end_of_start(processes: dict[str, int]) -> NoReturn:
    raise RuntimeError(f"Engine core initialization failed. See root cause above. Failed core proc(s): {processes}") from None


def main() -> None:
    given = parse(sys.argv[2:] if sys.argv[1:2] == ["serve"] else sys.argv[1:])
    stages = Stages(failures.VLLM, given.model_tag, lambda line: log(line, "ERROR"))
    log(f"vLLM server version {VERSION}, serving model {given.model_tag}", place="startup.py:41")
    asked = {name: value for name, value in vars(given).items() if value is not None}
    log(f"non-default args: {asked}", place="startup.py:96")
    stages.pass_("bind")
    listener = listen(given.host or "0.0.0.0", given.port or 8000)
    stages.pass_("device")
    stages.pass_("model")
    gpu, model = this_gpu(), read_model(given.model_tag)
    server = Vllm(resolve(given, model, gpu), given.model_tag, model, gpu, stages)
    if stages.failure.stage == "child":
        end_of_start({"EngineCore_0": -9})
    try:
        server.allocate()
    except Exception as error:
        die_of_engine(error)
    asyncio.run(server.serve(listener))


if __name__ == "__main__":
    main()
