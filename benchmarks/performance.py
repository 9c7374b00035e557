"""Makes docs/performance.md out of the result files in docs/results.

python -m benchmarks.performance

Each section names the command that made its figures and the machine that they come from, and says what was noted beside
them (`note` in the file). A section without a result file is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import acceptance, drafters, kernels, lossless, passes, perplexity, split, twin
from benchmarks.peers.table import markdown as peers_table
from specdec.measure.results import read

RESULTS, DOCUMENT = Path("docs/results"), Path("docs/performance.md")
SECTIONS: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("passes*.json", "A pass beside its floor",
     "The floor is reading the weights once at the bandwidth measured in the same run. T(n) is a pass of n rows.",
     lambda told: passes.table({name: told[name] for name in told if isinstance(told[name], dict)})),
    ("kernels*.json", "Kernels beside their floor",
     "Time over the time that reading weights, or keys and values, takes; they lie in no cache.",
     lambda told: kernels.table(told["results"])),
    ("peers*.json", "Beside other engines", "The same weights, prompts and threads; one runs at a time.", peers_table),
    ("drafters*.json", "Drafters and policies",
     "Interleaved with plain decoding; open chat is writing, roleplay, humanities and stem together.",
     lambda told: drafters.table(told["results"])),
    ("lossless*.json", "Speculation changes no token",
     "Texts of plain decoding, one prompt at a time, against speculation; `ngram:3` and the like draft trees.",
     lambda told: lossless.table(told["results"])),
    ("twin*.json", "The roofline twin beside the engine",
     "Predicted over measured time of a pass; what the twin knows of the machine was measured by kernels alone.",
     lambda told: twin.table(told["results"])),
    ("split*.json", "Where a step's time goes", "Draft and host together have a goal.",
     lambda told: split.table(told["results"])),
    ("acceptance*.json", "What a verdict costs", "Beside the target pass that it belongs to.",
     lambda told: acceptance.table(told["results"])),
    ("perplexity*.json", "What precision costs", "Perplexity on English prose and code; memory.",
     lambda told: perplexity.table(told["results"])),
)  # fmt: skip
"""Files, title, introduction, and what makes a table of a file."""
HEAD = """# Performance

Made by `python -m benchmarks.performance` from the files in `docs/results/`, each of which names its own command.
Machines are shared and noisy: compare ratios within a table, not times between tables.
"""


def document(folder: Path) -> str:
    """The page."""
    parts = [HEAD]
    for pattern, title, introduction, table in SECTIONS:
        files = sorted(folder.glob(pattern))
        if files:
            parts.append(f"## {title}\n\n{introduction}\n")
        for file in files:
            told = read(file)
            note = f" {told['note']}" if "note" in told else ""
            parts.append(f"`{told['command']}`; {told['machine']}.{note}\n\n{table(told)}")
    return "\n".join(parts)


def main() -> None:
    """Writes it."""
    DOCUMENT.write_text(document(RESULTS), encoding="utf-8")
    print(f"{DOCUMENT} is made.")


if __name__ == "__main__":
    main()
