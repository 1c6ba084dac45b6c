"""What accelerators can do, by their makers' data sheets: the one table that plans are made of.

Rates are those of dense arithmetic, without structured sparsity. In float32, products run in TF32
on GPUs that have it and in bfloat16 on TPUs, which is JAX's default precision there.
"""

import dataclasses
from typing import Any

GB, TB, TFLOPS = 10**9, 10**12, 10**12
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator; rates are per second, sizes in bytes."""

    title: str
    platform: str  # 'gpu' or 'tpu'
    bfloat16: float  # FLOP/s of products; a multiply-add is two
    float32: float
    bandwidth: float  # of its memory
    memory: int
    link: float  # what it can send to the others of its group, all links together
    network: float  # its share of what connects the groups
    group: int  # chips that are joined by `link`: a host's GPUs, a TPU's pod
    tile: tuple[int, int]  # inputs and outputs of the smallest product that fills its units
    source: str
    # Of GPUs: what XLA's GpuTargetConfigProto says besides, for compiling without the hardware.
    device: dict[str, Any] = dataclasses.field(default_factory=dict)
    topology: str = ""  # of TPUs: what libtpu calls it
    axes: int = 2  # of the torus


_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_GOOGLE = "https://cloud.google.com/tpu/docs"
_PCIE_3, _PCIE_4 = 16 * GB, 32 * GB  # 16 lanes, one way


def _gpu_device(
    capability: tuple[int, int],
    cores: int,
    clock_ghz: float,
    l2_cache: int,
    shared: int,
    shared_optin: int,
    threads: int = 2048,
    fpus: int = 128,
) -> dict[str, Any]:
    """What a compiler asks of a GPU: its multiprocessors, clock, caches and shared memory."""
    return {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": shared,
        "threads_per_core_limit": threads,
        "core_count": cores,
        "fpus_per_core": fpus,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "l2_cache_size": l2_cache,
        "clock_rate_ghz": clock_ghz,
        "shared_memory_per_block_optin": shared_optin,
        "cuda_compute_capability": capability,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }


_HOPPER = _gpu_device((9, 0), 132, 1.98, 50 * 2**20, 228 * 1024, 227 * 1024)

CHIPS = {
    "h100": Chip(
        "NVIDIA H100 SXM 80 GB",
        "gpu",
        bfloat16=989.4 * TFLOPS,
        float32=494.7 * TFLOPS,
        bandwidth=3.35 * TB,
        memory=84_978_434_048,
        link=450 * GB,
        network=50 * GB,
        group=8,
        tile=(32, 64),
        source=f"{_NVIDIA}/h100",
        device=_HOPPER,
    ),
    "h200": Chip(
        "NVIDIA H200 SXM 141 GB",
        "gpu",
        bfloat16=989.4 * TFLOPS,
        float32=494.7 * TFLOPS,
        bandwidth=4.8 * TB,
        memory=150_121_545_728,
        link=450 * GB,
        network=50 * GB,
        group=8,
        tile=(32, 64),
        source=f"{_NVIDIA}/h200",
        device=_HOPPER,
    ),
    "a100": Chip(
        "NVIDIA A100 SXM 80 GB",
        "gpu",
        bfloat16=312 * TFLOPS,
        float32=156 * TFLOPS,
        bandwidth=2.039 * TB,
        memory=84_987_740_160,
        link=300 * GB,
        network=25 * GB,
        group=8,
        tile=(32, 64),
        source=f"{_NVIDIA}/a100",
        device=_gpu_device((8, 0), 108, 1.41, 40 * 2**20, 164 * 1024, 163 * 1024, fpus=64),
    ),
    "l4": Chip(
        "NVIDIA L4 24 GB",
        "gpu",
        bfloat16=121 * TFLOPS,
        float32=60 * TFLOPS,
        bandwidth=300 * GB,
        memory=23_664_525_312,
        link=_PCIE_4,
        network=1.5 * GB,
        group=8,
        tile=(32, 64),
        source=f"{_NVIDIA}/l4",
        device=_gpu_device((8, 9), 58, 2.04, 48 * 2**20, 100 * 1024, 99 * 1024, 1536),
    ),
    # It has no bfloat16: XLA computes in float32, without tensor cores.
    "t4": Chip(
        "NVIDIA T4 16 GB",
        "gpu",
        bfloat16=8.1 * TFLOPS,
        float32=8.1 * TFLOPS,
        bandwidth=320 * GB,
        memory=15_843_721_216,
        link=_PCIE_3,
        network=1.5 * GB,
        group=4,
        tile=(8, 8),
        source=f"{_NVIDIA}/tesla-t4",
        device=_gpu_device((7, 5), 40, 1.59, 4 * 2**20, 64 * 1024, 64 * 1024, 1024, 64),
    ),
    "rtx4090": Chip(
        "NVIDIA GeForce RTX 4090 24 GB",
        "gpu",
        bfloat16=165.2 * TFLOPS,
        float32=82.6 * TFLOPS,
        bandwidth=1.008 * TB,
        memory=25_386_352_640,
        link=_PCIE_4,
        network=1.25 * GB,
        group=8,
        tile=(32, 64),
        source="https://images.nvidia.com/aem-dam/Solutions/geforce/ada/"
        "nvidia-ada-gpu-architecture.pdf",
        device=_gpu_device((8, 9), 128, 2.52, 72 * 2**20, 100 * 1024, 99 * 1024, 1536),
    ),
    "v4": Chip(
        "TPU v4",
        "tpu",
        bfloat16=275 * TFLOPS,
        float32=275 * TFLOPS,
        bandwidth=1.2 * TB,
        memory=32 * GIB,
        link=300 * GB,
        network=3 * GB,
        group=4096,
        tile=(128, 128),
        source=f"{_GOOGLE}/v4",
        topology="v4",
        axes=3,
    ),
    "v5e": Chip(
        "TPU v5e",
        "tpu",
        bfloat16=197 * TFLOPS,
        float32=197 * TFLOPS,
        bandwidth=819 * GB,
        memory=16 * GIB,
        link=200 * GB,
        network=3 * GB,
        group=256,
        tile=(128, 128),
        source=f"{_GOOGLE}/v5e",
        topology="v5e",
    ),
    "v5p": Chip(
        "TPU v5p",
        "tpu",
        bfloat16=459 * TFLOPS,
        float32=459 * TFLOPS,
        bandwidth=2.765 * TB,
        memory=95 * GIB,
        link=600 * GB,
        network=6 * GB,
        group=8960,
        tile=(128, 128),
        source=f"{_GOOGLE}/v5p",
        topology="v5p",
        axes=3,
    ),
    "v6e": Chip(
        "TPU v6e",
        "tpu",
        bfloat16=918 * TFLOPS,
        float32=918 * TFLOPS,
        bandwidth=1.64 * TB,
        memory=32 * GIB,
        link=448 * GB,
        network=6 * GB,
        group=256,
        tile=(256, 256),
        source=f"{_GOOGLE}/v6e",
        topology="v6e",
    ),
}
