from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.host import Nvidia, describe, nvidia_device


def add(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def add_pci(root: Path, address: str, vendor: str, kind: str) -> None:
    add(root, f"sys/bus/pci/devices/{address}/vendor", f"{vendor}\n")
    add(root, f"sys/bus/pci/devices/{address}/class", f"{kind}\n")


def test_bare_host(tmp_path: Path) -> None:
    assert Nvidia.probe(tmp_path) == Nvidia((), False)
    assert nvidia_device(tmp_path) is None


def test_host_with_driver(tmp_path: Path) -> None:
    add(tmp_path, "dev/nvidia0")
    add(tmp_path, "proc/driver/nvidia/version")
    assert Nvidia.probe(tmp_path) == Nvidia(("/dev/nvidia0",), True)


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"])
def test_device_without_driver(tmp_path: Path, kind: str) -> None:
    add_pci(tmp_path, "0000:01:00.0", "0x10de", kind)
    assert Nvidia.probe(tmp_path) == Nvidia(("/sys/bus/pci/devices/0000:01:00.0",), False)


@pytest.mark.parametrize(
    ("vendor", "kind"),
    [
        pytest.param("0x10de", "0x040300", id="audio function of a GPU"),
        pytest.param("0x10de", "0x020000", id="network card"),
        pytest.param("0x1002", "0x030000", id="other vendor"),
    ],
)
def test_other_devices_do_not_count(tmp_path: Path, vendor: str, kind: str) -> None:
    add_pci(tmp_path, "0000:01:00.0", vendor, kind)
    assert nvidia_device(tmp_path) is None


def test_control_nodes_without_a_gpu_do_not_count(tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-caps"):
        add(tmp_path, f"dev/{name}")
    assert nvidia_device(tmp_path) is None


def test_proc_alone_counts(tmp_path: Path) -> None:
    add(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information")
    assert nvidia_device(tmp_path) == "/proc/driver/nvidia/gpus/0000:01:00.0"


def test_windows_subsystem(tmp_path: Path) -> None:
    add(tmp_path, "dev/dxg")
    assert nvidia_device(tmp_path) is None
    add(tmp_path, "usr/lib/wsl/lib/nvidia-smi")
    assert Nvidia.probe(tmp_path) == Nvidia(("/dev/dxg",), True)


def test_description_of_this_host() -> None:
    facts = describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu_model"]
    assert int(facts["cpus"]) >= 1
    assert float(facts["memory_gib"]) > 0


def test_cpu_model_is_the_kernels(tmp_path: Path) -> None:
    add(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU: fast @ 2 GHz\n\nmodel name\t: other\n")
    assert describe(tmp_path)["cpu_model"] == "Some CPU: fast @ 2 GHz"
