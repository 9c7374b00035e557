"""Everything that only a GPU can show: kernels against their references for real, losslessness, and speed.

make gpu-check            (python -m benchmarks.gpu_check [--only PARTS] [--json FILE] [--markdown FILE] [--log FILE])

Runs the kernels' own tests on the device, decodes real prompts of the embedded model plainly and speculatively and
compares them token by token, fills the table that picks a GEMM, and times every kernel beside what torch (and, where
installed, flash-attn and flashinfer) offers. Without a GPU it says so, claims nothing, and exits with 0.

Each part is saved as soon as it is done, and one that breaks leaves the others alone. Parts that are not run keep what
the result file has of them, if it is of the same device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_kernels import attention, linear, table_of, tuned
from benchmarks.gpu_large import large
from specdec.kernels.device import triton_runs
from specdec.measure.environment import machine
from specdec.measure.results import save

TESTS = ("tests/kernels/test_triton_attention.py", "tests/kernels/test_triton_linear.py",
         "tests/kernels/test_triton_norm.py", "tests/kernels/test_triton_verdicts.py",
         "tests/models/test_triton_model.py", "tests/heads/test_triton_runs.py",
         "tests/heads/test_triton_trees.py")  # fmt: skip
Named = tuple[str, dict[str, Any]]
HEAD: Named = ("head", {})
TABLES: Named = ("cascade", {"stages": ["head", "suffix", "recycling"]})
DRAFTERS: tuple[Named, ...] = (
    ("ngram", {}), ("ngram", {"branches": 3}), ("recycling", {}), ("suffix", {}), ("retrieval", {}), ("lookahead", {}),
    ("early_exit", {}), HEAD, TABLES,
)  # fmt: skip
"""Chains, trees, one that reads the largest logits, some of native code, some that run the model or a head."""
TIMED: tuple[Named, ...] = (("none", {}), ("ngram", {}), HEAD)
"""Those that remember no text, for the same prompts come again and again."""
ROUNDS = 5


def run_tests(log: Path | None = None) -> dict[str, Any]:
    """The kernels' tests in processes of their own: what passed, and what did not.

    Args:
        log: where all that pytest prints goes; None drops it.
    """
    workers = str(min(8, os.cpu_count() or 1))  # most of the time goes into compiling, on the CPU
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "--tb=short", "--durations=10", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if log is not None:
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "summary": lines[-1] if lines else done.stderr[-300:],
            "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))]}  # fmt: skip


def lossless(max_tokens: int = 96) -> dict[str, Any]:
    """Texts of the embedded model that speculation left as they were, of all, by dtype and drafter."""
    from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
    from specdec.models.loading import load
    from specdec.prompts import load_prompts

    results: dict[str, Any] = {}
    chats = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)]
    for dtype, drafters in (("bfloat16", DRAFTERS), ("float16", (DRAFTERS[1], HEAD)), ("int8", (*DRAFTERS[1:3], HEAD))):
        loaded = load(dtype=dtype, device="cuda")
        greedy = [SamplingParams(max_tokens=max_tokens) for _ in chats]
        seeded = [SamplingParams(max_tokens=max_tokens, temperature=0.8, seed=seed) for seed in range(len(chats))]
        for name, params, rule in (("greedy", greedy, "auto"), ("seeded", seeded, "gumbel")):
            one = EngineConfig(num_blocks=2048, max_num_seqs=1)
            plain = SpeculativeGenerator(loaded, "none", rule, config=one).generate(chats, params)
            for drafter, options in drafters:
                config = EngineConfig(num_blocks=2048, max_num_seqs=8)
                found = results[f"{dtype}, {drafter} {options or ''}, {name}"] = {"identical": 0, "of": len(chats)}
                try:
                    generator = SpeculativeGenerator(loaded, drafter, rule, drafter_options=options, config=config)
                    texts = generator.generate(chats, params)
                except Exception:  # the others are worth knowing
                    found["broken"] = traceback.format_exc(limit=-4)
                    continue
                found["identical"] = sum(a.token_ids == b.token_ids for a, b in zip(texts, plain, strict=True))
    return results


def engine() -> Iterator[dict[str, Any]]:
    """The embedded model speculating over plain decoding, by batch, drafter and policy, all taking turns."""
    from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
    from specdec.models.loading import load
    from specdec.prompts import load_prompts
    from specdec.stats import DecodingStats

    loaded = load(dtype="bfloat16", device="cuda")
    chats = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)] * 2
    params = SamplingParams(max_tokens=128)
    for batch in (1, 8):
        config = EngineConfig(num_blocks=2048, max_num_seqs=batch, prefix_cache=False)
        contenders = {
            (drafter, policy): SpeculativeGenerator(
                loaded, drafter, config=config, drafter_options=options, policy=policy
            )
            for drafter, options in TIMED
            for policy in (("always",) if drafter == "none" else ("always", "product"))
        }
        times: dict[tuple[str, str], list[float]] = {name: [] for name in contenders}
        stats: dict[tuple[str, str], DecodingStats] = {}
        for turn in range(ROUNDS + 1):  # the first compiles and captures
            for name, generator in contenders.items():
                began = time.perf_counter()
                texts = generator.generate(chats, params)
                if turn:
                    times[name].append(time.perf_counter() - began)
                stats[name] = DecodingStats.total(text.stats for text in texts)
        for drafter, policy in contenders:
            tau = stats[drafter, policy].mean_accepted_length
            ratios = [a / b for a, b in zip(times["none", "always"], times[drafter, policy], strict=True)]
            yield {"batch": batch, "drafter": drafter, "policy": policy, "tau": tau, "ratio": median(ratios),
                   "least": min(ratios), "most": max(ratios), "seconds": times[drafter, policy]}  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """A page of the parts that there are."""
    lines = ["# On a GPU", "", f"`make gpu-check` on {results['device']}.", ""]
    if tests := results.get("tests"):
        lines += [f"Kernel tests: {tests['summary']}", "", *(f"- {failure}" for failure in tests["failures"])]
    if texts := results.get("lossless"):
        lines += ["", "| texts unchanged by speculation | |", "|---|---|"]
        lines += [f"| {name} | {r['identical']}/{r['of']} |" for name, r in texts.items()]
        broken = {name: r["broken"] for name, r in texts.items() if "broken" in r}
        lines += ["", *(f"{name}:\n```\n{trace}```" for name, trace in broken.items())] if broken else []
    groups = [results.get(group, ()) for group in ("attention", "linear", "tuned", "engine")]
    for group in (*groups, *results.get("large", {}).values()):
        columns = [key for key in dict.fromkeys(key for result in group for key in result) if key != "seconds"]
        lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)] if columns else []
        for result in group:
            cells = [result.get(key, "") for key in columns]
            lines.append("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    lines += ["", *(f"{part} broke:\n```\n{trace}```" for part, trace in results.get("broken", {}).items())]
    return "\n".join(lines).rstrip() + "\n"


def check(parts: Mapping[str, Callable[[], Any]], results: dict[str, Any], keep: Callable[[], None]) -> None:
    """Runs parts in turn.

    Args:
        parts: name → what runs it.
        results: what is known so far; each part is added to it.
        keep: called after each part.
    """
    for part, run in parts.items():
        began = time.monotonic()
        results.setdefault("broken", {}).pop(part, None)
        results.pop(part, None)
        try:
            results[part] = run()
        except Exception:  # whatever broke, the other parts are worth knowing
            results["broken"][part] = traceback.format_exc(limit=-8)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
        keep()


def parts_of(log: Path | None) -> dict[str, Callable[[], Any]]:
    """All parts by their names; `log` is that of `run_tests`."""
    return {
        "tests": partial(run_tests, log),
        "attention": lambda: list(attention()),
        "linear": lambda: list(linear()),
        "lossless": lossless,
        "engine": lambda: list(engine()),
        "large": large,
        "tuned": lambda: list(tuned()),
    }


def main() -> None:
    """Checks and measures; exits 1 if a kernel is wrong, a text changed or a part broke."""
    names = tuple(parts_of(None))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}, with commas between")
    parser.add_argument("--json", type=Path, default=Path("docs/results/gpu-check.json"))
    parser.add_argument("--markdown", type=Path, default=Path("docs/results/gpu-check.md"))
    parser.add_argument("--log", type=Path, help="where what pytest prints goes")
    args = parser.parse_args()
    only = args.only.split(",")
    if unknown := [part for part in only if part not in names]:
        parser.error(f"{', '.join(unknown)}: no such part. There are {', '.join(names)}.")
    if not triton_runs("cuda"):
        print("There is no GPU here that Triton compiles for: nothing was checked, nothing is claimed.")
        return
    device = torch.cuda.get_device_name()
    known = json.loads(args.json.read_text(encoding="utf-8"))["results"] if args.json.is_file() else {}
    results: dict[str, Any] = known if known.get("device") == device else {"device": device}

    def keep() -> None:
        table = {"table": table_of(results["linear"])} if "linear" in results else {}
        save(args.json, "benchmarks.gpu_check", results | table)
        args.markdown.write_text(markdown(results), encoding="utf-8")

    parts = parts_of(args.log)
    check({name: parts[name] for name in only}, results, keep)
    print(machine(), markdown(results), sep="\n")
    unchanged = all(result["identical"] == result["of"] for result in results.get("lossless", {}).values())
    sys.exit(not (results.get("tests", {}).get("passed", True) and unchanged and not results["broken"]))


if __name__ == "__main__":
    main()
