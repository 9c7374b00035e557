"""Everything that only a GPU can show: kernels against their references for real, losslessness, and speed.

make gpu-check            (python -m benchmarks.gpu_check [--json FILE] [--markdown FILE])

Runs the kernels' own tests on the device, decodes real prompts of the embedded model plainly and speculatively and
compares them token by token, fills the table that picks a GEMM, and times every kernel beside what torch (and, where
installed, flash-attn and flashinfer) offers. Without a GPU it says so, claims nothing, and exits with 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from specdec.kernels.device import triton_runs
from specdec.measure.environment import machine
from specdec.measure.results import save

TESTS = ("tests/kernels/test_triton_attention.py", "tests/kernels/test_triton_linear.py",
         "tests/kernels/test_triton_norm.py", "tests/kernels/test_triton_verdicts.py",
         "tests/models/test_triton_model.py")  # fmt: skip
HEADS, KV_HEADS, HEAD_SIZE = 32, 8, 128
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
"""Of a Llama with 8 billion parameters."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def run_tests() -> dict[str, Any]:
    """The kernels' tests in a process of its own: what passed, what did not, and the last lines if anything failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "summary": lines[-1] if lines else done.stderr[-300:],
            "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))]}  # fmt: skip


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


def lossless(max_tokens: int = 96) -> dict[str, Any]:
    """Texts of the embedded model that speculation left as they were, of all, by dtype and drafter."""
    from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
    from specdec.models.loading import load
    from specdec.prompts import load_prompts

    results: dict[str, Any] = {}
    chats = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)]
    for dtype in ("bfloat16", "float16", "int8"):
        loaded = load(dtype=dtype, device="cuda")
        greedy = [SamplingParams(max_tokens=max_tokens) for _ in chats]
        seeded = [SamplingParams(max_tokens=max_tokens, temperature=0.8, seed=seed) for seed in range(len(chats))]
        for name, params, rule in (("greedy", greedy, "auto"), ("seeded", seeded, "gumbel")):
            one = EngineConfig(num_blocks=2048, max_num_seqs=1)
            plain = SpeculativeGenerator(loaded, "none", rule, config=one).generate(chats, params)
            for drafter, options in (("ngram", {}), ("ngram", {"branches": 3}), ("early_exit", {})):
                config = EngineConfig(num_blocks=2048, max_num_seqs=8)
                generator = SpeculativeGenerator(loaded, drafter, rule, drafter_options=options, config=config)
                texts = generator.generate(chats, params)
                same = sum(a.token_ids == b.token_ids for a, b in zip(texts, plain, strict=True))
                results[f"{dtype}, {drafter} {options or ''}, {name}"] = {"identical": same, "of": len(chats)}
    return results


def attention_inputs(batch: int, rows: int, context: int) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Queries, keys, values in scattered slots, and the plan."""
    from specdec.kernels.attention import SequenceColumns
    from specdec.kernels.attention.plan import AttentionPlan
    from specdec.kernels.attention.triton import config_for

    total = batch * (context + rows)
    slots = torch.randperm(total).split(context + rows)
    query = torch.randn(batch * rows, HEADS, HEAD_SIZE, device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(total, KV_HEADS, HEAD_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    tile = config_for(query.dtype).rows_per_tile(HEADS, KV_HEADS)
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
    for block_n, block_k, warps, stages in product((32, 64, 128), (64, 128, 256), (4, 8), (2, 3, 4)):
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


def engine() -> dict[str, Any]:
    """Tokens per second of the embedded model, plain and speculating, the prompts taking turns."""
    from benchmarks.passes import seconds
    from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
    from specdec.models.loading import load
    from specdec.prompts import load_prompts

    loaded = load(dtype="bfloat16", device="cuda")
    chats = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)]
    params = SamplingParams(max_tokens=128)
    generators = {
        drafter: SpeculativeGenerator(loaded, drafter, config=EngineConfig(num_blocks=2048, max_num_seqs=1))
        for drafter in ("none", "ngram")
    }
    for generator in generators.values():
        generator.generate(chats, params)
    times: dict[str, list[float]] = {drafter: [] for drafter in generators}
    for _ in range(5):
        for drafter, generator in generators.items():
            times[drafter].append(seconds(lambda g=generator: g.generate(chats, params)))  # type: ignore[misc]
    return {"ratio": median(a / b for a, b in zip(times["none"], times["ngram"], strict=True)), "seconds": times}


def markdown(results: dict[str, Any]) -> str:
    """A page."""
    tests = results["tests"]
    lines = ["# On a GPU", "", f"`make gpu-check` on {results['device']}.", "", f"Kernel tests: {tests['summary']}", ""]
    lines += [f"- {failure}" for failure in tests["failures"]]
    lines += ["", "| texts unchanged by speculation | |", "|---|---|"]
    lines += [f"| {name} | {r['identical']}/{r['of']} |" for name, r in results["lossless"].items()]
    for group in ("attention", "linear", "tuned"):
        columns = list(dict.fromkeys(key for result in results[group] for key in result))
        lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for result in results[group]:
            cells = [result.get(key, "") for key in columns]
            lines.append("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    lines += ["", f"Speculating (n-gram) over plain, embedded model, batch 1: {results['engine']['ratio']:.2f}", ""]
    return "\n".join(lines)


def main() -> None:
    """Checks and measures; exits 1 if a kernel is wrong or a text changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=Path("docs/results/gpu-check.json"))
    parser.add_argument("--markdown", type=Path, default=Path("docs/gpu.md"))
    args = parser.parse_args()
    if not triton_runs("cuda"):
        print("There is no GPU here that Triton compiles for: nothing was checked, nothing is claimed.")
        return
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "tests": run_tests(), "lossless": lossless()}
    results["attention"], results["linear"] = list(attention()), list(linear())
    results["tuned"] = list(tuned())
    results["table"], results["engine"] = table_of(results["linear"]), engine()
    save(args.json, "benchmarks.gpu_check", results)
    page = markdown(results)
    args.markdown.write_text(page, encoding="utf-8")
    print(machine(), page, sep="\n")
    unchanged = all(result["identical"] == result["of"] for result in results["lossless"].values())
    sys.exit(not (results["tests"]["passed"] and unchanged))


if __name__ == "__main__":
    main()
