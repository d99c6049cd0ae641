"""Part of the double of SGLang: its arguments with what follows from others, and the checks between them."""

from __future__ import annotations

import argparse
from typing import Any

from gpu import Gpu, Model

DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 30000,
    "tp_size": 1,
    "pp_size": 1,
    "dp_size": 1,
    "attn_dp_size": 1,
    "attn_cp_size": 1,
    "page_size": 1,
    "max_prefill_tokens": 16384,
    "schedule_policy": "fcfs",
    "schedule_conservativeness": 1.0,
    "kv_cache_dtype": "auto",
    "stream_interval": 1,
    "attention_backend": "fa3",
    "dtype": "auto",
    "load_format": "auto",
}
"""What the real one takes where nothing is given; switches are off. Of those that depend on the GPU, see `resolve`."""


def resolve(given: argparse.Namespace, table: dict[str, Any], model: Model, gpu: Gpu) -> dict[str, Any]:
    """All arguments with what follows from others (arg_groups/memory_hook.py, parallel_hook.py, validation_hook.py).

    Raises:
        ValueError, AssertionError: as the real one.
    """
    off = {name: False for name, flag in table.items() if flag["switch"]}
    args: dict[str, Any] = dict.fromkeys(table) | off | DEFAULTS | {name: value for name, value in vars(given).items() if value is not None}
    if args["enable_dp_attention"] and args["attn_dp_size"] == 1:
        args["attn_dp_size"], args["dp_size"] = args["dp_size"], 1
    if args["attn_dp_size"] > 1 and args["dp_size"] > 1:
        raise ValueError(
            f"--dp-size {args['dp_size']} with --attn-dp-size {args['attn_dp_size']}: data-parallel replicas combined with attention data "
            "parallelism are not supported."
        )
    if args["attn_cp_size"] > 1:
        assert args["tp_size"] % (args["attn_dp_size"] * args["attn_cp_size"]) == 0, (
            "tp_size must be divisible by attn_dp_size * attn_cp_size"
        )
    assert not (args["disable_cuda_graph_padding"] and args["enable_torch_compile"]), (
        "--disable-cuda-graph-padding is incompatible with --enable-torch-compile. With padding disabled, every distinct batch size gets "
        "its own torch.compile + Triton autotune cycle (O(max_batch_size) compilations) instead of the small fixed set of padded bucket "
        "sizes, causing engine initialisation to stall for many minutes. Remove --disable-cuda-graph-padding or --enable-torch-compile."
    )
    small, middle = gpu.total < 20, gpu.total < 60
    if args["chunked_prefill_size"] is None:
        args["chunked_prefill_size"] = 2048 if small else 4096 if middle else 8192 if gpu.total < 160 else 16384
    if args["attn_dp_size"] > 1:
        args["chunked_prefill_size"] //= args["attn_dp_size"]
        args["schedule_conservativeness"] *= 0.3
    if args["cuda_graph_max_bs_decode"] is None:
        few = 8 if small else 48 if gpu.total < 35 else 32 if middle else 256 if gpu.total < 160 else 512
        many = 160 if middle else 512
        bound = few if args["tp_size"] < 4 or small else many
        args["cuda_graph_max_bs_decode"] = min(bound, args["max_running_requests"] or bound)
    chunk = args["chunked_prefill_size"]
    if args["mem_fraction_static"] is None:
        activation = max(chunk if chunk > 0 else args["max_prefill_tokens"], 2048)
        reserve = 512 + 1.5 * activation + args["tp_size"] * args["pp_size"] / 8 * 1024 + graph_mib(args)
        if gpu.total > 60:
            reserve = max(reserve, 10 * 1024)
        args["mem_fraction_static"] = round((gpu.total * 1024 - reserve) / (gpu.total * 1024), 3)
    if chunk > 0:
        assert chunk % args["page_size"] == 0, "chunked_prefill_size must be divisible by page_size"
    if args["enable_priority_scheduling"]:
        assert args["schedule_policy"] in ("fcfs", "lof"), (
            f"To use priority scheduling, schedule_policy must be 'fcfs' or 'lof'. '{args['schedule_policy']}' is not supported."
        )
    assert args["schedule_conservativeness"] >= 0, "schedule_conservativeness must be non-negative"
    args["context_length"] = args["context_length"] or model.context
    args["tokenizer_path"] = args["tokenizer_path"] or args["model_path"]
    args["served_model_name"] = args["served_model_name"] or args["model_path"]
    return args


def decode_sizes(args: dict[str, Any]) -> list[int]:
    """The batches that have a graph: `generate_decode_cuda_graph_batch_sizes` of cuda_graph_hook.py."""
    if args["cuda_graph_backend_decode"] == "disabled" or args["disable_cuda_graph"] or args["disable_decode_cuda_graph"]:
        return []
    largest = args["cuda_graph_max_bs_decode"]
    usual = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, largest + 1, 32)]
    return args["cuda_graph_bs_decode"] or sorted({size for size in usual if size <= largest} | {largest})


def prefill_sizes(args: dict[str, Any]) -> list[int]:
    """The chunks that have a graph: `generate_prefill_cuda_graph_batch_sizes` of cuda_graph_hook.py."""
    if args["cuda_graph_backend_prefill"] == "disabled" or args["disable_cuda_graph"] or args["disable_prefill_cuda_graph"]:
        return []
    largest = args["cuda_graph_max_bs_prefill"] or args["chunked_prefill_size"]
    small = [*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64), *range(1280, 4097, 256)]
    return args["cuda_graph_bs_prefill"] or [size for size in (*small, *range(4608, largest + 1, 512)) if size <= largest]


def graph_mib(args: dict[str, Any]) -> float:
    """`reserve_for_graph_mb` of memory_hook.py, for models without MLA."""
    largest = max(decode_sizes(args), default=0)
    reserve = 2.0 * largest
    if args["attn_dp_size"] > 1:
        reserve += largest * args["attn_dp_size"] * (4.5 if largest > 300 else 3)
    return reserve + 8 * len(prefill_sizes(args))
