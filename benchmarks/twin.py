"""The roofline twin beside the engine: predicted and measured time of a pass by its rows, on this CPU.

python -m benchmarks.twin [--json FILE] [--context 256] [--repeats 9]

What the twin knows of this machine (reading speed, products and attention within the cache, the start of a phase) is
measured in the same run, by kernels alone; no pass of the model enters it. The two take turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from benchmarks.passes import copies, passer, seconds
from specdec.analysis.devices import this_cpu
from specdec.analysis.roofline import SMOLLM2_135M, Workload
from specdec.measure.environment import machine
from specdec.measure.results import save

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
GOAL = 0.15
"""Most that a prediction may be off."""


def measure(dtype: str, context: int, repeats: int) -> dict[int, dict[str, float]]:
    """Rows → milliseconds measured and predicted, and the median of their ratio."""
    run = passer(copies(dtype), context)
    kv = "float32" if dtype == "float32" else "bfloat16"
    rounds: list[dict[int, tuple[float, float]]] = []
    for _ in range(repeats + 1):
        device = this_cpu(dtype, kv)
        workload = Workload(SMOLLM2_135M, device, 1, context, dtype, kv)
        rounds.append({n: (seconds(lambda n=n: run(n)), workload.pass_seconds(n)) for n in ROWS})  # type: ignore[misc]
    kept = rounds[1:]  # the first warms up
    return {
        n: {
            "measured_ms": 1e3 * median(each[n][0] for each in kept),
            "predicted_ms": 1e3 * median(each[n][1] for each in kept),
            "ratio": median(each[n][1] / each[n][0] for each in kept),
        }
        for n in ROWS
    }


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """Markdown: predicted over measured."""
    lines = [
        f"| predicted / measured | {' | '.join(f'{n} rows' for n in ROWS)} | worst |",
        "|" + "---|" * (len(ROWS) + 2),
    ]
    for dtype, by_rows in results.items():
        ratios = [by_rows[n]["ratio"] for n in ROWS]
        worst = max(abs(ratio - 1) for ratio in ratios)
        verdict = f"{worst:.0%}, goal {GOAL:.0%}: {'met' if worst <= GOAL else 'missed'}"
        lines.append(f"| {dtype} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    results = {dtype: measure(dtype, args.context, args.repeats) for dtype in ("float32", "bfloat16", "int8", "gguf")}
    print(f"SmolLM2-135M, {args.context} cached tokens, {machine()}", "", table(results), sep="\n")
    save(args.json, "benchmarks.twin", results, context=args.context)


if __name__ == "__main__":
    main()
