"""Runs the reproductions, and makes docs/reproductions.md of what they found.

python -m experiments.reproduce [NAME …] [--quick] [--data FILE] [--limit 12] [--tokens 200000]
    [--output docs] [--kept runs/reproduce] [--device cpu] [--jobs 1]

Without names all but `heads`, which trains for hours on two cores, and for minutes with `--device cuda --jobs 8`. Each
writes OUTPUT/results/reproduce-NAME.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

from rich.console import Console

from experiments.reproduce import (
    batch_collapse,
    block_vs_token,
    heads,
    invariance_price,
    leviathan,
    multi_draft,
    ngram_by_category,
    regret,
    temperature,
    training_free,
)
from experiments.reproduce.options import Options
from specdec.measure.results import read, save

STUDIES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        leviathan,
        block_vs_token,
        ngram_by_category,
        training_free,
        multi_draft,
        batch_collapse,
        temperature,
        invariance_price,
        regret,
        heads,
    )
}
LONG = ("heads",)
"""These are run only by name."""
HEAD = """# Published results beside ours

Made by `make reproduce`. Sizes are a laptop's: SmolLM2-135M and a few prompts; ratios are of one run on one machine.
`python -m experiments.reproduce NAME` runs one study, `--data FILE` takes other prompts.
"""


def document(folder: Path) -> str:
    """The page, out of the result files that are there."""
    parts = [HEAD]
    for name, study in STUDIES.items():
        file = folder / f"reproduce-{name}.json"
        if file.is_file():
            told = read(file)
            introduction = (study.__doc__ or "").strip()
            parts.append(f"## {study.TITLE}\n\n{introduction}\n\n{study.table(told['results'])}")
            parts.append(f"`{told['command']}`; {told['machine']}.\n")
    return "\n".join(parts)


def main() -> None:
    """Runs, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--quick", action="store_true", help="few prompts and tokens, to see that everything works")
    parser.add_argument("--data", type=Path, help="prompt file; our own prompts if left out")
    parser.add_argument("--limit", type=int, default=Options.limit, help="prompts of the studies that decode, at most")
    parser.add_argument("--tokens", type=int, default=Options.tokens, help="of answers that each head learns from")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--kept", type=Path, default=Options.kept, help="folder of what is trained")
    parser.add_argument("--device", default=Options.device, help="that heads are trained on")
    parser.add_argument("--jobs", type=int, default=Options.jobs, help="heads that are trained at a time")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(STUDIES)):
        parser.error(f"unknown study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    options = Options(args.quick, args.data, args.limit, args.tokens, args.kept, args.device, args.jobs)
    console = Console()
    results = args.output / "results"
    for name in args.names or [name for name in STUDIES if name not in LONG]:
        with console.status(name):
            found = STUDIES[name].run(options)
        print(f"{STUDIES[name].TITLE}\n\n{STUDIES[name].table(found)}")
        command = f"python -m experiments.reproduce {name} {options.words}".rstrip()
        save(results / f"reproduce-{name}.json", "experiments.reproduce", found, command=command)
    (args.output / "reproductions.md").write_text(document(results), encoding="utf-8")


if __name__ == "__main__":
    main()
