"""The report as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Tables of a report, as `python -m benchmarks.peers --json` writes it; command and machine are the page's part."""
    parts = [_heading(report), _versions(report["versions"])]
    parts += [_contenders(size, batch) for size, batch in report["batch"].items()]
    parts += [_ratios(report["ratios"]), _left_out(report["left_out"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(report: dict[str, Any]) -> str:
    return (
        f"{report['model']}, greedy, at most {report['max_tokens']} new tokens, {report['threads']} threads each, "
        f"{report['repeats']} interleaved repetitions; whole calls, prefill included; medians with ranges."
    )


def _versions(versions: dict[str, dict[str, str]]) -> str:
    listed = (", ".join(f"{name} {number}" for name, number in packages.items()) for packages in versions.values())
    return "Engines: " + "; ".join(listed) + "."


def _contenders(size: str, batch: dict[str, Any]) -> str:
    lines = [
        f"### Batch {size}",
        f"{batch['prompts']} prompts, {batch['mean_batch']:.1f} at a time on average.",
        "",
        "| contender | tokens/s | ratio to ours, plain, bf16 | same output as own plain |",
        "|---|---|---|---|",
    ]
    for name, contender in batch["contenders"].items():
        same = contender["same_as_plain"]
        lines.append(
            f"| {name} | {_spread(contender['tokens_per_second'], 1)} | {_spread(contender['ratio_to_baseline'], 2)} "
            f"| {'' if same is None else '{same}/{of}'.format(**same)} |"
        )
    return "\n".join(lines)


def _ratios(ratios: dict[str, Any]) -> str:
    if not ratios:
        return ""
    lines = ["### Ratios of tokens/s", "| ratio | of | to | overall | by category |", "|---|---|---|---|---|"]
    for key, entry in ratios.items():
        categories = (f"{name} {found['median']:.2f}" for name, found in entry["by_category"].items() if found)
        lines.append(
            f"| {key} | {entry['over']} | {entry['under']} | {_spread(entry['overall'], 2)} | {', '.join(categories)} |"
        )
    return "\n".join(lines)


def _left_out(reasons: dict[str, str]) -> str:
    if not reasons:
        return ""
    return "\n".join(["### Left out", *(f"- {name}: {reason}" for name, reason in reasons.items())])


def _spread(found: dict[str, float] | None, digits: int) -> str:
    if found is None:
        return ""
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f} to {found['max']:.{digits}f})"
