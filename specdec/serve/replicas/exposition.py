"""Metrics of several engines as one text, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Sequence


def merged(texts: Sequence[str]) -> str:
    """One text of several, whose samples differ in a label. A metric is named once, with the samples of all.

    Args:
        texts: in Prometheus' format: lines of `# HELP`, then `# TYPE`, then the samples of each metric.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        metric, new = "", True
        for line in text.splitlines():
            if line.startswith("# HELP "):
                metric = line.split(" ", 3)[2]
                new = metric not in heads
                heads.setdefault(metric, [])
            if line.startswith("#"):
                heads[metric] += [line] if new else []
            elif line:
                samples.setdefault(metric, []).append(line)
    lines = [line for metric, head in heads.items() for line in (*head, *samples.get(metric, ()))]
    return "".join(f"{line}\n" for line in lines)
