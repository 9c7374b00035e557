"""JSON schemas that people wrote, and texts that keep to them or do not: MaskBench, for whoever has it.

python -m experiments.maskbench path=FOLDER [limit=1000] [markdown=FILE]

`path` is `maskbench/data` of a copy of github.com/guidance-ai/jsonschemabench, which has no licence and so is not part
of this project. Each of its files has a schema, and texts with what a validator says of them. No model runs: a text
keeps to a grammar if each of its tokens may stand where it stands, and then the end.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.progress import track

from experiments._words import Makers, parsed
from experiments.structured import forced_share
from specdec import Grammar
from specdec.errors import ConfigError, SpecdecError
from specdec.measure.environment import machine
from specdec.measure.markdown import table
from specdec.models.loading import load
from specdec.sampling.compiling import GrammarCompiler
from specdec.sampling.constraints import Constraint
from specdec.sampling.grammar import Spelling

QUANTILES = (50, 90, 99, 100)
MOST_REASONS = 12
GIVE = "Give maskbench/data of a copy of guidance-ai/jsonschemabench."


@dataclass(frozen=True)
class Study:
    """What is measured; see the module."""

    path: Path
    limit: int | None = None
    markdown: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Those of the folder, or so many, evenly out of all."""
        found = sorted(self.path.glob("*.json"))
        if not found:
            raise ConfigError(f"path = {self.path} has no JSON files. {GIVE}")
        if self.limit is None or self.limit >= len(found):
            return found
        return [found[number * len(found) // self.limit] for number in range(self.limit)]


@dataclass
class Found:
    """What schemas and texts came to.

    Args:
        followed: schemas that were compiled.
        refused: reason → schemas.
        texts: (valid, whether it can be written) → how many.
        failed: reason → texts in the middle of which a grammar became too complex, which ends a request.
        compile_seconds: of each schema that was compiled, its first mask included.
        mask_seconds: of each token of the texts.
        forced: of the valid texts that can be written: tokens in forced runs, those accepted, passes; by spelling.
        tokens: of these texts, ends included.
    """

    followed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    texts: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    compile_seconds: list[float] = field(default_factory=list)
    mask_seconds: list[float] = field(default_factory=list)
    forced: dict[Spelling, Counter[str]] = field(default_factory=lambda: {"any": Counter(), "canonical": Counter()})
    tokens: int = 0


def judge(files: Sequence[Path], tokenizer: Any, vocab_size: int, end: int) -> Found:
    """Every schema and all its texts.

    Args:
        files: of MaskBench: {"schema", "tests": [{"valid", "data"}]}.
        tokenizer: of the target, V tokens.
        vocab_size: V.
        end: a token that ends a text.
    """
    compiler, found = GrammarCompiler(tokenizer, vocab_size, (end,)), Found()
    compiler.compile(Grammar.json())  # reads the vocabulary, once for all
    for path in track(files, "schemas", disable=len(files) < 16):
        case = read(path)
        try:
            grammar = Grammar.json(case["schema"])
            begun = perf_counter()
            compiler.compile(grammar)
        except SpecdecError as error:
            found.refused[reason(error)] += 1
            continue
        found.compile_seconds.append(perf_counter() - begun)
        found.followed += 1
        for one in case.get("tests", ()):
            tokens = [*tokenizer.encode(json.dumps(one["data"], ensure_ascii=False), add_special_tokens=False), end]
            try:
                judge_text(found, compiler, grammar, bool(one["valid"]), tokens)
            except SpecdecError as error:
                found.failed[reason(error)] += 1
    return found


def read(path: Path) -> Any:
    """A file of MaskBench.

    Raises:
        ConfigError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}. Copy it anew, or take it out of the folder.") from error


def judge_text(found: Found, compiler: GrammarCompiler, grammar: Grammar, valid: bool, tokens: Sequence[int]) -> None:
    """One text of a schema.

    Raises:
        SpecdecError: if the grammar becomes too complex within it.
    """
    written = keeps(compiler.compile(grammar).fork(), tokens, found.mask_seconds)
    found.texts[valid, written] += 1
    if written and valid:
        found.tokens += len(tokens)
        for spelling, counts in found.forced.items():
            shares = forced_share(compiler.compile(grammar.spelt(spelling)).fork(), tokens)
            counts.update(dict(zip(("drafted", "kept", "passes"), shares, strict=True)))


def keeps(constraint: Constraint, tokens: Sequence[int], seconds: list[float]) -> bool:
    """Whether a text may be written token by token; the time of each mask is noted."""
    for token in tokens:
        begun = perf_counter()
        allowed = constraint.masks((), ())[-1]
        seconds.append(perf_counter() - begun)
        if not bool(allowed[token]):
            return False
        constraint.advance(token)
    return True


def reason(error: SpecdecError) -> str:
    """Why a schema is refused, without the place and what to do."""
    words = str(error).rpartition("The grammar fails: ")[2].removesuffix(". Make it simpler, or correct it.")
    return words.partition(" while processing ")[0].partition(". Enable ")[0]


def report(found: Found) -> str:
    """The page."""
    schemas = found.followed + found.refused.total()
    reasons = found.refused.most_common(MOST_REASONS)
    others = found.refused.total() - sum(count for _, count in reasons)
    written = {valid: (found.texts[valid, True], found.texts[valid, False]) for valid in (True, False)}
    return PAGE.format(
        command=shlex.join(["python", "-m", "experiments.maskbench", *sys.argv[1:]]),
        machine=machine(),
        schemas=schemas,
        followed=found.followed,
        followed_share=f"{found.followed / schemas:.1%}",
        texts=table(
            [["the validator says", "texts", "can be written", "cannot"]]
            + [[name, str(sum(counts)), str(counts[0]), str(counts[1])]
               for name, counts in (("valid", written[True]), ("not valid", written[False]))]
        ),
        times=table(
            [["", *(f"{share} %" if share < 100 else "largest" for share in QUANTILES)],
             ["a schema, ms", *quantiles(found.compile_seconds, 1e3)],
             ["a mask, µs", *quantiles(found.mask_seconds, 1e6)]]
        ),
        forced=table(
            [["spelling", "forced tokens accepted", "share of the tokens", "tokens a pass"]]
            + [[spelling, f"{counts['kept'] / max(counts['drafted'], 1):.1%}", f"{counts['kept'] / found.tokens:.1%}",
                f"{found.tokens / counts['passes']:.2f}"] for spelling, counts in found.forced.items()]
        ),
        reasons=table([["reason", "schemas"], *([f"`{why}`", str(count)] for why, count in reasons),
                       ["others", str(others)]]),
        failed=", ".join(f"`{why}` ({count})" for why, count in found.failed.most_common()) or "none",
    )  # fmt: skip


def quantiles(seconds: Sequence[float], scale: float) -> list[str]:
    """Of some times, in another unit."""
    return [f"{value * scale:.2g}" if value * scale < 100 else f"{value * scale:.0f}"
            for value in np.percentile(seconds, QUANTILES)]  # fmt: skip


WORDS: Makers = {"path": Path, "limit": int, "markdown": Path}


def main() -> None:
    """Judges, prints the page, and writes it. Exits with 1 if a text can be written that its schema forbids."""
    words = parsed(sys.argv[1:], WORDS)
    if "path" not in words:
        raise ConfigError(f"path is missing. {GIVE}")
    study = Study(**words)
    loaded = load()
    found = judge(study.files, loaded.tokenizer, loaded.model.vocab_size, min(loaded.eos))
    page = report(found)
    print(page)
    if study.markdown is not None:
        study.markdown.write_text(page, encoding="utf-8")
    sys.exit(bool(found.texts[False, True]))


PAGE = """# MaskBench

Made by `{command}`; {machine}.

MaskBench (github.com/guidance-ai/jsonschemabench) has JSON schemas that people wrote, from GitHub, from the schema
store and from function calls. For each there are texts, with what a validator says of them. A text can be written if
each of its tokens is allowed where it stands, and then the end. The tokens are those that SmolLM2's tokenizer makes
of the JSON. No model runs.

Of {schemas} schemas {followed} are followed ({followed_share}). The others are refused before decoding,
with the reason.

{texts}

A valid text cannot be written if its keys stand in another order than in the schema, if a number is spelt otherwise,
or if a `format` is kept to that the validator does not check. In the middle of some texts the grammar became too
complex, which ends a request with an error:
{failed}.

## Time
{times}

The time of a schema is from its text to its first mask. A mask is for one token.

## Forced text alone
The valid texts that can be written are read again. How many tokens would a pass give if only forced runs were drafted?

{forced}

## Refused
{reasons}
"""


if __name__ == "__main__":
    main()
