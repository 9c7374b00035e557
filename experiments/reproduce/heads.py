"""Trained heads compared: DSpark (arXiv 2607.05147), EAGLE-3 (2503.01840) and FastMTP (2509.18362), whose targets have
4B to 8B parameters and whose heads saw hundreds of thousands of answers.

Every head here learns from the same answers of the target, for as many epochs, from one seed, and is tried on the same
answers that were held out; one learns from as many tokens that the target did not write. τ is simulated: greedy drafts,
walked through as an engine would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.reproduce.foreign import replaced
from experiments.reproduce.head_arms import BASE, STEPS, VOCABULARIES, Arm, Question, arms, questions
from experiments.reproduce.options import Options
from experiments.reproduce.training_free import in_order
from specdec.errors import ConfigError
from specdec.heads.files import load_head
from specdec.models.backends import DTYPES
from specdec.models.sources import read
from specdec.training.batches import Batching
from specdec.training.corpus import Answers, read_chunk
from specdec.training.losses import LossConfig
from specdec.training.material import others, parted
from specdec.training.prompts import Mix, Template
from specdec.training.run import Run
from specdec.training.schedule import LoopConfig, Schedule
from specdec.training.settings import HeadOptions, Settings

TITLE = "Trained heads: architectures, answers, vocabularies, training-time test"
TAPS = "taps.*"
"""Files of what the target saw: gigabytes, which serve all arms that read the same answers at the same layers."""
NOTE = """
Hits are behind the true text. One seed a head: differences of a few hundredths of τ may be chance. One recipe for all,
that of the small preset, which was chosen for EAGLE-3.
"""


def settings(options: Options) -> Settings:
    """Of all arms: the recipe of the trainer's small preset on half its epochs, or little of it."""
    folder = str(options.kept / "heads")
    denied = () if options.data is None else (str(options.data),)
    head, loss = HeadOptions("block", block_size=STEPS[-1]), LossConfig(ce=0.0, kl=1.0, tv=0.0)
    if options.quick:
        return Settings(
            folder, held_out=4, deny=denied, head=head, loss=loss, mix=Mix(tasks=0.8, passages=0.0, second_turns=0.0),
            answers=Answers(tokens=2000, chunk=32, max_tokens=32), batching=Batching(4, 32, 256),
            schedule=Schedule(epochs=1), loop=LoopConfig(points=2, evaluations=1),
        )  # fmt: skip
    large = options.device != "cpu"
    return Settings(
        folder, dtype="bfloat16", device=options.device, deny=denied, taps_gib=8.0, head=head, loss=loss,
        cells=1_000_000,
        answers=Answers(options.tokens, chunk=2048 if large else 64, max_tokens=256, prompt_tokens=512),
        batching=Batching(8, 768, 768) if large else Batching(2, 512, 512), schedule=Schedule(epochs=3, lr=2e-3),
        loop=LoopConfig(bfloat16=True, evaluations=1),
    )  # fmt: skip


def run(options: Options) -> dict[str, Any]:
    """Arm → what it can do. A head that is there is read, one that was interrupted goes on."""
    return study(settings(options), VOCABULARIES, options.jobs)


def study(base: Settings, vocabularies: Sequence[int], jobs: int = 1) -> dict[str, Any]:
    """See `run`.

    Args:
        base: of all arms; below its folder each arm has one of its own.
        vocabularies: four draft vocabularies, the second the base's.
        jobs: arms that are trained at a time, after the base.
    """
    known = arms(vocabularies)
    if jobs == 1:
        found = {name: outcome(name, arm, base) for name, arm in known.items()}
    else:  # a process for each, so that no head finds a GPU's memory held by one that is trained already
        first, *later = ((name, arm, base) for name, arm in known.items())
        with get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
            done = [pool.apply(outcome, first), *pool.starmap(outcome, later, chunksize=1)]
        found = dict(zip(known, done, strict=True))
    for name in known:
        for file in _folder(base, name).glob(TAPS):
            file.unlink()
    return {"arms": found, "vocabularies": list(vocabularies)}


