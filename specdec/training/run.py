"""One run, from nothing to a head: prompts, answers, the draft vocabulary, training, files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from specdec.checks import flag, number, settle, several, whole
from specdec.engine import EngineConfig
from specdec.errors import ConfigError
from specdec.generator import SpeculativeGenerator
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.heads.files import save_head
from specdec.models.backends import DTYPES
from specdec.models.llama import LlamaWeights
from specdec.models.sources import Files, read
from specdec.places import write
from specdec.training.batches import Batching, Texts
from specdec.training.batchwriter import BatchWriter
from specdec.training.checkpoint import Progress
from specdec.training.corpus import Answers, Corpus, Exchange
from specdec.training.denied import Denied
from specdec.training.loop import Data, Loop, LoopConfig
from specdec.training.losses import LossConfig
from specdec.training.prompts import Mix, Prompter, Template
from specdec.training.schedule import Schedule
from specdec.training.teacher import Teacher
from specdec.training.vocabulary import DraftVocabulary, counted, needed
from specdec.training.writers import EngineWriter, Writer

HELD_OUT_EVERY = 32
"""Of so many greedy answers one is held out, until there are enough."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class HeadOptions:
    """What the head is; the rest is as in the target.

    Args:
        num_layers: layers, which begin as the target's last ones.
        block_size: γ, tokens of a draft.
        taps: boundaries of the target that it reads; None takes one near the first layer, the middle and near the last.
        draft_vocab_size: tokens that it knows.
        markov_rank: of what it learns of a token from the one before; 0 for nothing.
        causal: a block's row sees only the rows before it.
        qk_norm: norms of single queries and keys, which a target need not have.
        fc_norm: a norm for each tap.
        mask_token_id: stands in a block's rows; None takes the last special token.
    """

    num_layers: int = 2
    block_size: int = 6
    taps: tuple[int, ...] | None = None
    draft_vocab_size: int = 8192
    markov_rank: int = 64
    causal: bool = True
    fc_norm: bool = True
    mask_token_id: int | None = None

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("num_layers", "block_size", "draft_vocab_size"), whole(1))
        flags = dict.fromkeys(("causal", "fc_norm"), flag())
        settle(
            self,
            {
                **counts,
                **flags,
                "markov_rank": whole(),
                "mask_token_id": whole().or_none(),
                "taps": several(whole(), "layer boundaries", least=1).or_none(),
            },
        )


@dataclass(frozen=True)
class Settings:
    """All of a run.

    Args:
        output: folder of the run: answers, checkpoint, head, curves.
        target: path of the target, or None for the embedded one.
        dtype, device: of the target.
        seed: of everything.
        deny: files of what nothing may overlap with.
        answer_share: of `schedule.seconds`, how much of the time may be gone when the last chunk of answers is begun.
        cells: tokens in the cache of the writer of large batches, on a GPU.
        held_out: greedy answers to try the head on.
        head, mix, answers, batching, loss, schedule, loop: see these.
    """

    output: Path
    target: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    deny: tuple[Path, ...] = ()
    answer_share: float = 0.4
    cells: int = 1 << 16
    held_out: int = 128
    head: HeadOptions = HeadOptions()
    mix: Mix = Mix()
    answers: Answers = Answers()
    batching: Batching = Batching()
    loss: LossConfig = LossConfig()
    schedule: Schedule = Schedule()
    loop: LoopConfig = LoopConfig()

    def __post_init__(self) -> None:
        share = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
        settle(self, {"seed": whole(0, 2**31), "answer_share": share, "cells": whole(1), "held_out": whole()})
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} cannot teach. Give one of {', '.join(DTYPES)}.")

    @property
    def of_texts(self) -> dict[str, Any]:
        """What the answers depend on, but for their number."""
        return {"target": self.target, "dtype": self.dtype, "device": self.device, "seed": self.seed,
                "mix": json.loads(json.dumps(asdict(self.mix))), "deny": [path.name for path in self.deny]}  # fmt: skip

    @property
    def of_head(self) -> dict[str, Any]:
        """What the head depends on."""
        parts = ("head", "answers", "batching", "loss", "schedule")
        chosen = {name: asdict(getattr(self, name)) for name in parts} | {"held_out": self.held_out}
        found: dict[str, Any] = json.loads(json.dumps(self.of_texts | chosen))
        return found


