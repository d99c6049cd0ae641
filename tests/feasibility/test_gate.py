"""What the gate refuses, in which words, and what makes it hold its tongue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.feasibility.model_folders import config, downloaded, gpus, model_folder
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import MemoryStage
from tuner.feasibility.gate import Gate, create
from tuner.feasibility.rules import RULES
from tuner.launch import Value
from tuner.server_facts import Startup

NOTHING = Startup()
FLAGS = Path(__file__).parents[2] / "tuner" / "engines" / "flags"


def sglang(folder: Path, model: str = "Llama-3.1-8B", count: int = 1, args: Mapping[str, Value] | None = None, **gpu: float) -> Gate:
    defaults = {**Sglang(model).defaults, **(args or {})}
    return create("sglang", defaults, downloaded(folder, model), gpus(count, **gpu))


def vllm(folder: Path, model: str = "Llama-3.1-8B", count: int = 1, args: Mapping[str, Value] | None = None) -> Gate:
    return create("vllm", Vllm(model, args).defaults, downloaded(folder, model), gpus(count))


def fail(gate: Gate, configuration: Mapping[str, Value], stage: MemoryStage, startup: Startup = NOTHING) -> None:
    gate.learn(configuration, startup, stage, False)


class TestCount:
    @pytest.mark.parametrize(
        ("configuration", "reason"),
        [
            ({"tp_size": 4}, "tp_size=4 x pp_size=1 x dp_size=1 needs 4 GPUs, backend.gpus has 2"),
            ({"tp_size": 2, "dp_size": 2}, "tp_size=2 x pp_size=1 x dp_size=2 needs 4 GPUs, backend.gpus has 2"),
            ({"tensor_parallel_size": 4}, "tp_size=4 x pp_size=1 x dp_size=1 needs 4 GPUs, backend.gpus has 2"),
            ({"tp_size": 2}, None),
            ({"dp_size": 2}, None),
            ({"tp_size": 2, "dp_size": 2, "enable_dp_attention": True}, None),
        ],
    )
    def test_more_gpus_than_there_are(self, tmp_path: Path, configuration: dict[str, Value], reason: str | None) -> None:
        assert sglang(tmp_path, count=2).refuse(configuration) == reason

    def test_vllm(self, tmp_path: Path) -> None:
        reason = vllm(tmp_path).refuse({"pipeline_parallel_size": 2})
        assert reason == "tensor_parallel_size=1 x pipeline_parallel_size=2 x data_parallel_size=1 needs 2 GPUs, backend.gpus has 1"

    @pytest.mark.parametrize("some", [None, ()])
    def test_not_where_gpus_are_unknown_or_not_used(self, tmp_path: Path, some: tuple[()] | None) -> None:
        gate = create("sglang", {}, downloaded(tmp_path, "Llama-3.1-70B"), some)
        assert gate.refuse({"tp_size": 64, "mem_fraction_static": 0.1}) is None


class TestEstimate:
    def test_sglang_weights_leave_no_kv_cache(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        reason = "mem_fraction_static=0.15: weights of 15.0 GiB leave no KV cache on a GPU of 79.1 GiB; mem_fraction_static >= 0.19 needed"
        assert gate.refuse({"mem_fraction_static": 0.15}) == reason
        assert gate.refuse({"mem_fraction_static": 0.19}) is None
        assert gate.refuse({"mem_fraction_static": 0.15, "tp_size": 1, "page_size": 16}) == reason
        assert gate.refuse({}) is None

    def test_a_model_larger_than_the_gpu(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path, "Llama-3.1-70B", count=4)
        reason = "weights of 131.4 GiB do not fit on a GPU of 79.1 GiB: tp_size x pp_size >= 2 needed"
        assert gate.refuse({}) == reason
        assert gate.refuse({"mem_fraction_static": 0.9, "dp_size": 2}) == reason
        assert gate.refuse({"tp_size": 2}) is None
        assert gate.refuse({"pp_size": 2}) is None

    def test_vllm_counts_one_whole_request(self, tmp_path: Path) -> None:
        gate = vllm(tmp_path)
        configuration: dict[str, Value] = {"gpu_memory_utilization": 0.35, "max_model_len": 131072}
        assert gate.refuse(configuration) == (
            "gpu_memory_utilization=0.35: weights of 15.0 GiB and 16.0 GiB of KV cache for max_model_len=131072 do not fit on a GPU of "
            "79.1 GiB; gpu_memory_utilization >= 0.392 needed"
        )
        assert gate.refuse(configuration | {"kv_cache_dtype": "fp8"}) is None
        assert gate.refuse(configuration | {"max_model_len": 65536}) is None
        assert gate.refuse(configuration | {"max_model_len": -1}) is None
        assert gate.refuse(configuration | {"kv_cache_dtype": "nvfp4"}) is None
        assert gate.refuse({"gpu_memory_utilization": 0.35}) is None

    def test_vllm_request_that_never_fits(self, tmp_path: Path) -> None:
        assert vllm(tmp_path).refuse({"max_model_len": 1_000_000}) == (
            "weights of 15.0 GiB and 122.1 GiB of KV cache for max_model_len=1000000 do not fit on a GPU of 79.1 GiB: lower max_model_len, "
            "or raise tensor_parallel_size or pipeline_parallel_size"
        )

    def test_sliding_windows_keep_less(self, tmp_path: Path) -> None:
        folder = model_folder(tmp_path, config("Llama-3.1-8B") | {"sliding_window": 4096}, 2 * 8_030_261_248)
        gate = create("vllm", Vllm("x").defaults, folder, gpus(1))
        assert gate.refuse({"max_model_len": 1_000_000}) is None
        assert gate.refuse({"gpu_memory_utilization": 0.1}) is not None

    def test_vllm_replicas_share_experts(self, tmp_path: Path) -> None:
        gate = vllm(tmp_path, "Qwen3-30B-A3B", count=2)
        configuration: dict[str, Value] = {"gpu_memory_utilization": 0.5}
        assert gate.refuse(configuration) is not None
        assert gate.refuse(configuration | {"data_parallel_size": 2}) is None
        dense = vllm(tmp_path, "Llama-3.1-8B", count=2)
        assert dense.refuse({"gpu_memory_utilization": 0.15, "data_parallel_size": 2}) is not None

    @pytest.mark.parametrize(
        "name", ["cpu_offload_gb", "speculative_algorithm", "enable_lora", "weight_cache_mode", "quantization", "a_new_flag"]
    )
    def test_silent_about_parameters_that_it_does_not_know(self, tmp_path: Path, name: str) -> None:
        assert sglang(tmp_path).refuse({"mem_fraction_static": 0.1, name: 1}) is None
        assert sglang(tmp_path, args={name: 1}).refuse({"mem_fraction_static": 0.1}) is None

    def test_quantization_that_the_checkpoint_has_anyway(self, tmp_path: Path) -> None:
        assert sglang(tmp_path, "DeepSeek-V3").refuse({"quantization": "fp8"}) is not None

    @pytest.mark.parametrize("model_type", ["jamba", None])
    def test_silent_about_models_that_it_does_not_know(self, tmp_path: Path, model_type: str | None) -> None:
        folder = model_folder(tmp_path, config("Llama-3.1-70B") | {"model_type": model_type}, 141 * 10**9)
        for given in (folder, None):
            assert create("sglang", Sglang("x").defaults, given, gpus(1)).refuse({"mem_fraction_static": 0.1}) is None

    def test_engines_without_a_memory_model(self, tmp_path: Path) -> None:
        gate = create("llamacpp", {"n_ctx": 4096}, None, ())
        fail(gate, {"n_ctx": 8192}, "load")
        assert gate.refuse({"n_ctx": 8192}) is None

    def test_memory_that_others_hold_may_become_free(self, tmp_path: Path) -> None:
        assert sglang(tmp_path, taken_gib=60.0).refuse({"mem_fraction_static": 0.5}) is None

    @pytest.mark.parametrize(("engine", "table"), [(Sglang, "sglang-0.5.23"), (Vllm, "vllm-0.33.0")])
    def test_every_name_of_the_rules_is_a_flag(self, engine: type[Sglang | Vllm], table: str) -> None:
        rules = RULES[engine.name]
        flags = json.loads((FLAGS / f"{table}.json").read_text())["flags"]
        names = rules.weights | rules.harmless | set().union(*rules.larger_is_worse.values(), *rules.irrelevant.values())
        assert names | {rules.fraction, rules.tp, rules.pp, rules.dp} <= flags.keys()
        assert set().union(*rules.larger_is_worse.values()) <= rules.harmless
        assert engine("some/model").defaults.keys() <= rules.weights | rules.harmless


class TestCalibration:
    """One launch replaces the estimates."""

    def test_logged_weights_and_free_memory_tighten_the_bound(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        assert gate.refuse({"mem_fraction_static": 0.2}) is None
        gate.learn({"mem_fraction_static": 0.85}, Startup(free_before_gib=78.0, weights_gib=16.0), None, True)
        assert gate.refuse({"mem_fraction_static": 0.2}) == (
            "mem_fraction_static=0.2: weights of 16.0 GiB leave no KV cache on a GPU with 78.6 GiB free; "
            "mem_fraction_static >= 0.204 needed"
        )
        assert gate.refuse({"mem_fraction_static": 0.21}) is None

    def test_weights_are_those_of_launches_that_load_alike(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path, count=2)
        gate.learn({"mem_fraction_static": 0.85, "tp_size": 2}, Startup(weights_gib=30.0), None, True)
        assert gate.refuse({"mem_fraction_static": 0.3, "tp_size": 2, "max_running_requests": 8}) is not None
        assert gate.refuse({"mem_fraction_static": 0.3}) is None
        assert gate.refuse({"mem_fraction_static": 0.3, "tp_size": 2, "dtype": "float16"}) is None

    def test_what_is_not_reckoned_is_learned(self, tmp_path: Path) -> None:
        gate = create("sglang", Sglang("x").defaults, None, None)
        assert gate.refuse({"mem_fraction_static": 0.3}) is None
        gate.learn({"mem_fraction_static": 0.85}, Startup(free_before_gib=40.0, weights_gib=15.0), None, True)
        assert gate.refuse({"mem_fraction_static": 0.37}) == (
            "mem_fraction_static=0.37: weights of 15.0 GiB leave no KV cache on a GPU with 40.0 GiB free; "
            "mem_fraction_static >= 0.375 needed"
        )
        assert gate.refuse({"mem_fraction_static": 0.38}) is None

    def test_the_most_free_memory_counts(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        for free in (78.2, 74.0, 78.0):
            gate.learn({"mem_fraction_static": 0.85}, Startup(free_before_gib=free, weights_gib=16.0), None, True)
        assert "with 78.8 GiB free" in str(gate.refuse({"mem_fraction_static": 0.1}))

    def test_a_launch_beside_another_process_teaches_nothing(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {"mem_fraction_static": 0.7}, "load", Startup(free_before_gib=20.0, weights_gib=15.0))
        fail(gate, {"mem_fraction_static": 0.8}, "run", Startup(free_before_gib=60.0, weights_gib=40.0))
        assert all(gate.refuse({"mem_fraction_static": share}) is None for share in (0.25, 0.7, 0.8, 0.9))

    def test_what_loaded_is_not_refused_by_the_estimate(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        gate.learn({"mem_fraction_static": 0.15}, NOTHING, None, True)
        assert gate.refuse({"mem_fraction_static": 0.15}) is None
        assert gate.refuse({"mem_fraction_static": 0.16}) is None
        assert gate.refuse({"mem_fraction_static": 0.14}) is not None


class TestLessons:
    BASE: Mapping[str, Value] = {"mem_fraction_static": 0.85, "chunked_prefill_size": 8192, "max_running_requests": 256}

    def test_out_of_memory_at_load_asks_for_a_larger_fraction(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {"mem_fraction_static": 0.4}, "load")
        assert gate.refuse({"mem_fraction_static": 0.35}) == (
            "weights and KV cache did not fit before with mem_fraction_static=0.4, and this asks for no less: "
            "raise mem_fraction_static above 0.4"
        )
        assert gate.refuse({"mem_fraction_static": 0.45}) is None

    @pytest.mark.parametrize(("stage", "what"), [("capture", "graph capture or warm-up"), ("run", "serving")])
    def test_out_of_memory_later_asks_for_a_smaller_fraction(self, tmp_path: Path, stage: MemoryStage, what: str) -> None:
        gate = sglang(tmp_path)
        fail(gate, self.BASE, stage)
        assert gate.refuse({**self.BASE, "mem_fraction_static": 0.9}) == (
            f"{what} ran out of memory before with mem_fraction_static=0.85, chunked_prefill_size=8192, max_running_requests=256, "
            "and this asks for no less: lower mem_fraction_static below 0.85, or lower chunked_prefill_size or max_running_requests"
        )
        assert gate.refuse({**self.BASE, "mem_fraction_static": 0.8}) is None

    @pytest.mark.parametrize(
        ("change", "refused"),
        [
            ({}, True),
            ({"mem_fraction_static": 0.8500000000000001}, True),
            ({"chunked_prefill_size": 16384}, True),
            ({"max_running_requests": 512, "mem_fraction_static": 0.95}, True),
            ({"schedule_policy": "lpm", "schedule_conservativeness": 0.3}, True),
            ({"chunked_prefill_size": 4096}, False),
            ({"chunked_prefill_size": -1}, False),
            ({"max_running_requests": 128, "mem_fraction_static": 0.95}, False),
            ({"kv_cache_dtype": "fp8_e4m3"}, False),
            ({"enable_mixed_chunk": True}, False),
            ({"cuda_graph_max_bs_decode": 512}, False),
            ({"tp_size": 2}, False),
        ],
    )
    def test_only_what_certainly_asks_for_no_less(self, tmp_path: Path, change: dict[str, Value], refused: bool) -> None:
        gate = sglang(tmp_path, count=2)
        fail(gate, self.BASE, "capture")
        assert (gate.refuse({**self.BASE, **change}) is not None) is refused

    def test_the_tightest_bound_is_named(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        for share in (0.9, 0.8, 0.85):
            fail(gate, {"mem_fraction_static": share}, "run")
        assert str(gate.refuse({"mem_fraction_static": 0.95})).endswith("lower mem_fraction_static below 0.8")
        for share in (0.3, 0.4, 0.35):
            fail(gate, {"mem_fraction_static": share}, "load")
        assert str(gate.refuse({"mem_fraction_static": 0.25})).endswith("raise mem_fraction_static above 0.4")

    def test_a_success_that_asked_for_no_less_outweighs_a_failure(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {"mem_fraction_static": 0.8}, "run")
        gate.learn({"mem_fraction_static": 0.85}, NOTHING, None, True)
        assert gate.refuse({"mem_fraction_static": 0.8}) is None
        assert gate.refuse({"mem_fraction_static": 0.9}) is None

    def test_a_later_stage_shows_that_the_earlier_ones_passed(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {"mem_fraction_static": 0.8}, "capture")
        fail(gate, {"mem_fraction_static": 0.85}, "run")
        assert gate.refuse({"mem_fraction_static": 0.8}) is None
        assert gate.refuse({"mem_fraction_static": 0.85}) is not None

    def test_an_early_failure_teaches_nothing_about_later_stages(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {"mem_fraction_static": 0.3}, "load")
        assert gate.refuse({"mem_fraction_static": 0.9}) is None

    def test_other_failures_teach_nothing(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        gate.learn(self.BASE, NOTHING, None, False)
        assert gate.refuse(self.BASE) is None

    def test_defaults_that_failed_are_refused_as_such(self, tmp_path: Path) -> None:
        gate = sglang(tmp_path)
        fail(gate, {}, "capture")
        assert gate.refuse({}) == (
            "graph capture or warm-up ran out of memory before with these values, and this asks for no less: change another parameter"
        )
        assert gate.refuse({"mem_fraction_static": 0.9}) is None

    def test_engines_without_gpus_learn_too(self, tmp_path: Path) -> None:
        gate = create("sglang", Sglang("x").defaults, None, ())
        fail(gate, {"mem_fraction_static": 0.9}, "run")
        assert gate.refuse({"mem_fraction_static": 0.95}) is not None

    def test_vllm_profiles_before_it_sizes_the_cache(self, tmp_path: Path) -> None:
        gate = vllm(tmp_path)
        base: dict[str, Value] = {"gpu_memory_utilization": 0.5, "max_num_batched_tokens": 8192, "max_num_seqs": 256}
        fail(gate, base, "load")
        assert gate.refuse(base | {"max_num_batched_tokens": 16384}) is not None
        assert gate.refuse(base | {"gpu_memory_utilization": 0.55}) is None
        later = vllm(tmp_path)
        fail(later, base, "capture")
        assert later.refuse(base | {"max_num_seqs": 512}) is not None
        assert later.refuse(base | {"max_num_batched_tokens": 16384}) is None
