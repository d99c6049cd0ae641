"""A double of `python3 -m sglang.launch_server` of SGLang 0.5.23, which needs a GPU: flags, checks, logs, failures, HTTP and metrics.

It takes every flag of the real one, reckons memory by the real formulas for a GPU that is not there (`gpu.py`), serves in simulated time
(`scheduler.py`) and fails on demand (`failures.py`). Of the standard library, but for the flag table in the package `tuner`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any, NoReturn

import failures
from flag_parser import add_flags, read_table
from gpu import MIB, Gpu, Model, OutOfMemoryError, read_model, this_gpu, visible_gpus
from http_server import HttpServer, Reply, Request, listen
from metrics_text import Metric, render
from openai_api import Dialect, OpenAI
from scheduler import Limits, Scheduler
from sglang_args import decode_sizes, graph_mib, resolve
from stages import Stages

VERSION = "0.5.23"
HEALTH_S = 1.0
"""`/health` generates a token and looks for it once a second."""
GRAPH_FAILED = (
    "Possible solutions:\n"
    "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n"
    "2. set --cuda-graph-max-bs-decode to a smaller value (e.g., 16)\n"
    "3. disable decode CUDA graph by --cuda-graph-backend-decode=disabled. (Not recommended. Huge performance loss)\n"
    "Open an issue on GitHub https://github.com/sgl-project/sglang/issues/new/choose \n"
)
"""model_executor/runner_backend_utils/__init__.py."""


def log(message: str, child: str = "") -> None:
    """As the launcher logs, or, with a prefix such as ` TP0`, one of its schedulers."""
    sys.stderr.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}{child}] {message}\n")
    sys.stderr.flush()


class Sglang:
    """The scheduler process and the HTTP server, in one process."""

    def __init__(self, args: dict[str, Any], model: Model, gpu: Gpu, stages: Stages) -> None:
        self.args = args
        self.model = model
        self.gpu = gpu
        self.stages = stages
        self.child = " TP0" if args["tp_size"] > 1 else ""
        self.started = False

    def allocate(self) -> None:
        """Loads the weights, sizes the KV cache and captures the graphs (mem_cache/kv_cache_configurator.py)."""
        args, gpu, model = self.args, self.gpu, self.model
        if args["tp_size"] * args["pp_size"] * args["dp_size"] > visible_gpus():
            raise RuntimeError("CUDA error: invalid device ordinal")
        assert model.heads % (args["tp_size"] // args["attn_dp_size"] or 1) == 0
        self.pre = gpu.free
        log(f"Load weight begin. avail mem={self.pre:.2f} GB", self.child)
        self.stages.load()
        self.weights = model.weights / (args["tp_size"] * args["pp_size"])
        gpu.allocate(self.weights, self.pre)
        available = self.pre - self.weights
        log(
            f"Load weight end. elapsed=0.02 s, type={model.architecture}, avail mem={available:.2f} GB, mem usage={self.weights:.2f} GB.",
            self.child,
        )
        self._size_cache(available)
        log(
            f"KV Cache is allocated. dtype: torch.{'float8_e4m3fn' if 'fp8' in args['kv_cache_dtype'] else 'bfloat16'}, #tokens: "
            f"{self.tokens}, K size: {self.kv / 2:.2f} GB, V size: {self.kv / 2:.2f} GB",
            self.child,
        )
        self.available = available - self.kv
        log(f"Memory pool end. avail mem={self.available:.2f} GB", self.child)
        self._capture()
        log(
            f"max_total_num_tokens={self.tokens}, chunked_prefill_size={args['chunked_prefill_size']}, "
            f"max_prefill_tokens={args['max_prefill_tokens']}, max_running_requests={self.running}, context_len={args['context_length']}, "
            f"available_gpu_mem={self.available:.2f} GB",
            self.child,
        )

    def _size_cache(self, available: float) -> None:
        args = self.args
        fraction = args["mem_fraction_static"]
        budget = available - self.pre * (1 - fraction)
        if budget <= 0:
            least = 1 - available / self.pre
            raise ValueError(
                f"Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static={fraction}. Raise --mem-fraction-static "
                f"above {math.ceil(least * 1000) / 1000:.3f} (minimum viable = 1 - available/pre = {least:.4f}). If using speculative "
                "decoding, draft weights are now counted."
            )
        cell = self.model.token(args["tp_size"] // args["attn_dp_size"] or 1, args["pp_size"], args["kv_cache_dtype"])
        tokens = int(budget / cell) // args["page_size"] * args["page_size"]
        self.tokens = min(tokens, args["max_total_tokens"] or tokens)
        if self.tokens <= 0:
            raise RuntimeError(
                f"Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static={fraction}"
            )
        self.kv = self.tokens * cell
        requested = args["max_running_requests"]
        if requested is None:
            self.running = min(max(min(int(self.tokens / args["context_length"] * 512), 4096), 2048), self.tokens // 2)
        else:
            wanted = max(1, requested // args["attn_dp_size"])
            self.running = min(wanted, self.tokens // 2)
            if self.running < wanted:
                log(
                    f"max_running_requests was reduced from the requested {wanted} to {self.running} (per dp worker) due to the available "
                    "KV cache capacity.",
                    self.child,
                )

    def _capture(self) -> None:
        self.graphs = graph_mib(self.args) * MIB
        sizes = decode_sizes(self.args)
        log(f"Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1, avail mem={self.available:.2f} GB", self.child)
        self.stages.pass_("capture")
        try:
            self.gpu.allocate(self.graphs, self.available)
        except OutOfMemoryError as error:
            raise Exception(f"Capture cuda graph failed: {error}\n{GRAPH_FAILED}") from error
        self.available -= self.graphs
        log(
            f"Capture target decode CUDA graph end. bs={sizes}, elapsed=0.02 s, mem usage={self.graphs:.2f} GB, avail "
            f"mem={self.available:.2f} GB.",
            self.child,
        )

    def limits(self) -> Limits:
        args = self.args
        return Limits(
            running=self.running * args["attn_dp_size"] * args["dp_size"],
            kv_tokens=self.tokens * args["dp_size"],
            chunk=max(args["chunked_prefill_size"], 0),
            mixed=args["enable_mixed_chunk"],
            graph_batch=max(decode_sizes(args), default=0),
            reserve=min(0.7 * args["schedule_conservativeness"], 1.0),
            prefix_cache=not args["disable_radix_cache"],
            shards=args["tp_size"] * args["pp_size"],
            replicas=args["dp_size"] * args["attn_dp_size"],
        )

    async def serve(self, listener: socket.socket) -> None:
        args = self.args
        self.scheduler = Scheduler(self.limits(), self._step, self._retracted)
        dialect = Dialect(
            wrap_error=lambda message, kind, code: {"object": "error", "message": message, "type": kind, "param": None, "code": code},
            stop_field="matched_stop",
            too_long=too_long,
        )
        openai = OpenAI(self.scheduler, dialect, args["served_model_name"], args["context_length"], self.stages.admit)
        routes = {
            ("GET", "/health"): self._health,
            ("GET", "/health_generate"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/v1/models"): self._models,
            ("GET", "/model_info"): self._model_info,
            ("GET", "/get_model_info"): self._model_info,
            ("GET", "/server_info"): self._server_info,
            ("GET", "/get_server_info"): self._server_info,
            ("GET", "/flush_cache"): self._flush,
            ("POST", "/flush_cache"): self._flush,
            ("POST", "/v1/chat/completions"): openai.chat,
            ("POST", "/v1/completions"): openai.completions,
        }
        if args["enable_metrics"]:
            routes["GET", "/metrics"] = self._metrics
        access = (lambda line: None) if args["log_level_http"] in ("warning", "error") else (lambda line: log(f"INFO:     {line}"))
        log(f"INFO:     Started server process [{os.getpid()}]")
        log("INFO:     Application startup complete.")
        log(f"INFO:     Uvicorn running on http://{args['host']}:{args['port']} (Press CTRL+C to quit)")
        engine = asyncio.ensure_future(self.scheduler.run())
        engine.add_done_callback(lambda ended: die_of_child(ended.exception(), self.child, serving=True))
        self.started = not self.stages.unready
        if self.started:
            log("The server is fired up and ready to roll!")
        await HttpServer(routes, access).serve(listener)

    def _step(self, prefill: int, decode: int) -> None:
        self.stages.step()
        stats = self.scheduler.stats
        used = self.scheduler.used / self.scheduler.limits.kv_tokens
        if prefill:
            log(
                f"Prefill batch, #new-seq: 1, #new-token: {prefill}, #cached-token: {stats.cached_tokens}, token usage: {used:.2f}, "
                f"#running-req: {len(self.scheduler.running)}, #queue-req: {len(self.scheduler.waiting)}, #pending-token: 0, cuda graph: "
                "True, input throughput (token/s): 0.00",
                self.child,
            )
        # Logits of the batch twice in 32 bits, and the activations of the chunk.
        logits = decode * self.model.vocab * 4 * 2 / 2**30
        self.gpu.allocate(prefill * self.gpu.activation + logits, self.available)

    def _retracted(self, count: int) -> None:
        log(
            f"KV cache pool is full. Retract requests. #retracted_reqs: {count}, #new_tokens_gained: {count}, #new_token_ratio: "
            f"{self.scheduler.limits.reserve:.4f} -> 1.0000",
            self.child,
        )

    async def _health(self, request: Request) -> Reply:
        if not self.started:
            return Reply(status=503)
        if os.environ.get("SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "true").lower() not in ("false", "0"):
            await asyncio.sleep(HEALTH_S)
        return Reply()

    async def _ready(self, request: Request) -> Reply:
        return Reply(status=200 if self.started else 503)

    async def _models(self, request: Request) -> Reply:
        if not self.started:
            return Reply(status=503)
        name = self.args["served_model_name"]
        card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "sglang", "root": name, "parent": None}
        return Reply({"object": "list", "data": [card | {"max_model_len": self.args["context_length"]}]})

    async def _model_info(self, request: Request) -> Reply:
        return Reply(
            {
                "model_path": self.args["model_path"],
                "served_model_name": self.args["served_model_name"],
                "tokenizer_path": self.args["tokenizer_path"],
                "is_generation": True,
                "model_type": self.model.config.get("model_type"),
                "architectures": self.model.config.get("architectures"),
            }
        )

    async def _server_info(self, request: Request) -> Reply:
        state = {
            "effective_max_running_requests_per_dp": self.running,
            "last_gen_throughput": 0.0,
            "memory_usage": {
                "weight": self.weights,
                "kvcache": self.kv,
                "token_capacity": self.tokens,
                "graph": self.graphs,
                "startup_available": self.available,
            },
        }
        facts = {
            "status": "ready",
            "max_total_num_tokens": self.tokens,
            "max_req_input_len": min(self.args["context_length"], self.tokens) - 6,
        }
        states = [self.args | state for _ in range(self.args["dp_size"])]
        return Reply(self.args | facts | {"internal_states": states, "version": VERSION, "frontend": "python"})

    async def _flush(self, request: Request) -> Reply:
        if self.scheduler.flush():
            return Reply(
                "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the operation "
                "will not be performed.)\n",
                kind="text/plain",
            )
        return Reply("Flush cache failed.\n", 400, "text/plain")

    async def _metrics(self, request: Request) -> Reply:
        scheduler, stats = self.scheduler, self.scheduler.stats
        hit_rate = stats.cached_tokens / stats.prompt_tokens if stats.prompt_tokens else 0.0
        rank = {"moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
        gauges = {
            "num_running_reqs": ("The number of running requests.", len(scheduler.running)),
            "num_queue_reqs": ("The number of requests in the waiting queue.", len(scheduler.waiting)),
            "token_usage": ("The token usage.", scheduler.used / scheduler.limits.kv_tokens),
            "num_used_tokens": ("The number of used tokens.", scheduler.used),
            "cache_hit_rate": ("The prefix cache hit rate.", hit_rate),
            "new_token_ratio": ("The new token ratio.", scheduler.limits.reserve),
            "max_total_num_tokens": ("Maximum total number of tokens in the KV cache pool.", self.tokens),
            "weight_memory_usage_gb": ("GPU memory used by weights.", self.weights),
            "kv_cache_memory_usage_gb": ("GPU memory used by the KV cache.", self.kv),
            "graph_memory_usage_gb": ("GPU memory used by graphs.", self.graphs),
            "startup_available_gpu_memory_gb": ("GPU memory available after startup.", self.available),
        }
        metrics = [
            *(Metric(f"sglang:{name}", "gauge", text, value, rank) for name, (text, value) in gauges.items()),
            # Of the last batch, and by process; the counter is what adds up.
            Metric("sglang:num_retracted_reqs", "gauge", "The number of retracted requests.", 0, rank | {"pid": str(os.getpid())}),
            Metric("sglang:num_retracted_requests", "counter", "Total number of retracted requests.", stats.retracted, rank),
            Metric("sglang:prompt_tokens", "counter", "Number of prefill tokens processed.", stats.prompt_tokens),
            Metric("sglang:generation_tokens", "counter", "Number of generation tokens processed.", stats.generated_tokens),
            Metric("sglang:cached_tokens", "counter", "Number of cached prompt tokens.", stats.cached_tokens, {"cache_source": "device"}),
            Metric("sglang:num_requests", "counter", "Number of requests processed.", stats.finished, {"is_streaming": "true"}),
            Metric("sglang:time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds.", stats.ttft),
            Metric("sglang:inter_token_latency_seconds", "histogram", "Histogram of inter-token latency in seconds.", stats.itl),
            Metric("sglang:e2e_request_latency_seconds", "histogram", "Histogram of End-to-end request latency in seconds", stats.e2e),
            Metric("sglang:queue_time_seconds", "histogram", "Histogram of queueing time in seconds.", stats.queue, rank),
        ]
        page = render(metrics, {"engine_type": "unified", "model_name": self.args["served_model_name"]})
        return Reply(page, kind="text/plain; version=0.0.4; charset=utf-8")


def too_long(prompt: int, output: int, context: int) -> str | None:
    """`_validate_one_request` of managers/tokenizer_manager.py."""
    if prompt >= context:
        return f"The input ({prompt} tokens) is longer than the model's context length ({context} tokens)."
    if prompt + output > context:
        return (
            f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total of "
            f"{prompt + output} tokens: {prompt} tokens from the input messages and {output} tokens for the completion. Please reduce the "
            "number of tokens in the input messages or the completion to fit within the limit."
        )
    return None


def die_of_child(error: BaseException | None, child: str, serving: bool) -> NoReturn:
    """The end of a scheduler: it tells its parent by SIGQUIT, and that kills its tree and itself (utils/common.py)."""
    text = "".join(traceback.format_exception(error)) if error else ""
    log(f"Scheduler hit an exception: {text}", child)
    if serving:
        log("SIGQUIT received. signum=<Signals.SIGQUIT: 3>, frame=None. It usually means one child failed.")
    else:
        log("Received sigquit from a child process. It usually means the child failed.")
    log(f"kill_process_tree called: parent_pid={os.getpid()}, include_parent=True, pid={os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)
    # Only the first process of a container gets here: its own SIGKILL does not reach it.
    os._exit(0)


def main() -> None:
    sys.stderr.write(
        "<frozen runpy>:88: UserWarning: 'python -m sglang.launch_server' is still supported, but 'sglang serve' is the recommended "
        "entrypoint.\n"
        "  Example: sglang serve --model-path <model> [options]\n"
    )
    table = read_table("sglang-0.5.23")
    parser = argparse.ArgumentParser(prog="sglang serve")
    add_flags(parser, table, required=("model_path",))
    given = parser.parse_args()
    for name, flag in table.items():
        if flag["deprecated"] and getattr(given, name) is not None:
            log(f"\033[1;33m'{flag['flag']}' is deprecated and will be removed in a future release.\033[0m")
    stages = Stages(failures.SGLANG, given.model_path, log)
    stages.pass_("device")
    stages.pass_("model")
    gpu, model = this_gpu(), read_model(given.model_path)
    server = Sglang(resolve(given, table, model, gpu), model, gpu, stages)
    if given.attention_backend is None:
        log("Attention backend not specified. Use fa3 backend by default.")
    log(f"server_args=ServerArgs({', '.join(f'{name}={value!r}' for name, value in server.args.items())})")
    stages.pass_("child")
    try:
        server.allocate()
    except Exception as error:
        die_of_child(error, server.child, serving=False)
    signal.signal(signal.SIGTERM, stop)
    try:
        stages.pass_("bind")
        listener = listen(server.args["host"], server.args["port"])
    except OSError as error:
        address = (server.args["host"], server.args["port"])
        log(f"ERROR:    [Errno {error.errno}] error while attempting to bind on address {address}: address already in use")
        sys.exit(1)
    asyncio.run(server.serve(listener))


def stop(signum: int, frame: Any) -> NoReturn:
    log(f"SIGTERM received. signum={signum!r} frame=None. Draining requests and shutting down...")
    os._exit(0)


if __name__ == "__main__":
    main()
