"""Answers that the target did not write: passages of installed packages, as many and as long as the target's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from random import Random

from specdec.training.corpus import MANIFEST, Exchange, read_chunk, write_chunk
from specdec.training.material import parted
from specdec.training.passages import passages
from specdec.training.prompts import PASSAGE, Template
from specdec.training.writers import Tokens

BEGIN = 8
"""Words of a passage that are given; the answer goes on with it."""
PASSAGES = 2000


def replaced(own: Path, folder: Path, template: Template, held_out: int, packages: Sequence[str], seed: int) -> None:
    """Copies chunks of answers, with others' words in place of all answers that are learnt from. Those held out stay.

    What is there is left as it is, so that it may be called again after any end.

    Args:
        own: folder of the target's answers.
        folder: where to.
        template: of the target.
        held_out: how many are.
        packages, seed: where passages come from, and their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(own / MANIFEST, folder / MANIFEST)
    known = passages(packages, PASSAGES, seed)
    files = sorted(own.glob("*.safetensors"))
    chunks = [read_chunk(file) for file in files]
    apart = (held for _, held in parted(chain.from_iterable(chunks), held_out))
    for number, (file, chunk) in enumerate(zip(files, chunks, strict=True)):
        marked = list(zip(chunk, islice(apart, len(chunk)), strict=True))
        if not (folder / file.name).exists():
            words = _endless(known, Random(f"foreign {seed} {number}"))
            write_chunk(folder / file.name, [one if held else _foreign(one, words, template) for one, held in marked])


def _endless(known: Sequence[str], random: Random) -> Iterator[str]:
    while True:
        yield from random.sample(known, len(known))


def _foreign(one: Exchange, words: Iterator[str], template: Template) -> Exchange:
    """A passage to go on with, whose rest, with passages behind it, has as many tokens; the end is the own answer's."""
    first = next(words).split()
    asked = f"Continue this text: {' '.join(first[:BEGIN])}"
    answer = _tokens(" ".join(first[BEGIN:]), template)
    while len(answer) < len(one.answer):
        answer += _tokens(f"\n\n{next(words)}", template)
    answer = [*answer[: len(one.answer) - 1], one.answer[-1]]
    [prompt] = template.encode([template.asked((asked,))])
    [text] = template.decode([answer])
    return replace(one, turns=(asked, text), prompt=prompt, answer=answer, source=PASSAGE)


def _tokens(text: str, template: Template) -> Tokens:
    [tokens] = template.encode([text])
    return tokens
