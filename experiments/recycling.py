"""What the sources of `drafter=recycling` give, and the log-odds that it adds up.

python -m experiments.recycling [--prompts FILE] [--count 200] [--tokens 128] [--fit] [--without SOURCE …] [key=value …]

Prompts are drawn from the model itself, which is shown the beginning of a user's turn; with --prompts they are those of
a JSON-lines file. The drafter runs on them in the engine, greedy, eight at a time; its table, in plain Python, notes
which lists knew each next token. Prints τ, mean accepted tokens a pass, by category; --fit also prints
specdec/drafters/odds.py with new numbers. --without leaves sources out: `first` (rows of tokens alone), `previous`
(rows before the draft, LogitSpec), `refused` rows, `prompt`, `two`, `three` (longer contexts). key=value are options of
the drafter.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters import odds
from specdec.drafters.base import Needs, Outcome, TargetHandle
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.kernels.successors import FIRST_ROWS, ORDER, READ, REFUSED, SOURCES, WIDTH, reference
from specdec.models.loading import LoadedModel, load
from specdec.prompts.records import load_prompts
from specdec.training.prompts import Template

Lists = list[tuple[int, list[int]]]
DROPPED: dict[str, Callable[[int], bool]] = {
    "first": lambda source: source == FIRST_ROWS,
    "previous": lambda source: source > FIRST_ROWS,
    "refused": lambda source: source < FIRST_ROWS and source % 6 // 2 == REFUSED,
    "prompt": lambda source: source < FIRST_ROWS and source % 6 // 2 == READ,
    "two": lambda source: 6 <= source < 12,
    "three": lambda source: 12 <= source < 18,
}
PRIOR = 0.05
"""Of the squares of the log-odds: what was never seen stays at 0."""


class Table(reference.Table):
    """Leaves out some sources."""

    dropped: tuple[str, ...] = ()

    def lists(self, *about: Any) -> Lists:
        """See `reference.Table.lists`."""
        return [one for one in super().lists(*about) if not any(DROPPED[name](one[0]) for name in self.dropped)]


class Recorder(RecyclingDrafter):
    """Notes of every token which lists knew it before it came."""

    def __init__(self, dropped: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self._dropped = tuple(dropped)
        self.seen: list[tuple[Lists, int]] = []

    def bind(self, target: TargetHandle) -> Needs:
        """Takes the table in plain Python."""
        needs = super().bind(target)
        first = getattr(self._table, "_first", None)
        self._table = Table(self._contexts // 4, odds.RANKS, odds.LENGTHS, None if first is None else first.tolist())
        self._table.dropped = self._dropped
        return needs

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Looks before it learns."""
        assert isinstance(self._table, Table)
        for one in outcomes:
            text = self._texts.get(one.request_id)
            if text is None or text.scope is None or one.top is None:
                continue
            known = list(text.last)
            for depth, token in enumerate(one.tokens):
                self.seen.append((self._table.lists(text.scope, one.request_id, known, text.previous, depth), token))
                known.append(token)
        super().observe(outcomes)


def fitted(seen: Sequence[tuple[Lists, int]]) -> tuple[list[list[float]], list[float]]:
    """The log-odds under which what was seen is likeliest: logistic regression over all tokens of all lists."""
    ranks = SOURCES * (WIDTH + 1)
    examples: list[tuple[list[int], bool]] = []
    for lists, token in seen:
        longest = max((source // 6 + 1 for source, _ in lists if source < FIRST_ROWS), default=0)
        for candidate in dict.fromkeys(each for _, tokens in lists for each in tokens):
            places = [
                source * (WIDTH + 1) + (tokens.index(candidate) if candidate in tokens else WIDTH)
                for source, tokens in lists
            ]
            examples.append(([*places, ranks + longest], candidate == token))
    width = max(len(places) for places, _ in examples)
    size = ranks + ORDER + 1
    columns = torch.tensor([places + [size] * (width - len(places)) for places, _ in examples])
    hits = torch.tensor([hit for _, hit in examples], dtype=torch.float32)
    weights = torch.zeros(size, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = torch.cat([weights, torch.zeros(1)])[columns].sum(1)
        value = torch.nn.functional.binary_cross_entropy_with_logits(scores, hits, reduction="sum")
        value = value + PRIOR * (weights**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach().double().numpy().round(2)
    return found[:ranks].reshape(SOURCES, WIDTH + 1).tolist(), found[ranks:].tolist()


def own_prompts(loaded: LoadedModel, count: int) -> list[str]:
    """What the model takes for a user's message (Xu et al. 2024, Magpie)."""
    template = Template(loaded.tokenizer)
    [beginning] = template.encode([template.begun()])
    generator = SpeculativeGenerator(loaded, NoDrafter(), config=EngineConfig(max_num_seqs=8))
    params = [
        SamplingParams(max_tokens=120, temperature=1.0, top_p=0.95, seed=seed) for seed in range(1000, 1000 + count)
    ]
    texts = [one.text.strip() for one in generator.generate([beginning] * count, params, progress=False)]
    return [text for text in texts if len(text) > 20]


def main() -> None:
    """Runs, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--without", nargs="*", default=[], choices=DROPPED)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    options = {key: float(value) if "." in value else int(value) for key, value in (o.split("=") for o in args.options)}
    loaded = load(dtype="bfloat16")
    records = (
        [("own", text) for text in own_prompts(loaded, args.count)]
        if args.prompts is None
        else [(one.category, one.prompt) for one in load_prompts(args.prompts)]
    )
    drafter = Recorder(args.without, **options)
    tau, drafted = measured(loaded, drafter, records, args.tokens)
    print(
        f"{drafted:.1f} nodes a draft; mean accepted tokens a pass: "
        + ", ".join(f"{k} {v:.3f}" for k, v in tau.items())
    )
    if args.fit:
        print(module_of(*fitted(drafter.seen)))


def measured(
    loaded: LoadedModel, drafter: RecyclingDrafter, records: Sequence[tuple[str, str]], tokens: int
) -> tuple[dict[str, float], float]:
    """τ by category, "all" first, and nodes of a draft."""
    generator = SpeculativeGenerator(loaded, drafter, config=EngineConfig(max_num_seqs=8), policy="always")
    chats = [[{"role": "user", "content": text}] for _, text in records]
    done = generator.generate(chats, SamplingParams(max_tokens=tokens), progress=False)
    emitted, passes, drafted = Counter[str](), Counter[str](), 0
    for (category, _), one in zip(records, done, strict=True):
        for name in ("all", category):
            emitted[name] += one.stats.output_tokens
            passes[name] += one.stats.passes
        drafted += one.stats.drafted_tokens
    return {name: emitted[name] / passes[name] for name in passes}, drafted / passes["all"]


def module_of(ranks: list[list[float]], lengths: list[float]) -> str:
    """specdec/drafters/odds.py with these numbers."""
    head = (odds.__doc__ or "").strip()
    rows = "\n".join(f"    {row},  # {name}" for name, row in zip(odds.NAMES, ranks, strict=True))
    return f'"""{head}\n"""\n\nRANKS = [\n{rows}\n]\nLENGTHS = {lengths}'


if __name__ == "__main__":
    main()
