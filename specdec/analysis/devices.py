"""What devices can do: published peaks of GPUs, and what this CPU shows when it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import torch

from specdec.errors import ConfigError
from specdec.kernels.cpu import native


@dataclass(frozen=True)
class Device:
    """What the roofline needs to know of a device.

    Args:
        name: what it is called.
        bandwidth: bytes per second from memory.
        peak: operations per second: of matrix products by dtype, of "attention" and of "vector" work.
        launch: seconds that starting a kernel adds, in a captured graph or within a native pass.
        host: seconds that the host adds to a step.
        memory: bytes.
        source: where the numbers come from.
    """

    name: str
    bandwidth: float
    peak: dict[str, float] = field(hash=False)
    launch: float
    host: float
    memory: float
    source: str


def _gpu(name: str, bandwidth: float, half: float, eight: float, single: float, memory: float, source: str) -> Device:
    """From dense peaks in TFLOP/s and terabytes per second. Starting a node of a graph takes about 1.5 µs."""
    peak = {"bfloat16": half, "float16": half, "attention": half, "int8": eight, "float8": eight, "float32": single,
            "vector": single}  # fmt: skip
    scaled = {kind: 1e12 * value for kind, value in peak.items()}
    return Device(name, 1e12 * bandwidth, scaled, 1.5e-6, 200e-6, 1e9 * memory, source)


DEVICES = {
    device.name: device
    for device in (
        _gpu("A100", 2.039, 312, 624, 19.5, 80, "NVIDIA A100 80GB SXM data sheet"),
        _gpu("H100", 3.35, 989, 1979, 67, 80, "NVIDIA H100 SXM data sheet, without sparsity"),
        _gpu("H200", 4.8, 989, 1979, 67, 141, "NVIDIA H200 SXM data sheet, without sparsity"),
        _gpu("B200", 8.0, 2250, 4500, 80, 192, "NVIDIA DGX B200 data sheet over eight, without sparsity"),
        _gpu("MI300X", 5.3, 1307, 2615, 163, 192, "AMD Instinct MI300X data sheet, without sparsity"),
    )
}
"""Data-sheet peaks: no kernel reaches them, so predictions for these are bounds of what speculation can give."""


def _least(call: object, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        began = perf_counter()
        call()  # type: ignore[operator]
        times.append(perf_counter() - began)
    return min(times)


def this_cpu(size: int = 1 << 28) -> Device:
    """Measures this machine: reading, products of weights that lie in the cache, attention likewise, and small calls.

    Args:
        size: bytes to read; more than the last-level cache holds.

    Raises:
        ConfigError: if there are no native kernels to measure with.
    """
    from specdec.kernels.attention.native import SequenceTable, key_values, native_attention
    from specdec.kernels.cpu.memory import huge
    from specdec.kernels.cpu.threads import num_threads
    from specdec.kernels.linear import pack

    kernels = native.library()
    if kernels is None:
        raise ConfigError("There are no native kernels to measure this CPU with. Install a C++ compiler.")
    threads = num_threads()
    memory = huge(size).fill_(1)
    bandwidth = size / _least(lambda: kernels.read(memory.data_ptr(), size, threads))
    rows, k, n = 64, 576, 1536
    x, weight = torch.randn(rows, k), torch.randn(n, k)
    small = pack(torch.randn(32, 16), "float32")
    launch = _least(lambda: small(torch.zeros(1, 16), kernels), 200) / 2  # half of it is the way through Python
    peak: dict[str, float] = {}
    for kind in ("float32", "bfloat16", "int8", "int8_weight"):
        packed = pack(weight, kind)
        peak[kind] = 2 * rows * k * n / _least(lambda packed=packed: packed(x, kernels), 30)
    context, heads, kv_heads, head = 256, 9, 3, 64
    keys, values = torch.randn(context + 8, kv_heads, head), torch.randn(context + 8, kv_heads, head)
    held = key_values(keys, values, None, None)
    table = SequenceTable.build([8], [context], [0], [torch.arange(context + 8)], [None])
    query = torch.randn(8, heads, head)
    spent = _least(lambda: native_attention(kernels, query, held, kv_heads, table, 0.125), 50)
    peak["attention"] = peak["vector"] = 4.0 * heads * head * 8 * (context + 4.5) / spent
    return Device("this CPU", bandwidth, peak, launch, 300e-6, 16e9, "measured here")
