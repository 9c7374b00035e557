"""What the sources of `drafter=recycling` give, and the log-odds that it adds up.

python -m experiments.recycling [--prompts FILE] [--count 200] [--tokens 128] [--temperature 0] [--fit]
    [--without SOURCE …] [key=value …]

Prompts are drawn from the model itself, which is shown the beginning of a user's turn; with --prompts they are those of
a JSON-lines file. The drafter runs on them in the engine, greedy, eight at a time; its table, in plain Python, notes
which lists knew each next token. Prints τ, mean accepted tokens a pass, by category; --fit also prints
specdec/drafters/odds.py with new numbers, those of the noise from answers that were drawn under it. --without leaves
sources out: `first` (rows of tokens alone), `previous` (rows before the draft, LogitSpec), `refused` rows, `prompt`,
`two`, `three` (longer contexts), `noise` (of the draw). --temperature draws the answers. key=value are options of the
drafter.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters import odds
from specdec.drafters.base import DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.kernels.successors import FIRST_ROWS, ORDER, READ, REFUSED, SOURCES, WIDTH, reference
from specdec.models.loading import LoadedModel, load
from specdec.prompts.records import load_prompts
from specdec.sampling.noise import Noise
from specdec.training.prompts import Template
from specdec.verify.select import AUTO
from specdec.verify.tree import DraftTree

Lists = list[tuple[int, list[int]]]
DROPPED: dict[str, Callable[[int], bool]] = {
    "first": lambda source: source == FIRST_ROWS,
    "previous": lambda source: source > FIRST_ROWS,
    "refused": lambda source: source < FIRST_ROWS and source % 6 // 2 == REFUSED,
    "prompt": lambda source: source < FIRST_ROWS and source % 6 // 2 == READ,
    "two": lambda source: 6 <= source < 12,
    "three": lambda source: 12 <= source < 18,
    "noise": lambda source: False,  # it is in no list
}
PRIOR = 0.05
"""Of the squares of the log-odds: what was never seen stays at 0."""
TEMPERATURES = (0.5, 0.7, 1.0)
"""Of the answers that the log-odds of the noise are fitted on."""


class Drawn(NamedTuple):
    """A token that was drawn under known noise: which lists knew it, and the noise of all that they name."""

    lists: Lists
    token: int
    temperature: float
    noise: dict[int, float]


class Table(reference.Table):
    """Leaves out some sources."""

    def __init__(self, *about: Any, dropped: Sequence[str] = ()) -> None:
        super().__init__(*about)
        self.dropped = tuple(dropped)
        if "noise" in dropped:
            self._noise = (0.0, 0.0)

    def lists(self, *about: Any) -> Lists:
        """See `reference.Table.lists`."""
        return [one for one in super().lists(*about) if not any(DROPPED[name](one[0]) for name in self.dropped)]


class Recorder(RecyclingDrafter):
    """Notes of every token which lists knew it before it came."""

    def __init__(self, dropped: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self._dropped = dropped
        self.seen: list[tuple[Lists, int]] = []
        self.drawn: list[Drawn] = []
        self._noises: dict[int, Noise] = {}

    def bind(self, target: TargetHandle) -> Needs:
        """Takes the table in plain Python."""
        needs = super().bind(target)
        first = getattr(self._table, "_first", None)
        rows = None if first is None else first.tolist()
        about = self._contexts // 4, odds.RANKS, odds.LENGTHS, odds.NOISE, rows
        self._table = Table(*about, dropped=self._dropped)
        return needs

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Remembers under what noise each of them draws."""
        self._noises.update({each.request_id: each.noise for each in requests if each.noise is not None})
        return super().propose(requests)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Looks before it learns."""
        assert isinstance(self._table, Table)
        for one in outcomes:
            text = self._texts.get(one.request_id)
            if text is None or text.scope is None or one.top is None:
                continue
            known = list(text.last)
            noise = self._noises.get(one.request_id)
            for depth, token in enumerate(one.tokens):
                lists = self._table.lists(text.scope, one.request_id, known, text.previous, depth)
                self.seen.append((lists, token))
                if noise is not None and lists:
                    at = noise._replace(position=one.start + len(one.tail) + depth)
                    self.drawn.append(Drawn(lists, token, noise.params.temperature, _noise_of(at, lists)))
                known.append(token)
        super().observe(outcomes)


def _noise_of(noise: Noise, lists: Lists) -> dict[int, float]:
    """g of every token of some lists."""
    ids = torch.tensor(list(dict.fromkeys(token for _, tokens in lists for token in tokens)), dtype=torch.int64)
    values = noise.at(0, len(ids), ids) / noise.params.temperature
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


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

    def loss(weights: torch.Tensor) -> torch.Tensor:
        scores = torch.cat([weights, torch.zeros(1)])[columns].sum(1)
        value = torch.nn.functional.binary_cross_entropy_with_logits(scores, hits, reduction="sum")
        return value + PRIOR * (weights**2).sum()

    found = least(loss, torch.zeros(size)).double().numpy().round(2)
    return found[:ranks].reshape(SOURCES, WIDTH + 1).tolist(), found[ranks:].tolist()


def fitted_noise(
    drawn: Sequence[Drawn], ranks: Sequence[Sequence[float]], lengths: Sequence[float]
) -> tuple[float, float]:
    """The log-odds of T g and of T² under which what was drawn is likeliest, beside those of the lists."""
    table = Table(1, ranks, lengths, (0.0, 0.0))
    rows = [
        (score, one.temperature * one.noise[token], one.temperature**2, token == one.token)
        for one in drawn
        for token, score in table.scores(one.lists).items()
    ]
    scores, noise, squares, hits = torch.tensor(rows, dtype=torch.float64).T

    def loss(weights: torch.Tensor) -> torch.Tensor:
        summed = scores + weights[0] * noise + weights[1] * squares
        return torch.nn.functional.binary_cross_entropy_with_logits(summed, hits)

    by, lost = least(loss, torch.zeros(2, dtype=torch.float64)).numpy().round(2).tolist()
    return by, lost


def least(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """The weights of least loss, which is convex."""
    weights = start.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=80, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(weights)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    return weights.detach()


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
    parser.add_argument("--temperature", type=float, default=0.0)
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
    tau, drafted = measured(loaded, drafter, records, args.tokens, args.temperature)
    print(
        f"{drafted:.1f} nodes a draft; mean accepted tokens a pass: "
        + ", ".join(f"{k} {v:.3f}" for k, v in tau.items())
    )
    if args.fit:
        ranks, lengths = fitted(drafter.seen)
        drawn: list[Drawn] = []
        for temperature in TEMPERATURES:
            listening = Recorder(args.without, **options)
            measured(loaded, listening, records, args.tokens, temperature)
            drawn += listening.drawn
        print(module_of(ranks, lengths, fitted_noise(drawn, ranks, lengths)))


def measured(
    loaded: LoadedModel,
    drafter: RecyclingDrafter,
    records: Sequence[tuple[str, str]],
    tokens: int,
    temperature: float = 0.0,
) -> tuple[dict[str, float], float]:
    """τ by category, "all" first, and nodes of a draft."""
    config = EngineConfig(max_num_seqs=8)
    generator = SpeculativeGenerator(loaded, drafter, config=config, policy="always", rule=AUTO)
    chats = [[{"role": "user", "content": text}] for _, text in records]
    params = [SamplingParams(max_tokens=tokens, temperature=temperature, seed=seed) for seed in range(len(chats))]
    done = generator.generate(chats, params, progress=False)
    emitted, passes, drafted = Counter[str](), Counter[str](), 0
    for (category, _), one in zip(records, done, strict=True):
        for name in ("all", category):
            emitted[name] += one.stats.output_tokens
            passes[name] += one.stats.passes
        drafted += one.stats.drafted_tokens
    return {name: emitted[name] / passes[name] for name in passes}, drafted / passes["all"]


def module_of(ranks: list[list[float]], lengths: list[float], noise: tuple[float, float]) -> str:
    """specdec/drafters/odds.py with these numbers."""
    head = (odds.__doc__ or "").strip()
    rows = "\n".join(f"    {row},  # {name}" for name, row in zip(odds.NAMES, ranks, strict=True))
    return f'"""{head}\n"""\n\nRANKS = [\n{rows}\n]\nLENGTHS = {lengths}\nNOISE = {noise}'


if __name__ == "__main__":
    main()
