"""JSON under grammars: is it valid, how many tokens does a pass give, and what do drafts bring?

python -m experiments.structured [schemas=200] [max_tokens=96] [drafters=ngram,suffix] [dtype=bfloat16] [seed=0]
    [rounds=10] [markdown=docs/structured.md]

Every schema is one question to the embedded model, greedy, one at a time. All ways to answer it take turns: without a
grammar, under one without drafts, and with each drafter, with any spelling of forced text and with the tokenizer's own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import jsonschema

from experiments._schemas import Task, tasks
from experiments._words import Makers, listed, parsed, several
from specdec import EngineConfig, Generation, Grammar, SamplingParams, SpeculativeGenerator
from specdec.engine import verdicts
from specdec.measure.markdown import table
from specdec.models.loading import LoadedModel, load
from specdec.sampling import transform
from specdec.sampling.compiling import GrammarCompiler
from specdec.sampling.constraints import Constraint
from specdec.sampling.grammar import Spelling
from specdec.sampling.matching import GrammarConstraint

FREE, PLAIN = "no grammar, no drafts", "no drafts"


@dataclass(frozen=True)
class Study:
    """What is measured; see the module."""

    schemas: int = 200
    max_tokens: int = 96
    drafters: tuple[str, ...] = ("ngram", "suffix")
    dtype: str = "bfloat16"
    seed: int = 0
    rounds: int = 10
    markdown: Path | None = None


@dataclass
class Way:
    """One way to answer, and its results.

    Args:
        name: of the row.
        generator: answers.
        spelling: of forced text; None is no grammar.
        seconds, tokens: of decoding, in each round.
        grammar_seconds: that masks, putting them on scores, forced text and the like took, in all rounds.
    """

    name: str
    generator: SpeculativeGenerator
    spelling: Spelling | None
    answers: list[Generation] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    grammar_seconds: float = 0.0

    def run(self, asked: Sequence[Task], max_tokens: int) -> None:
        """Answers, against the clock."""
        grammars = [None if self.spelling is None else Grammar.json(one.schema).spelt(self.spelling) for one in asked]
        params = [SamplingParams(max_tokens=max_tokens, grammar=one) for one in grammars]
        chats = [[{"role": "user", "content": one.question}] for one in asked]
        with clocked() as clock:
            found = self.generator.generate(chats, params, progress=False)
        self.seconds.append(sum(one.stats.decode_seconds for one in found))
        self.grammar_seconds += clock[0]
        self.tokens.append(sum(one.stats.output_tokens for one in found))
        self.answers += found

    @property
    def tau(self) -> float:
        """Tokens a pass."""
        return sum(one.stats.output_tokens for one in self.answers) / sum(one.stats.passes for one in self.answers)

    def speedup(self, other: Way) -> tuple[float, float, float]:
        """Tokens a second over those of another way: the median of all rounds, the least and the largest."""
        mine, its = ([n / s for n, s in zip(one.tokens, one.seconds, strict=True)] for one in (self, other))
        ratios = [ours / theirs for ours, theirs in zip(mine, its, strict=True)]
        return median(ratios), min(ratios), max(ratios)


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Adds up the time that grammars take inside the block, nested calls once."""
    spent, depth = [0.0], [0]
    names = ("masks", "allows", "allowed_after", "kept", "advance", "forced", "likely")
    before: list[tuple[Any, str, Callable[..., Any]]] = [
        *((GrammarConstraint, name, getattr(GrammarConstraint, name)) for name in names),
        *((module, "forbid", module.forbid) for module in (transform, verdicts)),
    ]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*given: Any) -> Any:
            began, depth[0] = perf_counter(), depth[0] + 1
            try:
                return method(*given)
            finally:
                depth[0] -= 1
                spent[0] += perf_counter() - began if depth[0] == 0 else 0.0

        return call

    for owner, name, method in before:
        setattr(owner, name, timed(method))
    try:
        yield spent
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def valid(answer: Generation, schema: dict[str, Any]) -> bool:
    """By `jsonschema`."""
    try:
        jsonschema.validate(json.loads(answer.text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def forced_share(constraint: Constraint, tokens: Sequence[int]) -> tuple[int, int, int]:
    """Of a text: tokens in forced runs, how many of them it has, and passes if nothing but these runs is drafted."""
    drafted = kept = passes = at = 0
    while at < len(tokens):
        run = constraint.forced()[: len(tokens) - at]
        same = next((place for place, token in enumerate(run) if token != tokens[at + place]), len(run))
        drafted, kept, passes = drafted + len(run), kept + same, passes + 1
        for token in tokens[at : at + same + 1]:
            constraint.advance(token)
        at += same + 1
    return drafted, kept, passes


def measured(study: Study, loaded: LoadedModel) -> tuple[list[Way], list[Task]]:
    """Every way through every task, in turns: each round is a share of the tasks."""
    config = EngineConfig(max_num_seqs=1)

    def way(name: str, drafter: str, spelling: Spelling | None) -> Way:
        return Way(name, SpeculativeGenerator(loaded, drafter, config=config), spelling)

    spellings: tuple[Spelling, ...] = ("any", "canonical")
    ways = [way(FREE, "none", None)]
    for spelling in spellings:
        ways += [way(PLAIN if one == "none" else one, one, spelling) for one in ("none", *study.drafters)]
    asked, rounds = tasks(study.schemas, study.seed), min(study.rounds, study.schemas)
    for number in range(rounds):
        for one in ways[number % len(ways) :] + ways[: number % len(ways)]:
            one.run(asked[number::rounds], study.max_tokens)
    order = [task for number in range(rounds) for task in asked[number::rounds]]
    return ways, order


def report(study: Study, loaded: LoadedModel, ways: Sequence[Way], asked: Sequence[Task]) -> str:
    """docs/structured.md."""
    compiler = GrammarCompiler(loaded.tokenizer, loaded.model.vocab_size, loaded.eos)
    plain = {way.spelling: way for way in ways if way.name == PLAIN}
    rows, forced = [], []
    for way in ways:
        done = [valid(answer, task.schema) for answer, task in zip(way.answers, asked, strict=True)
                if answer.finish_reason == "stop"]  # fmt: skip
        share = way.grammar_seconds / sum(way.seconds)
        base = plain.get(way.spelling, way)
        cells = [way.name, way.spelling or "", f"{len(done)} of {len(asked)}", f"{sum(done)} of {len(done)}"]
        cells += [f"{way.tau:.2f}", _ratio(way, base), _ratio(way, ways[0]), f"{share:.1%}" if way.spelling else ""]
        rows.append(cells)
        if way.name == PLAIN and way.spelling is not None:
            found = [
                forced_share(compiler.compile(Grammar.json(task.schema).spelt(way.spelling)).fork(), answer.token_ids)
                for answer, task in zip(way.answers, asked, strict=True)
            ]
            drafted, kept, passes = (sum(column) for column in zip(*found, strict=True))
            tokens = sum(len(answer.token_ids) for answer in way.answers)
            forced.append([way.spelling, f"{kept / drafted:.1%} ({kept} of {drafted})", f"{tokens / passes:.2f}"])
    return PAGE.format(
        command=shlex.join(["python", "-m", "experiments.structured", *sys.argv[1:]]),
        count=len(asked), most=study.max_tokens, dtype=study.dtype, rounds=len(ways[0].seconds),
        table=table([["drafts", "spelling", "finished", "valid", "τ", "× constrained plain", "× unconstrained",
                      "grammar's share"], *rows]),
        forced=table([["spelling", "forced tokens accepted", "tokens a pass"], *forced]),
    )  # fmt: skip


def _ratio(way: Way, base: Way) -> str:
    return "1" if way is base else "{:.2f} ({:.2f} to {:.2f})".format(*way.speedup(base))


WORDS: Makers = {
    **several(("schemas", "max_tokens", "seed", "rounds"), int),
    "drafters": listed,
    "dtype": str,
    "markdown": Path,
}


def main() -> None:
    """Measures, prints the page, and writes it."""
    study = Study(**parsed(sys.argv[1:], WORDS))
    loaded = load(dtype=study.dtype)
    page = report(study, loaded, *measured(study, loaded))
    print(page)
    if study.markdown is not None:
        study.markdown.write_text(page, encoding="utf-8")


PAGE = """# Structured output

Made by `{command}`.

A program makes {count} schemas (`experiments/_schemas.py`): records up to three levels deep, lists, unions and
references. Their values are strings with and without patterns, numbers, booleans, constants, enumerations and lists.
Some keys are optional. SmolLM2-135M-Instruct ({dtype}, greedy, at most {most} tokens, one request at a time) is asked
one question for each schema, with the schema in it. All ways to answer take turns in {rounds} rounds.

- A ratio compares tokens per second of decoding, without the time to read prompts: the median of the rounds, and
  their range.
- *Finished* texts end by themselves; the others end at the limit. *Valid* counts the finished texts that `jsonschema`
  accepts.
- *Grammar's share* is the part of the decoding time that goes to masks, to putting them on logits, to forced text,
  and to following the tokens. It does not include compiling.

{table}

## Forced text alone
Here the texts written without drafts are read again. How many tokens would a pass give if only forced runs were
drafted?

{forced}

With any spelling fewer forced tokens are accepted, because a forced draft is the tokenizer's spelling. Suppose the
model wants to write something else, such as another key or a line break. Then it prefers short tokens with which the
forced text also begins, and goes on with short ones. `Grammar.json(schema).spelt("canonical")` leaves it one spelling
([grammars.md](grammars.md)).

## Published results
| source | what | figure |
|---|---|---|
| SGLang (arXiv 2312.07104) | JSON with a compressed state machine, which inserts forced text | 1.6 × throughput |
| llguidance, its documentation | share of forced tokens, MaskBench, Llama 3 | 12.7 % |
| vllm-metal, pull request 650 | share of forced tokens, BFCL and API-Bank | 37 to 50 % |

These systems insert forced text, which we draft and verify. Their models, schemas and machines are others, so the
figures cannot be compared one by one. But they show the same: forced text is a large part of JSON, and takes few
passes.
"""


if __name__ == "__main__":
    main()
