"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.serve.contenders import BASELINE
from benchmarks.serve.load import PERCENTILES
from specdec.measure.markdown import table

Rounds = Sequence[Mapping[str, Any]]
"""Of one contender under one load: what `runs.loaded` found."""
HEAD = (
    "server", "tokens/s", "ratio to ours, plain", "good requests/s", "TTFT, ms", "ITL, ms",
    "mean TTFT, ms: client's, server's clock", "client's CPU",
)  # fmt: skip
COUNTS = ("tool", "server", "by the server's counters", "by the tool")


def markdown(report: Mapping[str, Any]) -> str:
    """Tables of a report, as `python -m benchmarks.serve --json` writes it; command and machine are the page's part."""
    parts = [_heading(report)]
    parts += [_load(name, found) for name, found in report["loads"].items() if found]
    parts += [_acceptance(report), _left_out(report["left_out"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def ratios(over: Rounds, under: Rounds) -> list[float]:
    """Of tokens/s, formed within each round."""
    return [mine["tokens_per_second"] / base["tokens_per_second"] for mine, base in zip(over, under, strict=True)]


def spread(values: Iterable[float], form: str) -> str:
    """Median and range."""
    found = sorted(values)
    return f"{median(found):{form}} ({found[0]:{form}} to {found[-1]:{form}})"


def acceptance_rows(report: Mapping[str, Any]) -> list[tuple[str, str, list[int], list[int]]]:
    """Tool, contender; steps with a draft, draft tokens and accepted ones as the server counts and as the tool says.

    aiperf's are added up over all runs. A server whose answers say nothing of drafts has no row.
    """
    rows = []
    for name in dict.fromkeys(name for found in report["loads"].values() for name in found):
        runs = [run for found in report["loads"].values() for run in found.get(name, ()) if run["drafts"]]
        if runs:
            counted, told = ([sum(each) for each in zip(*(run[key] for run in runs), strict=True)] for key in SIDES)
            rows.append(("aiperf", name, counted, told))
    for name, found in report["bench"].items():
        rows.append(("vllm bench serve", name, *(found[key] or [] for key in SIDES)))
    return rows


SIDES = ("counted", "drafts")


def _heading(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return (
        f"{report['model']} in bfloat16, greedy chats of at most {report['max_tokens']} new tokens, "
        f"{report['requests']} a run, rounds: {report['rounds']}, interleaved; {report['threads']} threads each, "
        f"beside the client. A request is good if its first token takes at most {report['goals']['ttft_ms']:g} ms and "
        f"each further one {report['goals']['itl_ms']:g} ms on average. Medians over rounds, with ranges. {versions}."
    )


def _load(name: str, found: Mapping[str, Rounds]) -> str:
    kind, _, number = name.partition("=")
    title = f"{number} requests/s, a Poisson process" if kind == "rate" else f"Closed loop, clients: {number}"
    rows = [HEAD, *(_row(name, rounds, found.get(BASELINE)) for name, rounds in found.items())]
    return f"### {title}\n\nTTFT and ITL: {' / '.join(PERCENTILES)} of a run's requests.\n\n{table(rows)}"


def _row(name: str, rounds: Rounds, baseline: Rounds | None) -> list[str]:
    def times(key: str) -> str:
        return " / ".join(f"{median(run[key][each] for run in rounds):.0f}" for each in PERCENTILES)

    def clocks() -> str:
        told = [run["server_mean_ttft_ms"] for run in rounds]
        return "" if None in told else f"{median(run['mean_ttft_ms'] for run in rounds):.0f}, {median(told):.0f}"

    return [
        name,
        spread((run["tokens_per_second"] for run in rounds), ".1f"),
        "" if baseline is None else spread(ratios(rounds, baseline), ".2f"),
        spread((run["goodput"] for run in rounds), ".2f"),
        times("ttft_ms"),
        times("itl_ms"),
        clocks(),
        f"{median(run['client_cpu'] for run in rounds):.0%}",
    ]


def _acceptance(report: Mapping[str, Any]) -> str:
    rows = [
        (tool, name, *(", ".join(map(str, side)) for side in sides)) for tool, name, *sides in acceptance_rows(report)
    ]
    if not rows:
        return ""
    title = "### Acceptance that the tools show\n\nSteps with a draft, draft tokens, accepted ones."
    return f"{title}\n\n{table([COUNTS, *rows])}"


def _left_out(reasons: Mapping[str, str]) -> str:
    return (
        "\n".join(["### Left out\n", *(f"- {name}: {reason}" for name, reason in reasons.items())]) if reasons else ""
    )
