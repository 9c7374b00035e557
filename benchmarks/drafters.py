"""Drafters and policies on the same prompts, interleaved: τ, speed beside plain decoding, and who drafted.

python -m benchmarks.drafters [--data FILE] [--contenders ngram,suffix:product,ngram+suffix:select,…] [--batch 1]

A contender is drafters joined by "+", and a policy behind ":" (left out: "always"); drafters joined by ">" are a
cascade, and "poison" drafts what is never right. Groups of prompts of one category are decoded by one contender after
the other, in an order that rotates; plain decoding by the same engine is always one of them. There are two ratios to
it: of decoding, and of the whole, prefill included.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import track

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Drafter
from specdec.drafters.cascade import CascadeDrafter
from specdec.engine.outputs import Generation
from specdec.measure.metrics import drafting_cost, speedup_interval, speedup_with_prefill
from specdec.measure.results import save
from specdec.models.loading import LoadedModel, load
from specdec.prompts import load_prompts
from specdec.prompts.records import PromptRecord
from specdec.prompts.subsets import choose
from specdec.stats import DecodingStats
from specdec.testing import PoisonDrafter
from specdec.verify.select import AUTO

PLAIN = "none"
OPEN_CHAT = ("writing", "roleplay", "humanities", "stem")
CONTENDERS = "ngram,suffix,recycling,cascade,cascade:product,ngram+suffix+recycling+cascade+none:select"


@dataclass
class Contender:
    """One way to decode, and what it gave: by the number of the prompt."""

    generator: SpeculativeGenerator
    generations: dict[int, Generation] = field(default_factory=dict)

    def stats(self, numbers: Sequence[int]) -> list[DecodingStats]:
        """Of some prompts."""
        return [self.generations[number].stats for number in numbers]


def contender(loaded: LoadedModel, name: str, batch: int, rule: str) -> Contender:
    """By its name on the command line."""
    drafters, _, policy = name.partition(":")
    config = EngineConfig(max_num_seqs=batch, num_blocks=160 + 128 * batch, prefix_cache=False)
    listed = [_named(each) for each in drafters.split("+")]
    return Contender(SpeculativeGenerator(loaded, listed, config=config, policy=policy or "always", rule=rule))


def _named(name: str) -> str | Drafter:
    """A drafter of the registry, or one that is not there. A cascade goes by the names of its stages, so that it may
    stand beside others."""
    if name == PoisonDrafter.name:
        return PoisonDrafter()
    if ">" not in name:
        return name
    drafter = CascadeDrafter(name.split(">"))
    drafter.name = name  # type: ignore[misc]
    return drafter


def measure(
    contenders: Mapping[str, Contender], records: Sequence[PromptRecord], batch: int, params: SamplingParams
) -> None:
    """Fills in the contenders."""
    chats = [[{"role": "user", "content": record.prompt}] for record in records]
    for each in contenders.values():
        warm_up(each.generator, batch)
    names = list(contenders)
    for turn, group in enumerate(track(turns(records, batch), "decoding", disable=len(chats) < 16)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            own = [SamplingParams(max_tokens=params.max_tokens, temperature=params.temperature, seed=n) for n in group]
            texts = contenders[name].generator.generate([chats[n] for n in group], own, progress=False)
            contenders[name].generations.update(zip(group, texts, strict=True))


def turns(records: Sequence[PromptRecord], batch: int) -> list[list[int]]:
    """Numbers of the prompts that are decoded together: of one category, for a request whose drafts are kept makes the
    steps of those beside it longer, and the figures of a category shall not tell of its neighbours."""
    size = 4 * batch if batch > 1 else 1
    return [own[start : start + size] for own in by_category(records).values() for start in range(0, len(own), size)]


def by_category(records: Sequence[PromptRecord]) -> dict[str, list[int]]:
    """Category → numbers of its prompts."""
    found: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        found.setdefault(record.category, []).append(number)
    return found


def warm_up(generator: SpeculativeGenerator, batch: int) -> None:
    """Texts of other prompts: indexes of stores are made, a policy sees the first passes, and on a GPU each new number
    of rows is compiled and captured."""
    others = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)]
    generator.generate(others * batch, SamplingParams(max_tokens=64), progress=False)


def results(contenders: Mapping[str, Contender], records: Sequence[PromptRecord]) -> dict[str, Any]:
    """Contender → figures, overall, by category, and of open chat together."""
    groups = {"overall": list(range(len(records)))} | by_category(records)
    chat = [number for number, record in enumerate(records) if record.category in OPEN_CHAT]
    if chat:
        groups["open chat"] = chat
    plain, found = contenders[PLAIN], {}
    for name, each in contenders.items():
        same = sum(each.generations[n].token_ids == plain.generations[n].token_ids for n in groups["overall"])
        total = DecodingStats.total(each.stats(groups["overall"]))
        found[name] = {
            "same": same,
            "prompts": len(records),
            "drafting": drafting_cost(DecodingStats.total(plain.stats(groups["overall"])), total),
            "memory": sum(drafter.memory() for drafter in each.generator.engine.drafters),
            "steps": {one.name: one.steps / total.passes for one in total.by_drafter},
            "groups": {group: figures(plain.stats(n), each.stats(n)) for group, n in groups.items()},
        }
    return found


def figures(plain: Sequence[DecodingStats], ours: Sequence[DecodingStats]) -> dict[str, Any]:
    """Of some prompts, decoded both ways."""
    before, after = DecodingStats.total(plain), DecodingStats.total(ours)
    return {
        "tau": after.mean_accepted_length,
        "ratio": after.tokens_per_second / before.tokens_per_second,
        "interval": speedup_interval(plain, ours),
        "with_prefill": speedup_with_prefill(before, after),
    }


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line a contender, and a second table by category."""
    groups = next(iter(found.values()))["groups"]
    lines = [
        "| contender | τ | × plain (95 %) | prefill included | open chat | drafting, share of a plain step "
        "| memory, MB | same text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        overall, chat = each["groups"]["overall"], each["groups"].get("open chat")
        low, high = overall["interval"]
        lines.append(
            f"| {name} | {overall['tau']:.2f} | {overall['ratio']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {overall['with_prefill']:.2f} | {chat['ratio'] if chat else float('nan'):.2f} | {each['drafting']:.3f} "
            f"| {each['memory'] / 1e6:.1f} | {each['same']}/{each['prompts']} |"
        )
    named = [group for group in groups if group not in ("overall", "open chat")]
    lines += ["", f"| contender: τ, × plain | {' | '.join(named)} |", "|---" * (len(named) + 1) + "|"]
    for name, each in found.items():
        cells = (f"{each['groups'][group]['tau']:.2f}, {each['groups'][group]['ratio']:.2f}" for group in named)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    chosen = {name: each["steps"] for name, each in found.items() if len(each["steps"]) > 2}
    for name, steps in chosen.items():
        shares = ", ".join(f"{one} {share:.0%}" for one, share in sorted(steps.items(), key=lambda item: -item[1]))
        lines += ["", f"Steps of {name} by whose draft was verified: {shares}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints, and writes the file if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="JSON lines of prompts; the shipped prompts if left out")
    parser.add_argument("--limit", type=int, help="take only N prompts, evenly from all categories")
    parser.add_argument("--contenders", default=CONTENDERS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rule", default=AUTO, help="of acceptance, with a temperature")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="name of a file in docs/results")
    args = parser.parse_args()
    loaded = load(dtype=args.dtype, device=args.device)
    names = dict.fromkeys([PLAIN, *args.contenders.split(",")])
    contenders = {name: contender(loaded, name, args.batch, args.rule) for name in names}
    records = choose(load_prompts(args.data), args.limit)
    measure(contenders, records, args.batch, SamplingParams(max_tokens=args.max_tokens, temperature=args.temperature))
    found = results(contenders, records)
    print(table(found))
    save(Path("docs/results") / args.json if args.json else None, "benchmarks.drafters", found)


if __name__ == "__main__":
    main()
