"""Kernels on a GPU beside what torch, flash-attn and flashinfer offer: see gpu_check.py, which runs this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

HEADS, KV_HEADS, HEAD_SIZE = 32, 8, 128
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
"""Of a Llama with 8 billion parameters."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def milliseconds(call: Callable[[], object], repeats: int = 20) -> float:
    """Median over events on the device; buffers larger than its cache are written in between."""
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    times = []
    for index in range(repeats + 3):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if index >= 3:
            times.append(begin.elapsed_time(end))
    return median(times)


def attention_inputs(batch: int, rows: int, context: int) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Queries, keys, values in scattered slots, and the plan."""
    from specdec.kernels.attention import SequenceColumns
    from specdec.kernels.attention.plan import AttentionPlan
    from specdec.kernels.attention.triton import config_for

    total = batch * (context + rows)
    slots = torch.randperm(total).split(context + rows)
    query = torch.randn(batch * rows, HEADS, HEAD_SIZE, device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(total, KV_HEADS, HEAD_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    tile = config_for(query.dtype, HEAD_SIZE).rows_per_tile(HEADS, KV_HEADS)
    columns = SequenceColumns([rows] * batch, [context] * batch, [0] * batch, slots, [None] * batch)
    plan = AttentionPlan.of(columns, tile, "cuda")
    return query, keys, values, plan


def attention() -> Iterator[dict[str, Any]]:
    """Decoding and verifying over paged keys, beside torch over dense ones, which need not be gathered."""
    from specdec.kernels.attention.triton import triton_attention

    peers = {name: find_spec(name) is not None for name in ("flash_attn", "flashinfer")}
    for batch, rows, context in ((1, 1, 4096), (1, 8, 4096), (8, 1, 4096), (8, 8, 4096), (1, 512, 0), (1, 1, 65536)):
        query, keys, values, plan = attention_inputs(batch, rows, context)
        scale = HEAD_SIZE**-0.5
        ours = milliseconds(lambda q=query, k=keys, v=values, p=plan, s=scale: triton_attention(q, k, v, p, s))
        q = query.view(batch, rows, HEADS, HEAD_SIZE).transpose(1, 2)
        k, v = (t.view(batch, -1, KV_HEADS, HEAD_SIZE).transpose(1, 2) for t in (keys, values))
        mask = torch.ones(rows, context + rows, dtype=torch.bool, device="cuda").tril(context)
        sdpa = milliseconds(
            lambda q=q, k=k, v=v, m=mask: torch.nn.functional.scaled_dot_product_attention(q, k, v, m, enable_gqa=True)
        )
        moved = 2 * keys.numel() * keys.element_size()
        result = {"kernel": "attention", "batch": batch, "rows": rows, "context": context, "ms": ours, "sdpa_ms": sdpa,
                  "gb_s": moved / ours / 1e6}  # fmt: skip
        if peers["flash_attn"]:
            from flash_attn import flash_attn_func  # type: ignore[import-not-found]

            parts = [t.transpose(1, 2).contiguous() for t in (q, k, v)]
            result["flash_attn_ms"] = milliseconds(lambda parts=parts: flash_attn_func(*parts, causal=True))
        if peers["flashinfer"] and batch == 1:
            from flashinfer import single_prefill_with_kv_cache  # type: ignore[import-not-found]

            result["flashinfer_ms"] = milliseconds(
                lambda q=query, k=keys, v=values: single_prefill_with_kv_cache(q, k, v, causal=True)
            )
        yield result


def linear() -> Iterator[dict[str, Any]]:
    """Flat GEMM, GEMV and the library's, by rows; and from which number of rows on each is fastest."""
    from specdec.kernels.linear.reference import quantize_rows
    from specdec.kernels.linear.triton import LinearTable, triton_linear

    for name, (n, k) in SHAPES.items():
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        codes, scales = quantize_rows(weight)
        gemv = LinearTable((10**9, 0), row_invariant=False)
        for rows in ROWS:
            x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
            x8, x_scales = quantize_rows(x)
            times = {
                "flat": milliseconds(lambda x=x, w=weight: triton_linear(x, w)),
                "library": milliseconds(lambda x=x, w=weight: torch.nn.functional.linear(x, w)),
                "w8a8": milliseconds(
                    lambda x=x8, w=codes, xs=x_scales, ws=scales: triton_linear(x, w, None, xs, ws, torch.bfloat16)
                ),
            }
            if rows == 1:
                times["gemv"] = milliseconds(lambda x=x, w=weight, t=gemv: triton_linear(x, w, table=t))
            yield {"kernel": f"linear {name}", "rows": rows, "n": n, "k": k, **times,
                   "gb_s": weight.numel() * 2 / times["flat"] / 1e6,
                   "tflop_s": 2 * rows * n * k / times["flat"] / 1e9}  # fmt: skip


def tuned() -> Iterator[dict[str, Any]]:
    """Sizes of the kernels that were tried, fastest first. A model keeps to one of them: its bits depend on it."""
    from specdec.kernels.attention.triton import AttentionConfig, triton_attention
    from specdec.kernels.linear.triton import FlatConfig, triton_linear

    query, keys, values, plan = attention_inputs(8, 8, 4096)  # made for as many queries a tile as all of these have
    tried: list[dict[str, Any]] = []
    for block_n, warps, stages in product((32, 64, 128), (4, 8), (2, 3)):
        config = AttentionConfig(block_n=block_n, num_warps=warps, num_stages=stages)
        call = partial(triton_attention, query, keys, values, plan, HEAD_SIZE**-0.5, config=config)
        tried.append({"kernel": "attention", "config": str(config), "ms": _attempt(call)})
    n, k = SHAPES["gate_up"]
    x = torch.randn(8, k, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    for block_n, block_k, warps, stages in product((32, 64, 128), (128, 256), (4, 8), (3, 4)):
        flat = FlatConfig(block_n=block_n, block_k=block_k, num_warps=warps, num_stages=stages)
        tried.append(
            {"kernel": "linear", "config": str(flat), "ms": _attempt(partial(triton_linear, x, weight, config=flat))}
        )
    yield from sorted(tried, key=lambda result: (result["kernel"], result["ms"]))


def _attempt(call: Callable[[], object]) -> float:
    """Milliseconds; infinite for sizes that do not fit the device."""
    from triton.runtime.errors import OutOfResources

    try:
        return milliseconds(call, 10)
    except OutOfResources:
        return float("inf")


def table_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The thresholds that `LinearTable` takes, from what was measured."""
    by_shape: dict[str, tuple[int, int]] = {}
    for n, k in {(r["n"], r["k"]) for r in results}:
        own = [r for r in results if (r["n"], r["k"]) == (n, k)]
        gemv = int(any(r.get("gemv", float("inf")) < min(r["flat"], r["library"]) for r in own))
        flat = max([r["rows"] for r in own if r["flat"] <= r["library"]], default=0)
        by_shape[f"{n}×{k}"] = (gemv, flat)
    return {"default": (1, 64), "by_shape": by_shape}
