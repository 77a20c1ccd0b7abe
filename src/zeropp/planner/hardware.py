"""Named GPUs and links, as their vendors state them.

GPUs: NVIDIA's data sheets; dense bf16 FLOP/s with fp32 accumulation; memory as the driver reports
it, rounded down; NVLink's rate for one direction. Links: the nominal rate, one direction.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

GIB = float(2**30)


class GPU(NamedTuple):
    """One kind of GPU: bytes, dense bf16 FLOP/s, and bytes per second."""

    memory: float
    peak_flops: float
    memory_bandwidth: float
    nvlink: float = 0.0  # to the other GPUs of its node, in one direction; 0 without NVLink


class Wire(NamedTuple):
    """A link's seconds of latency and bytes per second in one direction."""

    latency: float
    bandwidth: float


GPUS: Mapping[str, GPU] = MappingProxyType(
    {
        "A100-40G": GPU(39 * GIB, 312e12, 1.555e12, 300e9),
        "A100-80G": GPU(79 * GIB, 312e12, 2.039e12, 300e9),
        "A800-80G": GPU(79 * GIB, 312e12, 2.039e12, 200e9),
        "H100-80G": GPU(79 * GIB, 989e12, 3.35e12, 450e9),
        "H800-80G": GPU(79 * GIB, 989e12, 3.35e12, 200e9),
        "H200": GPU(139 * GIB, 989e12, 4.8e12, 450e9),
        "H20": GPU(95 * GIB, 148e12, 4.0e12, 450e9),
        "L40S": GPU(44 * GIB, 362e12, 0.864e12),
        "RTX3090": GPU(23.5 * GIB, 71e12, 0.936e12),
        "RTX4090": GPU(23.5 * GIB, 165e12, 1.008e12),
    }
)

_NVLINK_LATENCY, _PCIE_LATENCY = 5e-6, 10e-6
_IB_LATENCY, _ETHERNET_LATENCY = 10e-6, 30e-6

_PCIE = {
    "pcie3": Wire(_PCIE_LATENCY, 16e9),
    "pcie4": Wire(_PCIE_LATENCY, 32e9),
    "pcie5": Wire(_PCIE_LATENCY, 64e9),
}
_BETWEEN = {
    f"{kind}-{gigabits}": Wire(latency, gigabits * 1e9 / 8)
    for kind, latency, rates in (
        ("ib", _IB_LATENCY, (100, 200, 400, 800)),
        ("eth", _ETHERNET_LATENCY, (1, 10, 25, 40, 50, 100, 200, 400)),
    )
    for gigabits in rates
}


def gpu_named(name: str) -> GPU:
    """The GPU called `name`, in any case; ValueError if there is none."""
    for known, gpu in GPUS.items():
        if known.lower() == name.lower():
            return gpu
    raise ValueError(f"gpu: no {name!r}; use one of {', '.join(GPUS)}")


def usual_inside(name: str) -> str:
    """The link inside a node of the GPUs called `name`, where none is given."""
    return "nvlink" if gpu_named(name).nvlink else "pcie4"


def gpu_like(name: str, memory: float) -> GPU | None:
    """The GPU that a driver calls `name`, of so many bytes; None: it is not known here."""
    plain = name.lower().replace(" ", "")
    for known, gpu in GPUS.items():
        model = known.partition("-")[0].lower()
        if model in plain and model + "0" not in plain and abs(memory / gpu.memory - 1) < 0.1:
            return gpu
    return None


def inside_wire(name: str, gpu_name: str) -> Wire:
    """The link inside a node: `nvlink` at the GPU's rate, a PCIe, or a number of GB/s."""
    nvlink = gpu_named(gpu_name).nvlink
    if name == "nvlink" and not nvlink:
        raise ValueError(f"inside: {gpu_name} has no NVLink; use one of {', '.join(_PCIE)}")
    known = {"nvlink": Wire(_NVLINK_LATENCY, nvlink)} | _PCIE
    return _wire("inside", name, known, _PCIE_LATENCY)


def between_wire(name: str) -> Wire:
    """The link of one network card: InfiniBand, Ethernet, or a number of GB/s."""
    return _wire("between", name, _BETWEEN, _IB_LATENCY)


def _wire(field: str, name: str, known: Mapping[str, Wire], latency: float) -> Wire:
    if name in known:
        return known[name]
    try:
        rate = float(name)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e6:
        choices = ", ".join(known)
        raise ValueError(f"{field}: no link {name!r}; use {choices}, or a number of GB/s")
    return Wire(latency, rate * 1e9)
