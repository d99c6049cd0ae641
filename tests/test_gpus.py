from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import psutil
import pynvml
import pytest

from tests.nvml import GIB, Device, Driver
from tuner.errors import Infeasible, NotReadyError, Transient
from tuner.gpus import Gpu, GpuSlots, discover, driver_version, select

H100 = "NVIDIA H100 80GB HBM3"
TWO = (Device("GPU-aaaa", used=3 * GIB), Device("GPU-abbb"))


@pytest.fixture(autouse=True)
def _no_choice_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


class TestDiscover:
    @pytest.mark.parametrize("in_bytes", [False, True])
    def test_all_in_the_order_of_the_driver(self, monkeypatch: pytest.MonkeyPatch, in_bytes: bool) -> None:
        driver = Driver(TWO, in_bytes=in_bytes)
        driver.install(monkeypatch)
        assert discover() == (
            Gpu(0, "GPU-aaaa", H100, 80 * GIB, 77 * GIB, (9, 0)),
            Gpu(1, "GPU-abbb", H100, 80 * GIB, 79 * GIB, (9, 0)),
        )
        assert driver_version() == "580.105.08"
        assert driver.opened == 0

    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, r"^this host has no NVIDIA driver .*: install it until `nvidia-smi` lists the GPUs$"),
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, r"^the NVIDIA driver is not loaded: `sudo modprobe nvidia`"),
            (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, r"^the NVIDIA driver was updated while .*: reboot this host$"),
            (pynvml.NVML_ERROR_NO_PERMISSION, r"^this user may not ask the NVIDIA driver: check the permissions of /dev/nvidia\*$"),
            (pynvml.NVML_ERROR_UNKNOWN, r"^the NVIDIA driver fails \(Unknown Error\): see `nvidia-smi` and `dmesg`$"),
        ],
    )
    def test_no_driver_to_ask(self, monkeypatch: pytest.MonkeyPatch, code: int, cause: str) -> None:
        Driver(fails=code).install(monkeypatch)
        for ask in (discover, driver_version):
            with pytest.raises(NotReadyError, match=cause):
                ask()

    def test_a_mig_gpu_by_its_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slices = [
            None,
            Device("MIG-1", "NVIDIA H100 80GB HBM3 MIG 2g.20gb", 20 * GIB),
            Device("MIG-2", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
        ]
        Driver([TWO[0], Device("GPU-mig", slices=slices)]).install(monkeypatch)
        whole, large, small = discover()
        assert [(gpu.index, gpu.uuid, gpu.is_slice, gpu.cuda_name) for gpu in (whole, large, small)] == [
            (0, "GPU-aaaa", False, "0"),
            (1, "MIG-1", True, "MIG-1"),
            (1, "MIG-2", True, "MIG-2"),
        ]
        assert (large.memory_bytes, large.name) == (20 * GIB, "NVIDIA H100 80GB HBM3 MIG 2g.20gb")

    def test_memory_that_is_the_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Driver([Device("GPU-spark", "NVIDIA GB10", total=None)]).install(monkeypatch)
        (gpu,) = discover()
        assert gpu.memory_bytes == psutil.virtual_memory().total
        assert 0 < gpu.free_bytes <= gpu.memory_bytes

    @pytest.mark.parametrize(
        "bad", [Device("GPU-lost", fails=pynvml.NVML_ERROR_GPU_IS_LOST), Device("GPU-mig", slices=[None]), Device("GPU-mig", slices=[])]
    )
    def test_one_that_cannot_be_used_is_left_out(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bad: Device
    ) -> None:
        driver = Driver([bad, TWO[1]])
        driver.install(monkeypatch)
        with caplog.at_level(logging.WARNING):
            assert [gpu.index for gpu in discover()] == [1]
        assert caplog.messages[0].startswith("GPU 0 is left out, the driver says of it: ")
        driver.devices = [bad]
        with pytest.raises(NotReadyError, match=r"^the NVIDIA driver shows no usable GPU: "):
            discover()
        assert driver.opened == 0

    @pytest.mark.gpu
    def test_the_real_ones(self) -> None:
        found = discover()
        assert len({gpu.uuid for gpu in found}) == len(found)
        for gpu in found:
            assert 0 <= gpu.free_bytes <= gpu.memory_bytes
            assert gpu.memory_bytes > GIB
            assert gpu.compute_capability >= (5, 0)
            assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert driver_version().split(".")[0].isdecimal()


def gpus(*uuids: str, names: Sequence[str] = (H100,) * 4) -> tuple[Gpu, ...]:
    return tuple(Gpu(i, uuid, name, 80 * GIB, 79 * GIB, (9, 0)) for i, (uuid, name) in enumerate(zip(uuids, names, strict=False)))


def indices(chosen: Sequence[Gpu]) -> list[int]:
    return [gpu.index for gpu in chosen]


class TestSelect:
    FOUND = gpus("GPU-aaaa", "GPU-abbb", "GPU-cccc")

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [(None, [0, 1, 2]), ([2, 0], [2, 0]), (["GPU-c"], [2]), (["1", "GPU-aaaa"], [1, 0]), ([0, "GPU-aaaa"], [0]), ([], [])],
    )
    def test_by_index_or_uuid(self, wanted: Sequence[int | str] | None, expected: list[int]) -> None:
        assert indices(select(wanted, self.FOUND)) == expected

    def test_one_that_is_not_there(self) -> None:
        for wrong in (3, "GPU-x", "cccc"):
            with pytest.raises(
                NotReadyError, match=rf"^backend\.gpus: there is no GPU '{wrong}': use some of 0 \(GPU-aaaa\), 1 \(GPU-abbb\), 2 "
            ):
                select([wrong], self.FOUND)

    def test_a_beginning_that_fits_two(self) -> None:
        with pytest.raises(NotReadyError, match=r"^backend\.gpus: GPU-a may be GPU-aaaa or GPU-abbb: write more of it$"):
            select(["GPU-a"], self.FOUND)

    def test_the_number_of_a_mig_gpu_means_its_slices(self) -> None:
        found = (*gpus("GPU-aaaa"), *(Gpu(1, f"MIG-{i}", H100, GIB, GIB, (9, 0)) for i in range(2)))
        assert [gpu.uuid for gpu in select([1], found)] == ["MIG-0", "MIG-1"]

    def test_what_a_scheduler_assigned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abbb")
        assert indices(select(None, self.FOUND)) == [2, 1]
        assert indices(select([0], self.FOUND)) == [0]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        with pytest.raises(NotReadyError, match=r"^CUDA_VISIBLE_DEVICES: there is no GPU '7': "):
            select(None, self.FOUND)

    @pytest.mark.parametrize("value", ["", "-1"])
    def test_a_scheduler_that_assigned_none(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(NotReadyError, match=r"hides all GPUs: unset it, or name GPUs in backend\.gpus$"):
            select(None, self.FOUND)

    def test_numbers_in_an_order_that_is_not_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mixed = gpus("GPU-aaaa", "GPU-bbbb", names=("NVIDIA A10", H100))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        with pytest.raises(NotReadyError, match=r"in CUDA's own order: export CUDA_DEVICE_ORDER=PCI_BUS_ID, or set backend\.gpus$"):
            select(None, mixed)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert indices(select(None, mixed)) == [0]
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
        assert indices(select(None, mixed)) == [1]


class TestSlots:
    def test_each_in_one_deployment_at_a_time(self) -> None:
        slots = GpuSlots(["a", "b", "c"])
        first = slots.take(2)
        assert first == ("a", "b")
        assert slots.take(1) == ("c",)
        with pytest.raises(Transient, match=r"^needs 1 GPUs, of which 0 are free now$"):
            slots.take(1)
        slots.give_back(first)
        assert slots.take(1) == ("a",)

    def test_a_deployment_may_need_none(self) -> None:
        assert GpuSlots(["a"]).take(0) == ()

    def test_more_than_there_are(self) -> None:
        with pytest.raises(Infeasible, match=r"^needs 3 GPUs, backend\.gpus has 2$"):
            GpuSlots(["a", "b"]).take(3)

    def test_a_study_without_any(self) -> None:
        slots = GpuSlots([])
        assert slots.take(2) == ()
        slots.give_back(())

    def test_unknown_ones_are_chosen_by_nobody(self) -> None:
        slots = GpuSlots(None)
        assert slots.take(8) is None
        slots.give_back(None)

    def test_no_two_threads_get_the_same(self) -> None:
        slots = GpuSlots([str(number) for number in range(4)])
        held: set[str] = set()
        clashes: list[str] = []
        together = threading.Barrier(8)

        def use() -> None:
            together.wait()
            for _ in range(300):
                try:
                    taken = slots.take(2) or ()
                except Transient:
                    continue
                clashes.extend(held & set(taken))
                held.update(taken)
                held.difference_update(taken)
                slots.give_back(taken)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert clashes == []
        assert slots.take(4) == ("0", "1", "2", "3")
