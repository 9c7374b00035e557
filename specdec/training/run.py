"""One run, from nothing to a head: prompts, answers, the draft vocabulary, training, files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

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
from specdec.training.batches import Texts
from specdec.training.batchwriter import BatchWriter
from specdec.training.card import card
from specdec.training.checkpoint import Progress
from specdec.training.corpus import Corpus, Exchange
from specdec.training.denied import Denied
from specdec.training.loop import Data, Loop
from specdec.training.prompts import Prompter, Template
from specdec.training.settings import Settings, spread
from specdec.training.teacher import Teacher
from specdec.training.vocabulary import DraftVocabulary, counted, needed
from specdec.training.writers import EngineWriter, LateWriter, Writer

HELD_OUT_EVERY = 32
"""Of so many greedy answers one is held out, until there are enough."""
LONGEST_WAIT = timedelta(days=30)
"""For other processes: answers take hours."""
Say = Callable[[str], object]


class Run:
    """What a run is made of, loaded.

    Args:
        settings: of the run.
        say: prints a line.
        started: `time.monotonic()` at the start of the run.
    """

    def __init__(self, settings: Settings, say: Say = print, started: float | None = None) -> None:
        self._settings, self._print = settings, say
        self._started = time.monotonic() if started is None else started
        files = read(settings.target.get("path"), DTYPES[settings.dtype], **_others(settings.target))
        self._state = PartialState(cpu=settings.device == "cpu", timeout=LONGEST_WAIT)
        self._files = Files(files.module.to(self._state.device), files.tokenizer, files.words)
        self._weights = LlamaWeights.of(self._files.module, "the target")

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, of all that train together."""
        found: bool = self._state.is_main_process
        return found

    def train(self) -> Progress:
        """Makes or reads the answers, then trains, and writes the head and its curves."""
        settings = self._settings
        with self._state.main_process_first():  # it makes the answers, and the others read them
            data, vocabulary = self._data()
        head = self._head(vocabulary)
        teacher = Teacher(self._files.module, head.config.taps)
        loop = Loop(
            head, teacher, data, settings.batching, settings.loss, settings.schedule, settings.loop,
            self._checkpoint, settings.of_head | {"texts": len(data.texts)}, self._tell, self._started,
        )  # fmt: skip
        progress = loop.run()
        if not progress.step:
            seconds = settings.schedule.seconds
            raise ConfigError(f"schedule.seconds={seconds} were over before the first step. Give more.")
        if self._state.is_main_process:
            self._write(head.cpu(), progress, data, vocabulary)
        return progress

    @property
    def _checkpoint(self) -> Path:
        return self._settings.folder / "checkpoint.safetensors"

    def _write(self, head: BlockHead, progress: Progress, data: Data, vocabulary: DraftVocabulary) -> None:
        folder = self._settings.folder
        save_head(head, folder / "head", weights="int8")
        record = asdict(progress) | {
            "coverage": vocabulary.coverage,
            "answer_tokens": data.texts.num_answer_tokens,
            "processes": self._state.num_processes,
        }
        write(folder / "training.json", json.dumps(record, indent=1) + "\n")
        write(folder / "head" / "README.md", card(self._settings, record))
        self._say(f"{folder / 'head'}: best τ {progress.best:.3f} on held-out answers")

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
        writer, seconds = LateWriter(lambda: self._writer(eos)), settings.schedule.seconds
        until = float("inf") if seconds is None else self._started + settings.answer_share * seconds
        if self._checkpoint.exists():  # the draft vocabulary must stay
            until = 0.0
        denied = Denied.read([Path(path) for path in settings.deny])
        prompter = Prompter(Template(files.tokenizer), writer, settings.mix, denied, eos, settings.seed)
        corpus = Corpus(settings.folder / "answers", prompter, writer, settings.answers, settings.of_texts)
        tokens = 0
        for place, chunk in enumerate(corpus.chunks(until)):
            tokens += sum(len(one.answer) for one in chunk)
            self._say(f"{self._clock()} answers: chunk {place}, {len(chunk)} texts, {tokens} tokens in all")
            yield from chunk

    def _writer(self, eos: frozenset[int]) -> Writer:
        """Large batches on a GPU; on a CPU our engine, whose kernels are faster than any batch there."""
        settings = self._settings
        if settings.writer == "batch" or (settings.writer == "auto" and settings.device != "cpu"):
            return BatchWriter(self._files.module, eos, settings.cells)
        path, others = settings.target.get("path"), _others(settings.target)
        sizes = EngineConfig(max_num_seqs=32)
        generator = SpeculativeGenerator.from_pretrained(path, "none", dtype=settings.dtype, config=sizes, **others)
        return EngineWriter(generator)

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
        head.to(self._state.device)
        head.bind(self._weights.embedding, self._weights.head)
        return head

    def _say(self, line: str) -> None:
        if self._state.is_main_process:
            self._print(line)

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


def _others(target: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the target's files, without their place."""
    return {name: value for name, value in target.items() if name != "path"}


def _shares(shares: list[float]) -> str:
    return " ".join(f"{share:.3f}" for share in shares)