class Run:
    """What a run is made of, loaded.

    Args:
        settings: of the run.
        say: prints a line.
        started: `time.monotonic()` at the start of the run.
    """

    def __init__(self, settings: Settings, say: Say = print, started: float | None = None) -> None:
        self._settings, self._say = settings, say
        self._started = time.monotonic() if started is None else started
        files = read(settings.target, DTYPES[settings.dtype])
        self._files = Files(files.module.to(settings.device), files.tokenizer, files.words)
        self._weights = LlamaWeights.of(self._files.module, "the target")

    def train(self) -> Progress:
        """Makes or reads the answers, then trains, and writes the head and its curves."""
        settings = self._settings
        data, vocabulary = self._data()
        head = self._head(vocabulary)
        teacher = Teacher(self._files.module, head.config.taps)
        loop = Loop(
            head, teacher, data, settings.batching, settings.loss, settings.schedule, settings.loop,
            settings.output / "checkpoint.safetensors", settings.of_head, self._tell, self._started,
        )  # fmt: skip
        progress = loop.run()
        save_head(head.cpu(), settings.output / "head", weights="int8")
        record = {**asdict(progress), "coverage": vocabulary.coverage, "answer_tokens": data.texts.num_answer_tokens}
        write(settings.output / "training.json", json.dumps(record, indent=1) + "\n")
        self._say(f"{settings.output / 'head'}: τ {progress.curves[-1]['held_out']['tau']:.3f} on held-out answers")
        return progress

    def _data(self) -> tuple[Data, DraftVocabulary]:
        learnt, held = list[Exchange](), list[Exchange]()
        greedy = 0
        for one in self._exchanges():
            greedy += not one.drawn
            apart = not one.drawn and greedy % HELD_OUT_EVERY == 1 and len(held) < self._settings.held_out
            (held if apart else learnt).append(one)
        counts = counted((one.answer for one in learnt), self._weights.vocab_size)
        forced = needed(self._files.tokenizer, self._weights.vocab_size)
        vocabulary = DraftVocabulary.of(counts, self._settings.head.draft_vocab_size, forced)
        texts, others = (Texts((one.prompt, one.answer) for one in part) for part in (learnt, held))
        known = counted((one.answer for one in held), self._weights.vocab_size)
        covered = float(known[vocabulary.ids].sum() / known.sum().clamp(min=1))
        self._say(
            f"{len(texts)} answers of {texts.num_answer_tokens} tokens, and {len(others)} held out; the draft "
            f"vocabulary has {covered:.2%} of these ({vocabulary.coverage:.2%} of the others)"
        )
        return Data(texts, others), vocabulary

    def _exchanges(self) -> Iterator[Exchange]:
        settings, files = self._settings, self._files
        eos = frozenset(files.words.eos())
        writer, seconds = self._writer(eos), settings.schedule.seconds
        until = float("inf") if seconds is None else self._started + settings.answer_share * seconds
        denied = Denied.read(settings.deny)
        prompter = Prompter(Template(files.tokenizer), writer, settings.mix, denied, eos, settings.seed)
        corpus = Corpus(settings.output / "answers", prompter, writer, settings.answers, settings.of_texts)
        tokens = 0
        for number, chunk in enumerate(corpus.chunks(until)):
            tokens += sum(len(one.answer) for one in chunk)
            self._say(f"{self._clock()} answers: chunk {number}, {len(chunk)} texts, {tokens} tokens in all")
            yield from chunk

    def _writer(self, eos: frozenset[int]) -> Writer:
        """Large batches on a GPU; on a CPU our engine, whose kernels are faster than any batch there."""
        settings = self._settings
        if settings.device != "cpu":
            return BatchWriter(self._files.module, eos, settings.cells)
        sizes = EngineConfig(max_num_seqs=32)
        return EngineWriter(
            SpeculativeGenerator.from_pretrained(settings.target, "none", dtype=settings.dtype, config=sizes)
        )

    def _head(self, vocabulary: DraftVocabulary) -> BlockHead:
        options, layers = self._settings.head, len(self._weights.layers)
        special = [token for token in self._files.tokenizer.all_special_ids if token < self._weights.vocab_size]
        config = HeadConfig.like(
            self._files.module.config,
            "block",
            num_layers=options.num_layers,
            block_size=options.block_size,
            taps=options.taps or spread(layers),
            draft_vocab_size=options.draft_vocab_size,
            markov_rank=options.markov_rank,
            confidence=self._settings.loss.confidence > 0,
            causal=options.causal,
            fc_norm=options.fc_norm,
            mask_token_id=max(special, default=0) if options.mask_token_id is None else options.mask_token_id,
        )
        torch.manual_seed(self._settings.seed)
        head = BlockHead(config, vocabulary.ids)
        head.start_from(self._weights, self._settings.seed)
        head.to(self._settings.device)
        head.bind(self._weights.embedding, self._weights.head)
        return head

    def _tell(self, point: dict[str, Any]) -> None:
        """One line, with the time that is left."""
        positions = " ".join(f"{share:.3f}" for share in point["accuracy"])
        found = point.get("held_out")
        tau = (
            ""
            if found is None
            else f"  held out: τ {found['tau']:.3f}, {' '.join(f'{s:.3f}' for s in found['accuracy'])}"
        )
        self._say(
            f"{self._clock()} step {point['step']}, {point['left']:.0f} s left: loss {point['loss']:.4f}, hits "
            f"{positions}{tau}"
        )

    def _clock(self) -> str:
        return f"[{time.monotonic() - self._started:6.1f} s]"


def spread(layers: int) -> tuple[int, ...]:
    """Boundaries near the first layer, in the middle, and near the last (EAGLE-3's choice)."""
    return tuple(sorted({min(2, layers), layers // 2, max(layers - 3, 1)}))
