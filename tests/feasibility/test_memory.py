"""The memory model against what people measured and published, each with its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.feasibility.model_folders import shape
from tuner.feasibility.memory import GIB, kv_budget, kv_token_bytes, least_fraction, weights_per_gpu


@pytest.mark.parametrize(("fraction", "used", "kv_cache"), [(0.7, 66, 64), (0.8, 76, 73)])
def test_llama_1b_on_a_95_gb_gpu(tmp_path: Path, fraction: float, used: float, kv_cache: float) -> None:
    """The figures with which the original autotuner was published, on a GPU of "~95 GB", of which a CUDA context takes about 0.5."""
    room = 95.0 - 0.5
    weights = weights_per_gpu(shape(tmp_path, "Llama-3.2-1B"), 1)
    assert weights is not None
    assert kv_budget(room, fraction, weights) == pytest.approx(kv_cache, rel=0.01)
    assert kv_budget(room, fraction, weights) + weights == pytest.approx(used, rel=0.01)


def test_llama_1b_is_2_4_gb(tmp_path: Path) -> None:
    """As above; the checkpoint has 2,471,645,608 bytes, headers and norms included."""
    assert shape(tmp_path, "Llama-3.2-1B").weight_bytes == pytest.approx(2_471_645_608, rel=0.001)


@pytest.mark.parametrize(("draft", "published"), [(0.0, 0.9113), (3.07, 0.9335)])
def test_least_fraction_of_deepseek_v4_pro(draft: float, published: float) -> None:
    """InferenceX #2128, 8 H200: `avail mem=12.25 GB, mem usage=125.65 GB`, and 3.07 GB more for the draft model."""
    room, weights = 12.25 + 125.65, 125.65 + draft
    assert least_fraction(room, weights) == pytest.approx(published, rel=0.0002)
    assert kv_budget(room, 0.88, weights) < 0
    assert kv_budget(room, published + 0.001, weights) > 0


def test_qwen3_30b_on_mi350(tmp_path: Path) -> None:
    """sglang PR #18263: `avail mem=230.20 GB, mem usage=56.98 GB`, fraction 0.911, 219721119039 bytes available = 204.63 GB; later
    164149629787 bytes hold 1669816 tokens."""
    model = shape(tmp_path, "Qwen3-30B-A3B")
    assert weights_per_gpu(model, 1) == pytest.approx(56.98, rel=0.003)
    assert kv_budget(230.20 + 56.98, 0.911, 56.98) * GIB == pytest.approx(219_721_119_039, rel=0.0001)
    assert 164_149_629_787 // kv_token_bytes(model, 1, 1, 2) == 1_669_816


def test_qwen3_235b_on_4_h100(tmp_path: Path) -> None:
    """vllm #21348, SGLang: `#tokens: 367404, K size: 8.23 GB, V size: 8.23 GB`; vLLM: 8.11 GiB for 178,880 tokens, blocks rounded."""
    model = shape(tmp_path, "Qwen3-235B-A22B-FP8")
    assert 367_404 * kv_token_bytes(model, 4, 1, 2) / GIB == pytest.approx(2 * 8.23, rel=0.001)
    assert 178_880 * kv_token_bytes(model, 4, 1, 2) / GIB == pytest.approx(8.11, rel=0.012)


def test_llama_70b(tmp_path: Path) -> None:
    """llm-d-benchmark PR #381: 70553706496 parameters require 131.4165 GiB."""
    assert weights_per_gpu(shape(tmp_path, "Llama-3.1-70B"), 1) == pytest.approx(131.4165, rel=0.0001)


@pytest.mark.parametrize(
    ("name", "tp", "pp", "value_bytes", "expected"),
    [
        ("Llama-3.1-8B", 1, 1, 2, 131_072),
        ("Llama-3.1-8B", 1, 1, 1, 65_536),
        ("Llama-3.1-8B", 8, 1, 2, 16_384),
        ("Llama-3.1-8B", 16, 1, 2, 16_384),
        ("Llama-3.1-8B", 1, 2, 2, 65_536),
        ("DeepSeek-V3", 1, 1, 2, 70_272),
        ("DeepSeek-V3", 8, 1, 2, 70_272),
        ("DeepSeek-V3", 1, 4, 2, 17_280),
    ],
)
def test_kv_cache_of_a_token(tmp_path: Path, name: str, tp: int, pp: int, value_bytes: int, expected: int) -> None:
    """131,072 bytes: the 128 KiB that Llama-3.1-8B is known for; 70,272: 576 values x 2 bytes x 61 layers, the same on each GPU."""
    assert kv_token_bytes(shape(tmp_path, name), tp, pp, value_bytes) == expected


def test_weights_are_spread(tmp_path: Path) -> None:
    one, eight = (weights_per_gpu(shape(tmp_path, "Llama-3.1-70B"), gpus) for gpus in (1, 8))
    assert one is not None
    assert eight == pytest.approx(one / 8)
