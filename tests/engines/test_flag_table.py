from __future__ import annotations

import pytest

from tuner.engines.flag_table import FlagTable
from tuner.errors import Infeasible
from tuner.launch import Value

SGLANG, VLLM = FlagTable.newest("sglang"), FlagTable.newest("vllm")


def words(table: FlagTable, name: str, value: Value) -> tuple[str, ...]:
    flag = table.find(name)
    assert flag is not None
    flag.check(value)
    return flag.words(value)


@pytest.mark.parametrize("table", [SGLANG, VLLM], ids=["sglang", "vllm"])
def test_tables_are_whole(table: FlagTable) -> None:
    assert len(table.names) > 200
    for name in table.names:
        flag = table.find(name)
        assert flag is not None
        assert flag.switch == (flag.type == "bool")
        assert flag.flag.startswith("--")


@pytest.mark.parametrize(
    ("table", "name", "value", "expected"),
    [
        (SGLANG, "mem_fraction_static", 0.85, "--mem-fraction-static 0.85"),
        (SGLANG, "mem_fraction_static", 1, "--mem-fraction-static 1"),
        (SGLANG, "chunked_prefill_size", -1, "--chunked-prefill-size -1"),
        (SGLANG, "tensor_parallel_size", 2, "--tp-size 2"),
        (SGLANG, "enable_mixed_chunk", True, "--enable-mixed-chunk"),
        (SGLANG, "enable_mixed_chunk", False, ""),
        (SGLANG, "mm_enable_dp_encoder", False, "--no-mm-enable-dp-encoder"),
        (SGLANG, "cuda_graph_bs_decode", "1 2 8", "--cuda-graph-bs-decode 1 2 8"),
        (SGLANG, "cuda_graph_bs_decode", 4, "--cuda-graph-bs-decode 4"),
        (SGLANG, "attention_backend", "fa3", "--attention-backend fa3"),
        (SGLANG, "model_checksum", True, "--model-checksum"),
        (VLLM, "enable_prefix_caching", False, "--no-enable-prefix-caching"),
        (VLLM, "tp", 2, "--tensor-parallel-size 2"),
        (VLLM, "max_model_len", "8k", "--max-model-len 8k"),
    ],
)
def test_words(table: FlagTable, name: str, value: Value, expected: str) -> None:
    assert " ".join(words(table, name, value)) == expected


def test_json_stays_one_word() -> None:
    assert words(VLLM, "lora_modules", '{"name": "a", "path": "/a"}') == ("--lora-modules", '{"name": "a", "path": "/a"}')


@pytest.mark.parametrize(
    ("table", "name", "value", "said"),
    [
        (SGLANG, "tp_size", 1.5, "must be of type int"),
        (SGLANG, "tp_size", "two", "must be of type int"),
        (SGLANG, "tp_size", True, "no switch"),
        (SGLANG, "mem_fraction_static", "much", "must be of type float"),
        (SGLANG, "enable_mixed_chunk", 1, "a switch"),
        (SGLANG, "cuda_graph_bs_decode", "1 x", "must be of type int"),
        (SGLANG, "schedule_policy", "fifo", "use one of lpm, "),
        (SGLANG, "attention_backend", "fa33", "did you mean fa3"),
        (VLLM, "max_num_seqs", "8k", "must be of type int"),
    ],
)
def test_what_the_parser_would_refuse(table: FlagTable, name: str, value: Value, said: str) -> None:
    with pytest.raises(Infeasible, match=said):
        words(table, name, value)


def test_unknown_names() -> None:
    assert SGLANG.find("swap_space") is None
    assert SGLANG.find("max_num_seqs") is None
