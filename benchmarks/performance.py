"""Makes docs/performance.md out of the result files in docs/results.

python -m benchmarks.performance

Each section names the command that made its figures and the machine that they come from, and says what was noted beside
them (`note` in the file). A section without a result file is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    acceptance,
    choices,
    drafters,
    kernels,
    lossless,
    mixtures,
    passes,
    perplexity,
    serving,
    split,
    twin,
)
from benchmarks.peers.table import markdown as peers_table
from benchmarks.serve.table import markdown as servers_table
from specdec.measure.results import read

RESULTS, DOCUMENT = Path("docs/results"), Path("docs/performance.md")
SECTIONS: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("passes*.json", "The time of a pass, and its floor",
     "The floor is the time to read the weights once, at the bandwidth of the same run. T(n) is a pass of n rows.",
     lambda told: passes.table({name: told[name] for name in told if isinstance(told[name], dict)})),
    ("mixtures*.json", "Types of blocks that files mix",
     "A model of 16 layers, 768 wide, of random blocks. Q4_1's head is Q8_0. Q4_K_M is a mixture of Q4_K and Q6_K.",
     lambda told: passes.table(told["results"], mixtures.REFERENCE)),
    ("kernels*.json", "The time of a kernel, and its floor",
     "Time divided by the time to read the weights, or keys and values, from memory (not from a cache).",
     lambda told: kernels.table(told["results"])),
    ("peers*.json", "Comparison with other engines",
     "All use the same weights, prompts and threads. One runs at a time. The weights are those of a Q4_1 file. Four "
     "bits with a float minimum for each block of 32 hold them as they are (gguf, q4_1, our int4). Other forms round "
     "them again, which their perplexity shows.", peers_table),
    ("servers*.json", "Servers under load",
     "Each server runs in turn, beside the client that loads it. Weights, prompts and arrivals are the same for all. "
     "llama-server is compiled from the source in llama-cpp-python's release on PyPI.",
     lambda told: servers_table(told | told["results"])),
    ("serving*.json", "What HTTP costs",
     "The whole time of a text over HTTP, compared with the Python API: median, least and most of the rounds.",
     lambda told: serving.table(told["results"])),
    ("choices*.json", "What a selection costs",
     "`Session.select` among eight choices of at most six tokens, compared with a token of plain decoding. It takes "
     "one pass of 16 rows.",
     lambda told: choices.table(told["results"])),
    ("drafters*.json", "Drafters and policies",
     "Runs are interleaved with plain decoding. Open chat is writing, roleplay, humanities and stem together.",
     lambda told: drafters.table(told["results"])),
    ("lossless*.json", "Speculation changes no token",
     "Texts of plain decoding, one prompt at a time, compared with speculation. `ngram:3` and the like draft trees. "
     "With `blocks` each prompt is decoded twice, cold and warm, and the prefix cache is small.",
     lambda told: lossless.table(told["results"])),
    ("twin*.json", "The roofline model, and the engine",
     "Predicted over measured time of a pass. The model knows only measurements of single kernels on this machine.",
     lambda told: twin.table(told["results"])),
    ("split*.json", "Where a step's time goes", "The time of draft and host together has a limit.",
     lambda told: split.table(told["results"])),
    ("acceptance*.json", "What a verdict costs", "The time of a verdict, compared with its target pass.",
     lambda told: acceptance.table(told["results"])),
    ("perplexity*.json", "What precision costs", "Perplexity on English prose and code, and memory.",
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
