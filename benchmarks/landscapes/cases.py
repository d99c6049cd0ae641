"""The cases: model, GPUs, space, traffic, what is asked of them, and what a tuner cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.landscapes.memory import Appetite

CONSERVATIVENESS = {"type": "ordinal", "choices": [0.3, 1.0, 1.3], "default": 1.0}
MIXED = {"type": "categorical", "choices": [False, True], "default": False}


@dataclass(frozen=True, slots=True)
class Case:
    """One landscape.

    Attributes:
        name: Of its files.
        title: One line.
        model: Folder in `models`.
        system: The GPU in the tables of kernels; empty: the roofline is used.
        gpu: Its name.
        memory_gib: Its memory.
        gpus: How many there are.
        space: As `space` of an experiment.
        scenario: Traffic, `D(in,out)` or `N(mean,deviation)/(mean,deviation)`.
        levels: Users.
        objectives: As in an experiment.
        constraints: As in an experiment.
        appetite: The memory that a tuner cannot know of.
    """

    name: str
    title: str
    model: str
    system: str
    gpu: str
    memory_gib: float
    gpus: int
    space: Mapping[str, Any]
    scenario: str
    levels: tuple[int, ...]
    objectives: tuple[Mapping[str, Any], ...]
    constraints: tuple[Mapping[str, Any], ...]
    appetite: Appetite


def _fraction(low: float, high: float, step: float, default: float) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, "step": step, "default": default}


def _powers(low: int, high: int, default: int | None = None) -> dict[str, Any]:
    return {"type": "power_of_two", "low": low, "high": high} | ({} if default is None else {"default": default})


def _least(metric: str, at: int) -> dict[str, Any]:
    return {"metric": metric, "at": at, "direction": "minimize"}


def _most(metric: str, at: int) -> dict[str, Any]:
    return {"metric": metric, "at": at, "direction": "maximize"}


def _bound(metric: str, at: int, most: float) -> dict[str, Any]:
    return {"metric": metric, "at": at, "max": most}


_CHAT: dict[str, Any] = {
    "model": "Llama-3.1-8B",
    "gpu": "H100-SXM",
    "memory_gib": 79.6,
    "gpus": 4,
    "space": {
        "tp_size": _powers(1, 4, 1),
        "dp_size": _powers(1, 4, 1),
        "mem_fraction_static": _fraction(0.48, 0.96, 0.12, 0.84),
        "max_running_requests": _powers(16, 512, 512),
        "chunked_prefill_size": _powers(512, 16384, 8192),
        "enable_mixed_chunk": MIXED,
        "constraints": ["tp_size * dp_size <= 4"],
    },
    "scenario": "N(2000,800)/(300,120)",
    "levels": (8, 32, 128, 512),
    "objectives": (_least("tpot_p90_s", 32), _most("output_tokens_per_s", 512) | {"per": "gpu"}),
    "constraints": (_bound("ttft_p99_s", 128, 0.3),),
    "appetite": Appetite(workspace=1.9, graph_mib=2.2, activations=4.0),
}

CASES = (
    Case(name="llama8b_h100_chat", title="Llama-3.1-8B, up to 4 H100, chat: ample memory (easy)", system="h100_sxm", **_CHAT),
    Case(name="llama8b_h100_chat_roofline", title="The same with step times of the roofline", system="", **_CHAT),
    Case(
        name="qwen32b_h100_long",
        title="Qwen3-32B, up to 4 H100, long prompts: memory is tight, and prompts stall answers (hard)",
        model="Qwen3-32B",
        system="h100_sxm",
        gpu="H100-SXM",
        memory_gib=79.6,
        gpus=4,
        space={
            "tp_size": _powers(1, 4, 1),
            "dp_size": _powers(1, 4, 1),
            "mem_fraction_static": _fraction(0.66, 0.96, 0.06, 0.84),
            "max_running_requests": _powers(8, 128, 128),
            "chunked_prefill_size": _powers(512, 16384, 8192),
            "schedule_conservativeness": CONSERVATIVENESS,
            "enable_mixed_chunk": MIXED,
            "constraints": ["tp_size * dp_size <= 4"],
        },
        scenario="N(6000,2000)/(300,120)",
        levels=(4, 16, 64, 128),
        objectives=(_least("tpot_p99_s", 64), _most("output_tokens_per_s", 128)),
        constraints=(_bound("latency_p99_s", 64, 31.0), _bound("ttft_p99_s", 16, 0.8), _bound("tpot_p99_s", 128, 0.07)),
        appetite=Appetite(workspace=1.1, graph_mib=2.5, activations=2.2),
    ),
    Case(
        name="llama70b_h200_mixed",
        title="Llama-3.1-70B in 16 bits, up to 8 H200, medium prompts and outputs, throughput of each GPU",
        model="Llama-3.1-70B",
        system="h200_sxm",
        gpu="H200-SXM",
        memory_gib=140.4,
        gpus=8,
        space={
            "tp_size": _powers(2, 8, 2),
            "dp_size": _powers(1, 4, 1),
            "mem_fraction_static": _fraction(0.36, 0.96, 0.12, 0.84),
            "max_running_requests": _powers(32, 256, 256),
            "chunked_prefill_size": _powers(1024, 16384, 8192),
            "cuda_graph_max_bs_decode": {"type": "ordinal", "choices": [16, 512], "default": 512},
            "enable_mixed_chunk": MIXED,
            "constraints": ["tp_size * dp_size <= 8"],
        },
        scenario="N(2000,700)/(500,200)",
        levels=(8, 32, 128, 256),
        objectives=(_least("tpot_p90_s", 32), _most("output_tokens_per_s", 256) | {"per": "gpu"}),
        constraints=(_bound("ttft_p99_s", 128, 1.0),),
        appetite=Appetite(workspace=2.2, graph_mib=6.0, activations=4.5),
    ),
    Case(
        name="llama8b_l40s_write",
        title="Llama-3.1-8B, one L40S, short prompts and long outputs: the KV cache decides",
        model="Llama-3.1-8B",
        system="l40s",
        gpu="L40S",
        memory_gib=44.7,
        gpus=1,
        space={
            "mem_fraction_static": _fraction(0.3, 0.96, 0.06, 0.84),
            "max_running_requests": {"type": "ordinal", "choices": [16, 24, 32, 48, 64, 96, 128, 192, 256], "default": 256},
            "chunked_prefill_size": _powers(256, 4096, 4096),
            "schedule_conservativeness": CONSERVATIVENESS,
            "enable_mixed_chunk": MIXED,
            "constraints": [],
        },
        scenario="N(300,120)/(600,240)",
        levels=(4, 16, 64, 256),
        objectives=(_least("tpot_p90_s", 256), _most("output_tokens_per_s", 256)),
        constraints=(_bound("latency_p99_s", 64, 45.0),),
        appetite=Appetite(workspace=1.5, graph_mib=5.0, activations=3.0),
    ),
)
