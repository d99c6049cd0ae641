from __future__ import annotations

from collections.abc import Callable

import pynvml
import pytest

from tests.doctor.conftest import GPU_ENGINE, composed
from tests.nvml import GIB, Device, Driver
from tuner.doctor.gpu_checks import gpus
from tuner.errors import NotReadyError
from tuner.finding import Finding
from tuner.parties import gpus_needed

Become = Callable[..., Driver]
FOUR = tuple(Device(f"GPU-{number}") for number in range(4))


def found(*overrides: str, fewest: int = 1, docker_host: str | None = None) -> Finding:
    return gpus(composed("backend=local", *GPU_ENGINE, *overrides), fewest, docker_host)


class TestNeeded:
    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            (GPU_ENGINE, (1, 1)),
            ((*GPU_ENGINE, "space.tp_size={low:2,high:8}"), (2, 8)),
            ((*GPU_ENGINE, "space.tp_size=2", "+space.pp_size={type:ordinal,choices:[1,3]}", "+engine.args.dp_size=2"), (4, 12)),
            ((*GPU_ENGINE, "~space.tp_size", "+space.tensor_parallel_size={type:int,low:2,high:3}"), (2, 3)),
            (("engine=vllm", "space=vllm", "engine.model=a/b", "+engine.args.data_parallel_size=4"), (4, 4)),
            ((*GPU_ENGINE, "backend=local", "backend.gpus=[]"), (0, 0)),
            (("engine=llamacpp", "space=llamacpp"), (0, 0)),
        ],
    )
    def test_smallest_and_largest_configuration(self, overrides: tuple[str, ...], expected: tuple[int, int]) -> None:
        assert gpus_needed(composed(*overrides)) == expected


class TestGpus:
    def test_in_order(self, gpu_host: Become) -> None:
        gpu_host(*FOUR)
        assert found(fewest=4) == Finding("ok", "driver 580.105.08, 4 of 4 GPUs: 0, 1, 2, 3: NVIDIA H100 80GB HBM3 with 80 GiB")
        assert found("backend.gpus=[2]").seen == "driver 580.105.08, 1 of 4 GPUs: 2: NVIDIA H100 80GB HBM3 with 80 GiB"

    def test_of_several_kinds(self, gpu_host: Become) -> None:
        gpu_host(FOUR[0], Device("GPU-x", "NVIDIA A10", 24 * GIB, GIB), FOUR[2])
        assert found().seen.endswith("0, 2: NVIDIA H100 80GB HBM3 with 80 GiB, 1: NVIDIA A10 with 24 GiB")

    def test_none(self, gpu_host: Become) -> None:
        gpu_host()
        assert found() == Finding("failed", "this host has no NVIDIA device", "run tuner on a GPU host, or use engine=llamacpp on the CPU")

    def test_without_its_driver(self, gpu_host: Become) -> None:
        gpu_host(*FOUR, loaded=False)
        finding = found()
        assert finding.verdict == "failed"
        assert finding.seen == "/dev/nvidia0 is there but its driver is not loaded"

    def test_nvml_fails(self, gpu_host: Become) -> None:
        gpu_host(*FOUR).fails = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        with pytest.raises(NotReadyError, match=r"reboot this host$"):
            found()

    def test_too_few(self, gpu_host: Become) -> None:
        gpu_host(*FOUR)
        finding = found("backend.gpus=[0,1]", fewest=4)
        assert finding.verdict == "failed"
        assert finding.seen.endswith("; the smallest configuration needs 4")

    def test_in_use_by_others(self, gpu_host: Become) -> None:
        gpu_host(FOUR[0], Device("GPU-busy", used=70 * GIB))
        finding = found()
        assert finding.verdict == "warning"
        assert finding.seen.endswith("; others hold 70 GiB of GPU 1")
        assert found("backend.gpus=[0]").verdict == "ok"

    def test_slices(self, gpu_host: Become) -> None:
        gpu_host(Device("GPU-mig", slices=[Device("MIG-1", "1g.10gb", 10 * GIB, 0), Device("MIG-2", "1g.10gb", 10 * GIB, 0)]))
        assert found().verdict == "ok"
        finding = found(fewest=2)
        assert finding.verdict == "failed"
        assert "only one slice" in finding.seen

    def test_of_another_host(self, gpu_host: Become) -> None:
        gpu_host()
        assert found(docker_host="gpu-host").verdict == "skipped"