def outcome(name: str, arm: Arm, base: Settings) -> dict[str, Any]:
    """What an arm can do, trained if it is not yet."""
    own = replace(
        base, output=str(_folder(base, name)), head=replace(base.head, **arm.head),
        loss=replace(base.loss, rows=arm.rows),
    )  # fmt: skip
    record = finished(own)
    if record is None:
        _place_answers(own, base, arm)
        _place_taps(own, base, arm)
        Run(own, lambda line: print(f"{name}: {line}", flush=True)).train()
        record = finished(own)
        assert record is not None
    head = load_head(own.folder / "head")
    last = record["curves"][-1]["held_out"]
    return {
        "tau": last["tau"], "hits": last["accuracy"], "alive": last["survival"], "tokens": record["tokens"],
        "weights": sum(weight.numel() for weight in head.parameters()),
        "coverage": coverage(head.draft_ids, base),
    }  # fmt: skip


def finished(own: Settings) -> dict[str, Any] | None:
    """The record of an arm that was trained to its end; None if there is none.

    Raises:
        ConfigError: if it was trained with other settings.
    """
    file = own.folder / "training.json"
    if not file.exists():
        return None
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    there, asked = record["settings"], own.of_head
    if other := sorted(name for name in asked if there.get(name) != asked[name]):
        raise ConfigError(
            f"{own.folder} was trained with another {', '.join(other)}. Give another --kept, or delete it."
        )
    return record


def coverage(ids: torch.Tensor, base: Settings) -> float:
    """Share of the held-out answers' tokens that are in a draft vocabulary."""
    chunks = map(read_chunk, sorted((_folder(base, BASE) / "answers").glob("*.safetensors")))
    held = [one.answer for one, apart in parted(chain.from_iterable(chunks), base.held_out) if apart]
    tokens = torch.tensor([token for answer in held for token in answer])
    return float(torch.isin(tokens, ids.cpu()).double().mean())


def _folder(base: Settings, name: str) -> Path:
    return base.folder / name.replace("'", "").replace(", ", "-").replace(" ", "-")


def _place_answers(own: Settings, base: Settings, arm: Arm) -> None:
    """All arms but the first find the answers that the first has made, or others as many and as long."""
    there, here = _folder(base, BASE) / "answers", own.folder / "answers"
    if here == there or (here.exists() and not arm.foreign):
        return
    own.folder.mkdir(parents=True, exist_ok=True)
    if not arm.foreign:
        here.symlink_to(there.resolve(), target_is_directory=True)
        return
    tokenizer = read(own.target.get("path"), DTYPES[own.dtype], **others(own.target)).tokenizer
    replaced(there, here, Template(tokenizer), own.held_out, own.mix.packages, own.seed)


def _place_taps(own: Settings, base: Settings, arm: Arm) -> None:
    """Of an arm that reads the same, if there is one; `TapStore` refuses what other settings have left."""
    if arm.foreign or any(own.folder.glob(TAPS)):
        return
    alike = (name for name, other in arms().items() if not other.foreign and other.architecture == arm.architecture)
    for folder in (_folder(base, name) for name in alike):
        if files := list(folder.glob(TAPS)):
            own.folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                (own.folder / file.name).hardlink_to(file)
            return


def table(result: dict[str, Any]) -> str:
    """Markdown: a table a question, and whether ours stand in the published order."""
    return "\n".join(_answered(one, result["arms"]) for one in questions(result["vocabularies"])) + NOTE


def _answered(question: Question, found: Mapping[str, Any]) -> str:
    heads = ["head", "weights learnt", "tokens seen", "vocabulary has", "τ", "τ, published", "hits at 1, 2, …",
             "drafts right up to 1, 2, …"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, published in question.published.items():
        one = found[name]
        cells = [name, f"{one['weights'] / 1e6:.2f} M", f"{one['tokens']:,}", f"{one['coverage']:.1%}",
                 f"{one['tau']:.3f}", "" if published is None else f"{published:.2f}",
                 _shares(one["hits"]), _shares(one["alive"])]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    known = {name: value for name, value in question.published.items() if value is not None}
    right, pairs = in_order(known, {name: found[name]["tau"] for name in known})
    verdict = f"{right} of {pairs} pairs stand in the published order."
    return f"### {question.title}\n\nPublished: {question.source}.\n\n" + "\n".join(lines) + f"\n\n{verdict}\n"


def _shares(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares)
