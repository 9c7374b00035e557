"""The figures of a job, out of its rows."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from specdec.measure.drafters import along_the_text, by_drafter
from specdec.measure.metrics import (
    cost_ratio,
    credible,
    drafting_cost,
    percentile,
    predicted_speedup,
    speedup,
    speedup_interval,
    speedup_with_prefill,
)
from specdec.measure.rows import PromptRow
from specdec.stats import DecodingStats

STATUS = Path("/proc/self/status")
"""Where Linux tells a process of itself."""


def summarize(
    rows: Sequence[PromptRow],
    batch: int = 1,
    curve: Callable[[int], float] | None = None,
    drafter_bytes: int = 0,
    evicted_tokens: int = 0,
    **further: Any,
) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        rows: of all prompts, at least one.
        batch: sequences that were decoded together.
        curve: seconds of a pass by its rows, if it was measured.
        drafter_bytes: most that the drafters held.
        evicted_tokens: tokens that went from the prefix cache for others.
        further: more entries (calibration, certificate, …).
    """
    stats = DecodingStats.total(row.stats for row in rows)
    categories = list(dict.fromkeys(row.category for row in rows))
    memory = {"drafter_memory_mb": drafter_bytes / 2**20, "peak_memory_mb": peak_memory() / 2**20}
    return {
        "metrics": scalars(rows, batch, curve) | memory | {"evicted_tokens": evicted_tokens},
        "by_category": {
            name: scalars([row for row in rows if row.category == name], batch, curve) for name in categories
        },
        "acceptance_by_position": stats.acceptance_by_position,
        "cumulative_acceptance_by_position": stats.cumulative_acceptance,
        "acceptance_histogram": stats.acceptance_histogram,
        "by_drafter": by_drafter(rows),
        "along_the_text": along_the_text(rows),
        **further,
    }


def scalars(rows: Sequence[PromptRow], batch: int, curve: Callable[[int], float] | None) -> dict[str, Any]:
    """Every single number of some prompts; the names are those of the dashboards."""
    stats = DecodingStats.total(row.stats for row in rows)
    gaps = [1e3 * gap for row in rows for gap in row.gaps_seconds]
    drafts = [step.drafted + 1 for row in rows for step in row.steps]
    judged = [row.identical for row in rows if row.identical is not None]
    whole = stats.decode_seconds or 1.0
    return {
        "prompts": len(rows),
        "output_tokens": stats.output_tokens,
        "tau": stats.mean_accepted_length,
        "alpha": stats.acceptance_rate,
        "tokens_per_second": stats.tokens_per_second,
        **_against_plain(rows),
        "predicted_speedup": predicted_speedup(stats, drafts, curve, batch) if curve is not None and drafts else None,
        "draft_share": stats.draft_seconds / whole,
        "verify_share": stats.verify_seconds / whole,
        "host_share": stats.host_seconds / whole,
        "drafted_tokens": stats.drafted_tokens,
        "wasted_tokens": stats.wasted_tokens,
        "wasted_share": stats.wasted_tokens / stats.drafted_tokens if stats.drafted_tokens else 0.0,
        "identical": sum(judged) if judged else None,
        "comparable": len(judged),
        "ttft_ms": 1e3 * median(row.ttft_seconds for row in rows),
        "itl_p50_ms": percentile(gaps, 0.50),
        "itl_p95_ms": percentile(gaps, 0.95),
        "itl_p99_ms": percentile(gaps, 0.99),
        "cached_tokens": stats.cached_tokens,
        "prefix_hit_rate": stats.prefix_hit_rate,
        "saved_prefill_seconds": stats.saved_prefill_seconds,
        "kv_occupancy": sum(row.kv_occupancy for row in rows) / len(rows),
        "kv_waste": sum(row.kv_waste for row in rows) / len(rows),
    }


def _against_plain(rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Only prompts that both sides decoded; None throughout if there is none."""
    paired = [(row.plain_stats, row.stats) for row in rows if row.plain_stats is not None]
    names = ("plain_tokens_per_second", "speedup", "speedup_low", "speedup_high", "speedup_with_prefill", "cost_ratio",
             "drafting_cost")  # fmt: skip
    if not paired:
        return dict.fromkeys(names) | {"credible": True}
    plain, speculative = [pair[0] for pair in paired], [pair[1] for pair in paired]
    totals = DecodingStats.total(plain), DecodingStats.total(speculative)
    ratio = speedup(plain, speculative)
    low, high = speedup_interval(plain, speculative)
    whole, costs = speedup_with_prefill(*totals), (cost_ratio(*totals), drafting_cost(*totals))
    values = (totals[0].tokens_per_second, ratio, low, high, whole, *costs)
    return dict(zip(names, values, strict=True)) | {"credible": credible(plain, speculative)}


def peak_memory() -> int:
    """Bytes: of the GPU's allocator if one is in use, else the most that this process has held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_host_memory()


def peak_host_memory() -> int:
    """Most bytes that this process has held."""
    if STATUS.is_file():  # what getrusage says begins with what the parent held when it started this process
        [line] = [line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
