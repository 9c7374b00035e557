"""The target's answers to its prompts, in files of one chunk each: made once, and gone on with after any end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from specdec.checks import number, settle, whole
from specdec.errors import ConfigError
from specdec.places import write
from specdec.training.prompts import Prompter, Turns
from specdec.training.records import read_record, write_record
from specdec.training.writers import Tokens, Way, Writer

MANIFEST = "corpus.json"
UNKNOWN = "unknown"
"""Source of an exchange whose file does not tell it."""


@dataclass(frozen=True)
class Exchange:
    """A conversation, and the target's last answer in it.

    Args:
        turns: the user's words first, the answer last.
        prompt, answer: token ids; an end token last, if it came.
        drawn: at temperature 1, or the likeliest tokens.
        source: of the user's last words, one of `specdec.training.prompts.SOURCES`, or `UNKNOWN`.
    """

    turns: Turns
    prompt: Tokens
    answer: Tokens
    drawn: bool
    source: str = UNKNOWN


@dataclass(frozen=True)
class Answers:
    """How much is answered, and how.

    Args:
        tokens: tokens of all answers together, about; no new chunk begins after that.
        chunk: prompts of one chunk.
        max_tokens: most tokens of one answer.
        prompt_tokens: most tokens of a prompt; longer prompts are dropped.
        drawn: share of the answers that are sampled at temperature 1. The rest is greedy.
    """

    tokens: int = 1_000_000
    chunk: int = 64
    max_tokens: int = 256
    prompt_tokens: int = 256
    drawn: float = 0.3

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("tokens", "chunk", "max_tokens", "prompt_tokens"), whole(1))
        settle(self, {**counts, "drawn": number(lambda value: 0 <= value <= 1, "a number from 0 to 1")})


class Corpus:
    """Chunks of exchanges in a folder. A chunk follows from the settings and from the chunks before it.

    Args:
        folder: it is made if it is not there.
        prompter, writer: make prompts, and answer them.
        size: how much is answered.
        settings: all that the chunks depend on, for the manifest.

    Raises:
        ConfigError: if the folder holds what other settings have made.
    """

    def __init__(
        self, folder: Path, prompter: Prompter, writer: Writer, size: Answers, settings: dict[str, Any]
    ) -> None:
        self._folder, self._prompter, self._writer, self._size = folder, prompter, writer, size
        settings = settings | {name: value for name, value in asdict(size).items() if name != "tokens"}
        manifest = folder / MANIFEST
        if manifest.exists() and (there := json.loads(manifest.read_text(encoding="utf-8"))) != settings:
            other = sorted(name for name in settings if there.get(name) != settings[name])
            raise ConfigError(f"{folder} was made with another {', '.join(other) or 'setting'}. Give another folder.")
        write(manifest, json.dumps(settings, indent=1))
        self._made_tokens, self._making = 0, 0.0

    @property
    def rate(self) -> float | None:
        """Tokens of answers a second, prompts and all, as far as this object made them; None before its first chunk."""
        return self._made_tokens / max(self._making, 1e-9) if self._made_tokens else None

    def chunks(self, until: float = float("inf")) -> Iterator[list[Exchange]]:
        """Every chunk, read or made, until there are enough tokens.

        Args:
            until: by `time.monotonic`; no chunk is begun that would not be done by then if it took as long as the last.
        """
        number, tokens, took, last = 0, 0, 0.0, list[Exchange]()
        while tokens < self._size.tokens:
            path = self._folder / f"{number:05d}.safetensors"
            if path.exists():
                last = read_chunk(path)
                for one in last:
                    self._prompter.remember(one.turns[:-1])
            elif (began := time.monotonic()) + took < until:
                last = self._made(number, last)
                write_chunk(path, last)
                took = time.monotonic() - began
                self._making += took
                self._made_tokens += _tokens(last)
            else:
                return
            yield last
            tokens += _tokens(last)
            number += 1

    def _made(self, chunk: int, before: Sequence[Exchange]) -> list[Exchange]:
        size, template = self._size, self._prompter.template
        asked = self._prompter.prompts(size.chunk, chunk, [one.turns for one in before])
        encoded = zip(asked, template.encode([template.asked(one.turns) for one in asked]), strict=True)
        short = [(one, prompt) for one, prompt in encoded if len(prompt) <= size.prompt_tokens]
        random = Random(f"answers {self._prompter.seed} {chunk}")
        drawn = [random.random() < size.drawn for _ in short]
        ways = [Way(size.max_tokens, float(one), seed=random.getrandbits(40)) for one in drawn]
        answers = self._writer.write([prompt for _, prompt in short], ways)
        texts = template.decode(answers)
        return [
            Exchange((*one.turns, text), prompt, answer, at_random, one.source)
            for (one, prompt), answer, text, at_random in zip(short, answers, texts, drawn, strict=True)
            if not self._prompter.denied.holds(text)
        ]


def _tokens(exchanges: Sequence[Exchange]) -> int:
    return sum(len(one.answer) for one in exchanges)


def write_chunk(path: Path, exchanges: Sequence[Exchange]) -> None:
    """Writes exchanges to a file, all or nothing: token ids, int32, and the words."""
    tokens = [token for one in exchanges for token in (*one.prompt, *one.answer)]
    tensors = {
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "lengths": torch.tensor([(len(one.prompt), len(one.answer)) for one in exchanges], dtype=torch.int32),
        "drawn": torch.tensor([one.drawn for one in exchanges], dtype=torch.bool),
    }
    words = {"turns": [one.turns for one in exchanges], "sources": [one.source for one in exchanges]}
    write_record(path, tensors, {name: json.dumps(each) for name, each in words.items()})


def read_chunk(path: Path) -> list[Exchange]:
    """What `write_chunk` wrote.

    Raises:
        ConfigError: if the file is damaged.
    """
    try:
        tensors, words = read_record(path)
        turns = json.loads(words["turns"])
        lengths = tensors["lengths"].view(-1, 2)
        pieces = iter(torch.split(tensors["tokens"], lengths.flatten().tolist()))
        pairs = [(next(pieces).tolist(), next(pieces).tolist()) for _ in turns]
        drawn = tensors["drawn"].tolist()
        sources = json.loads(words["sources"]) if "sources" in words else [UNKNOWN] * len(turns)
        return [
            Exchange(tuple(t), *pair, one, source)
            for t, pair, one, source in zip(turns, pairs, drawn, sources, strict=True)
        ]
    except Exception as error:
        raise ConfigError(f"{path} is damaged: {error}. Delete it, and it will be made again.") from error
