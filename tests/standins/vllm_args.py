"""Part of the double of vLLM: its command line, its arguments with what follows from others, and the checks between them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from flag_parser import FlexibleParser, add_flags, read_table
from gpu import Gpu, Model, visible_gpus

DEFAULTS: dict[str, Any] = {
    "port": 8000,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "gpu_memory_utilization": 0.92,
    "kv_cache_dtype": "auto",
    "block_size": 16,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "long_prefill_token_threshold": 0,
}
"""What the real one takes where nothing is given. Of those that depend on the GPU, see `resolve`."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The flags given to `vllm serve`, None for the others; `model_tag` is the model."""
    parser = FlexibleParser(prog="vllm serve", usage="vllm serve [model_tag] [options]")
    parser.add_argument("model_tag", nargs="?")
    add_flags(parser, read_table("vllm-0.33.0"))
    given = parser.parse_args(words)
    given.model_tag = given.model_tag or given.model or "Qwen/Qwen3-0.6B"
    return given


def resolve(given: argparse.Namespace, model: Model, gpu: Gpu) -> dict[str, Any]:
    """The arguments that matter here, with what follows from others (engine/arg_utils.py, config/scheduler.py, config/model.py).

    Raises:
        ValueError: as the real one.
    """
    args = DEFAULTS | {name: value for name, value in vars(given).items() if value is not None}
    args.setdefault("max_model_len", model.context)
    if args["max_model_len"] == -1:
        args["max_model_len"] = model.context
    tp = args["tensor_parallel_size"]
    if model.heads % tp:
        raise ValueError(f"Total number of attention heads ({model.heads}) must be divisible by tensor parallel size ({tp}).")
    share = args["gpu_memory_utilization"]
    if not 0 < share <= 1:
        raise ValueError(
            "1 validation error for CacheConfig\ngpu_memory_utilization\n"
            f"  Input should be {'greater than 0' if share <= 0 else 'less than or equal to 1'} "
            f"[type={'greater_than' if share <= 0 else 'less_than_equal'}, input_value={share}, input_type=float]"
        )
    if args["max_model_len"] > model.context and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") != "1":
        raise ValueError(
            f"User-specified max_model_len ({args['max_model_len']}) is greater than the derived max_model_len "
            f"(max_position_embeddings={model.context} or model_max_length=None in model's config.json)."
        )
    large = gpu.total >= 70
    factor = 2 if args.get("performance_mode") == "throughput" else 1
    args.setdefault("max_num_batched_tokens", (16384 if gpu.total >= 160 else 8192 if large else 2048) * factor)
    args.setdefault("max_num_seqs", min((1024 if large else 256) * factor, args["max_num_batched_tokens"]))
    tokens, sequences, longest = args["max_num_batched_tokens"], args["max_num_seqs"], args["max_model_len"]
    if tokens < longest and not args["enable_chunked_prefill"]:
        raise ValueError(
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({longest}). This effectively limits the maximum sequence "
            "length to max_num_batched_tokens and makes vLLM reject longer sequences. Please increase max_num_batched_tokens or decrease "
            "max_model_len."
        )
    if tokens < sequences:
        raise ValueError(f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({sequences}).")
    if args["long_prefill_token_threshold"] > longest:
        raise ValueError(
            f"long_prefill_token_threshold ({args['long_prefill_token_threshold']}) cannot be greater than the max_model_len ({longest})."
        )
    world, count = tp * args["pipeline_parallel_size"], visible_gpus()
    if world > count:
        raise ValueError(
            f"World size ({world}) is larger than the number of available GPUs ({count}) in this node. If this is intentional and you are "
            "using:\n- ray, set '--distributed-executor-backend ray'.\n- multiprocessing, set '--nnodes' appropriately."
        )
    return args


def captured(args: dict[str, Any]) -> int:
    """The largest batch that has a graph."""
    if args.get("enforce_eager") or args.get("optimization_level") == "0":
        return 0
    sizes = args.get("cudagraph_capture_sizes")
    return max(sizes) if sizes else int(args.get("max_cudagraph_capture_size") or min(2 * args["max_num_seqs"], 512))
