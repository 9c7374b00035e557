"""The report as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.contenders import BASELINE, FLAGS
from benchmarks.peers.report import BY_NAME


def markdown(report: dict[str, Any]) -> str:
    """Tables of a report, as `python -m benchmarks.peers --json` writes it; command and machine are the page's part."""
    parts = [_heading(report), _versions(report["versions"])]
    for size, batch in report["batch"].items():
        parts += _precisions(size, batch, report["perplexity"])
    parts += [_ratios(report["ratios"]), _left_out(report["left_out"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(report: dict[str, Any]) -> str:
    return (
        f"{report['model']}, greedy, at most {report['max_tokens']} new tokens, {report['threads']} threads each, "
        f"{report['repeats']} interleaved repetitions; whole calls, prefill included; medians with ranges. "
        f"Contenders of one precision take turns, and {BASELINE} with them. Perplexity is on English prose and code, "
        "as each engine computes it."
    )


def _versions(versions: dict[str, dict[str, str]]) -> str:
    lines = ["| engine | versions | how |", "|---|---|---|"]
    for engine, packages in versions.items():
        listed = ", ".join(f"{name} {number}" for name, number in packages.items())
        lines.append(f"| {engine} | {listed} | {FLAGS[engine]} |")
    return "\n".join(lines)


def _precisions(size: str, batch: dict[str, Any], perplexity: dict[str, float]) -> list[str]:
    """A table for each precision, and one of the fastest contender of each engine."""
    contenders = batch["contenders"]
    parts = [f"### Batch {size}", f"{batch['prompts']} prompts, {batch['mean_batch']:.1f} at a time on average."]
    for bits in dict.fromkeys(each["bits"] for each in contenders.values()):
        parts.append(f"**{bits} bits**")
        parts.append(_table([name for name in contenders if contenders[name]["bits"] == bits], contenders, perplexity))
    best: dict[str, str] = {}
    for name in sorted(contenders, key=lambda name: -_speed(contenders[name])):
        best.setdefault(name.split("-")[0], name)
    if len(best) > 1:
        parts += ["**The fastest of each engine, at any precision**", _table([*best.values()], contenders, perplexity)]
    return parts


def _table(names: list[str], contenders: dict[str, Any], perplexity: dict[str, float]) -> str:
    lines = [
        f"| contender | tokens/s | ratio to {BASELINE} beside it | same text as own plain | perplexity |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        each, own = contenders[name], perplexity.get(BY_NAME[name].plain)
        same = each["same_as_plain"]
        lines.append(
            f"| {name} | {_spread(each['tokens_per_second'], 1)} | {_spread(each['ratio_to_baseline'], 2)} "
            f"| {'' if same is None else '{same}/{of}'.format(**same)} | {'' if own is None else f'{own:.2f}'} |"
        )
    return "\n".join(lines)


def _speed(contender: dict[str, Any]) -> float:
    """A multiple of the baseline's, or tokens/s if it took no part."""
    found: dict[str, float] = contender["ratio_to_baseline"] or contender["tokens_per_second"]
    return found["median"]


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
