"""Data sheets of NVIDIA's GPUs for inference: what a roofline needs of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """The speeds that NVIDIA states for one product; what is reached of them is the roofline's matter.

    Attributes:
        name: Short name of the product.
        memory_bytes_per_s: Bandwidth of its memory.
        bf16_flops: Dense bfloat16 operations per second of the tensor cores.
        fp8_flops: The same for fp8; those of bfloat16 where there is no such unit, since weights in fp8 are widened there.
        link_bytes_per_s: To the other GPUs of its host, in one direction: NVLink, or PCI Express where the board has none.
        nvlink: Whether that link is NVLink.
    """

    name: str
    memory_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float
    link_bytes_per_s: float
    nvlink: bool


def _spec(name: str, memory_gb: float, bf16_tflops: float, fp8_tflops: float, link_gb: float, nvlink: bool) -> GpuSpec:
    return GpuSpec(name, memory_gb * 1e9, bf16_tflops * 1e12, fp8_tflops * 1e12, link_gb * 1e9, nvlink)


# The words that all stand in NVML's product name; the first line that fits counts. Numbers are of NVIDIA's data sheets (dense: half of what
# is stated with sparsity), and agree with the system files of aiconfigurator-core 0.12.0 where it has them.
_SPECS: tuple[tuple[tuple[str, ...], GpuSpec], ...] = (
    # NVIDIA Blackwell architecture technical brief; DGX B200 data sheet: 62 TB/s for eight
    (("GB200",), _spec("GB200", 8000, 2500, 5000, 900, True)),
    (("GB300",), _spec("GB300", 8000, 2500, 5000, 900, True)),
    (("B300",), _spec("B300", 7750, 2250, 4500, 900, True)),
    (("B200",), _spec("B200", 7700, 2250, 4500, 900, True)),
    # H200 data sheet
    (("H200", "NVL"), _spec("H200 NVL", 4800, 835, 1671, 450, True)),
    (("H200",), _spec("H200", 4800, 989, 1979, 450, True)),
    (("GH200",), _spec("GH200", 4000, 989, 1979, 450, True)),
    # H100 data sheet: SXM 80 GB HBM3; PCIe 80 GB HBM2e; NVL 94 GB, bridged in pairs. NVML: `NVIDIA H100 80GB HBM3`, `H100 PCIe`, `H100 NVL`
    (("H100", "NVL"), _spec("H100 NVL", 3938, 835, 1671, 300, True)),
    (("H100", "PCIe"), _spec("H100 PCIe", 2000, 756.5, 1513, 64, False)),
    (("H100",), _spec("H100", 3350, 989, 1979, 450, True)),
    (("H800",), _spec("H800", 3350, 989, 1979, 200, True)),
    (("H20",), _spec("H20", 4000, 148, 296, 450, True)),
    # A100 data sheet. NVML: `NVIDIA A100-SXM4-40GB`, `A100-SXM4-80GB`, `A100-PCIE-40GB`, `A100 80GB PCIe`
    (("A100", "SXM", "40GB"), _spec("A100 40GB", 1555, 312, 312, 300, True)),
    (("A100", "SXM"), _spec("A100 80GB", 2039, 312, 312, 300, True)),
    (("A100", "40GB"), _spec("A100 PCIe 40GB", 1555, 312, 312, 32, False)),
    (("A100",), _spec("A100 PCIe 80GB", 1935, 312, 312, 32, False)),
    (("A800",), _spec("A800", 2039, 312, 312, 200, True)),
    # A10, A30, A40, L4, L40 and L40S data sheets
    (("A100X",), _spec("A100X", 2039, 312, 312, 32, False)),
    (("A10G",), _spec("A10G", 600, 70, 70, 32, False)),
    (("A10",), _spec("A10", 600, 125, 125, 32, False)),
    (("A30",), _spec("A30", 933, 165, 165, 32, False)),
    (("A40",), _spec("A40", 696, 149.7, 149.7, 32, False)),
    (("L40S",), _spec("L40S", 864, 362, 733, 32, False)),
    (("L40",), _spec("L40", 864, 181, 362, 32, False)),
    (("L4",), _spec("L4", 300, 121, 242, 32, False)),
    # RTX Blackwell and Ada architecture papers: rates with accumulation in float32
    (("RTX PRO 6000",), _spec("RTX PRO 6000", 1792, 467.8, 935.6, 64, False)),
    (("RTX 6000 Ada",), _spec("RTX 6000 Ada", 960, 364, 728, 32, False)),
    (("RTX A6000",), _spec("RTX A6000", 768, 154.8, 154.8, 32, False)),
    (("RTX 5090",), _spec("RTX 5090", 1792, 209.5, 419, 64, False)),
    (("RTX 4090",), _spec("RTX 4090", 1008, 165.2, 330.3, 32, False)),
    (("RTX 3090",), _spec("RTX 3090", 936, 71, 71, 32, False)),
)


def find(product: str) -> GpuSpec | None:
    """The data sheet of the GPU that NVML names `product`; None for one not listed here, and for a slice of one."""
    words = product.replace("-", " ").replace("_", " ").split()
    flat = f" {' '.join(words)} "
    if any(f" {other} " in flat for other in ("MIG", "Laptop", "Max")):
        return None
    for marks, spec in _SPECS:
        # the first word is the product's own name, whole: `L4` is not `L40S`; the others may be part of one (`SXM4`)
        if f" {marks[0]} " in flat and all(mark.lower() in flat.lower() for mark in marks[1:]):
            return spec
    return None
