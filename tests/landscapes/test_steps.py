from __future__ import annotations

import pytest

from benchmarks.landscapes.model import Model
from benchmarks.landscapes.roofline import H100, Roofline
from benchmarks.landscapes.steps import CONTEXTS, TOKENS, StepTimes, captured, captures

LLAMA = Model.read("Llama-3.1-8B")


def test_table_is_the_source_at_its_nodes_and_between_them_near() -> None:
    source = Roofline(LLAMA, H100, 1)
    steps = StepTimes(source)
    assert steps.prefill(TOKENS[9], CONTEXTS[4]) == pytest.approx(source.prefill_s(TOKENS[9], CONTEXTS[4]))
    assert steps.decode(64, 1024) == pytest.approx(source.decode_s(64, 1024))
    assert steps.prefill(5000, 2500) == pytest.approx(source.prefill_s(5000, 2500), rel=0.02)
    assert steps.decode(160, 1500) == pytest.approx(source.decode_s(160, 1500), rel=0.02)


def test_a_batch_is_padded_to_a_captured_one() -> None:
    assert [captured(batch) for batch in (1, 3, 4, 5, 8, 9, 256, 257)] == [1, 4, 4, 8, 8, 16, 256, 272]
    assert captures(16) == 5
    steps = StepTimes(Roofline(LLAMA, H100, 1))
    assert steps.decode(57, 1000) == steps.decode(64, 1000) > steps.decode(56, 1000)


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_a_decode_step_of_the_roofline_reads_weights_and_cache_once(batch: int) -> None:
    read = LLAMA.weight_bytes + batch * 1000 * LLAMA.kv_token_bytes(1)
    assert Roofline(LLAMA, H100, 1).decode_s(batch, 1000) > read / H100.bytes_per_s


def test_more_gpus_are_faster_but_not_as_much_as_there_are() -> None:
    one, four = (Roofline(LLAMA, H100, tp) for tp in (1, 4))
    for alone, together in ((one.decode_s(64, 1000), four.decode_s(64, 1000)), (one.prefill_s(4096, 2048), four.prefill_s(4096, 2048))):
        assert alone / 4 < together < alone


def test_kernels_and_roofline_tell_of_the_same_gpu() -> None:
    pytest.importorskip("aiconfigurator_core")
    from benchmarks.landscapes.kernels import Kernels
    from benchmarks.landscapes.model import FOLDER

    kernels, roofline = Kernels(str(FOLDER / "Llama-3.1-8B"), "h100_sxm", 1), Roofline(LLAMA, H100, 1)
    assert kernels.prefill_s(4096, 2048) == pytest.approx(roofline.prefill_s(4096, 2048), rel=0.3)
    assert kernels.prefill_s(4096, 256) < kernels.prefill_s(4096, 2048) < kernels.prefill_s(4096, 16384)
    assert kernels.decode_s(64, 1024) == pytest.approx(roofline.decode_s(64, 1024), rel=0.3)
