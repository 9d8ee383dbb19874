"""What devices, memories and links reach, by their makers' data sheets and by published measurements. Imports no torch.

For models of what nobody here has; a measurement of your own (``tracestill bench``, ``tracestill doctor``) is better.
"""

from __future__ import annotations

from dataclasses import dataclass

PEAKS = (
    (r"H200 NVL|H100 NVL", 835.0),
    (r"H100 PCIe|H800 PCIe", 756.0),
    (r"GH200|H200|H100|H800", 989.0),
    (r"H20", 148.0),
    (r"GB200", 2500.0),
    (r"B200", 2250.0),
    (r"A100|A800", 312.0),
    (r"A40", 150.0),
    (r"A30", 165.0),
    (r"A10", 125.0),
    (r"L40S", 362.0),
    (r"L40", 181.0),
    (r"L4", 121.0),
    (r"RTX A6000", 155.0),
    (r"RTX 4090", 165.0),
    (r"RTX 3090", 71.0),
    (r"MI300X", 1307.0),
    (r"MI250X", 383.0),
)
"""Name of the device -> TFLOP/s in bf16, dense, accumulated in fp32, by the vendors' data sheets; the first match."""


@dataclass(frozen=True)
class Link:
    """A way between ranks: ``latency`` in seconds a hop, ``bandwidth`` in bytes a second and direction."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Node:
    """A node with eight devices, or as many as ``devices`` says, and what joins nodes."""

    peak: float  # FLOP/s of a device in bf16
    memory: float  # bytes of a device
    bandwidth: float  # bytes a second of its memory
    inside: Link  # between devices of a node, per device
    between: Link  # between nodes, all of a node's network interfaces together
    devices: int = 8


NODES = {
    # DGX A100: NVLink 3 at 300 GB/s a direction; eight HDR interfaces of 200 Gbit/s
    "a100": Node(312e12, 80e9, 2.04e12, Link(2e-6, 230e9), Link(8e-6, 190e9)),
    # DGX H100: NVLink 4 at 450 GB/s a direction; eight NDR interfaces of 400 Gbit/s
    "h100": Node(989e12, 80e9, 3.35e12, Link(2e-6, 360e9), Link(8e-6, 370e9)),
    "h200": Node(989e12, 141e9, 4.8e12, Link(2e-6, 360e9), Link(8e-6, 370e9)),
}
"""Bandwidths of links are what collectives reach on them, measured by nccl-tests; see docs/throughput.md."""

LAUNCH = {0: (1.4e-3, 3.6e-3), 1: (1.7e-3, 4.0e-3), 2: (2.1e-3, 4.7e-3), 3: (7.7e-3, 14.6e-3)}
"""ZeRO stage -> seconds that a host takes to launch a layer's forward and backward pass, without and with computing the
layer again; no GPU computes it faster. By ``benchmarks/launch_time.py``, on a CPU."""


def launch_times(*, recompute: bool) -> dict[int, float]:
    """One of the two columns of LAUNCH."""
    return {stage: seconds[recompute] for stage, seconds in LAUNCH.items()}


EFFICIENCY = {"a100": 0.55, "h100": 0.45, "h200": 0.45}
"""Share of the peak that training reaches in forward and backward passes alone, where nothing was measured."""
