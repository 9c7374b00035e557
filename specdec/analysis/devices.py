"""What devices can do: published peaks of GPUs, and what this CPU shows when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from specdec.errors import ConfigError
from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.memory import huge
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import pack

COMPUTES = {"int8_weight": "bfloat16"}
"""What multiplies a form of weights on a GPU, where that is not the form's own name."""
MEASURED_AS = {"gguf": "int4"}
"""Whose products stand for those of a form of weights that float weights cannot be brought into."""
COLD = 96 << 20
"""Bytes of weights that take turns, so that none is found in a last-level cache."""


@dataclass(frozen=True)
class Device:
    """What the roofline needs to know of a device.

    Args:
        name: what it is called.
        bandwidth: bytes per second from memory.
        peak: operations per second: of matrix products by dtype, of "attention" and of "vector" work.
        overlap: of reading and computing: with 1 the longer of the two counts (the roofline), with 0 their sum.
        cache_bandwidth: bytes per second at which attention brings keys and values into the form that it computes with.
        launch: seconds that starting a kernel adds, in a captured graph or within a native pass.
        host: seconds that the host adds to a step.
        memory: bytes.
        source: where the numbers come from.
    """

    name: str
    bandwidth: float
    peak: dict[str, float] = field(hash=False)
    overlap: float
    cache_bandwidth: float
    launch: float
    host: float
    memory: float
    source: str


def _gpu(name: str, bandwidth: float, half: float, eight: float, single: float, memory: float, source: str) -> Device:
    """From dense peaks in TFLOP/s and terabytes per second. Starting a node of a graph takes about 1.5 µs."""
    peak = {"bfloat16": half, "float16": half, "attention": half, "int8": eight, "float8": eight, "float32": single,
            "vector": single}  # fmt: skip
    scaled = {kind: 1e12 * value for kind, value in peak.items()}
    return Device(name, 1e12 * bandwidth, scaled, 1.0, 1e12 * bandwidth, 1.5e-6, 200e-6, 1e9 * memory, source)


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


def this_cpu(dtype: str = "bfloat16", kv_dtype: str = "bfloat16", size: int = 1 << 28) -> Device:
    """Measures this machine: reading, products of weights in the cache and out of it, attention, and small calls.

    Args:
        dtype, kv_dtype: forms of weights and cache that will be asked about.
        size: bytes to read; more than the last-level cache holds.

    Raises:
        ConfigError: if there are no native kernels to measure with.
    """
    kernels = native.library()
    if kernels is None:
        raise ConfigError("There are no native kernels to measure this CPU with. Install a C++ compiler.")
    memory = huge(size).fill_(1)
    bandwidth = size / _least(lambda: kernels.read(memory.data_ptr(), size, num_threads()), 7)
    small = pack(torch.randn(32, 16), "float32")
    call = _least(lambda: small(torch.zeros(1, 16)), 200)
    peak, overlap = _products(dtype, bandwidth, call)
    cache_bandwidth, attention = _attention(kv_dtype, call)
    peaks = dict.fromkeys((dtype, COMPUTES.get(dtype, dtype)), peak)
    peaks |= dict.fromkeys(("attention", "vector"), attention)
    launch = call / 2  # the other half is the way through Python
    return Device("this CPU", bandwidth, peaks, overlap, cache_bandwidth, launch, 300e-6, 16e9, "measured here")


def _products(dtype: str, bandwidth: float, call: float) -> tuple[float, float]:
    """Operations per second on weights in the cache, and how far that and reading them from memory overlap."""
    rows, k, n = 64, 576, 3072
    weight = torch.randn(n, k)
    form = MEASURED_AS.get(dtype, dtype)
    layers = [pack(weight, form)]
    layers += [pack(weight, form) for _ in range(COLD // layers[0].num_bytes)]
    x, few = torch.randn(rows, k), torch.randn(8, k)
    peak = 2 * rows * k * n / (_least(lambda: layers[0](x), 15) - call)
    cold = _least(lambda: [layer(few) for layer in layers], 3) / len(layers) - call
    reading, computing = layers[0].num_bytes / bandwidth, 2 * 8 * k * n / peak
    return peak, min(1.0, max(0.0, (reading + computing - cold) / min(reading, computing)))


def _attention(kv_dtype: str, call: float) -> tuple[float, float]:
    """Bytes of keys and values per second, and operations per second, from passes of one row and of eight."""
    context, heads, kv_heads, head = 256, 9, 3, 64
    held_as = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[kv_dtype]
    kernels = native.library()
    assert kernels is not None
    entries = [torch.randn(context + 8, kv_heads, head).to(held_as) for _ in range(2)]
    scales = [torch.ones(context + 8, kv_heads) for _ in range(2)] if held_as == torch.int8 else [None, None]
    held = key_values(entries[0], entries[1], scales[0], scales[1])

    def spent(rows: int) -> float:
        table = SequenceTable.of(SequenceColumns([rows], [context], [0], [torch.arange(context + rows)], [None]))
        query = torch.randn(rows, heads, head)
        return _least(lambda: native_attention(kernels, query, held, kv_heads, table, 0.125), 50) - call

    one, eight = spent(1), spent(8)
    a_row = max((eight - one) / 7, 1e-9)
    moved = 2 * context * kv_heads * head * held_as.itemsize
    return moved / max(one - a_row, 1e-9), 4.0 * heads * head * context / a_row


def _least(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return min(times)
