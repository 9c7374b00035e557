"""What a run learns from: the target's answers, parted into those that teach and those that are held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from specdec.engine import EngineConfig
from specdec.generator import SpeculativeGenerator
from specdec.models.loading import LoadedModel, load
from specdec.models.sources import Files
from specdec.training.batches import Texts
from specdec.training.batchwriter import BatchWriter
from specdec.training.corpus import Corpus, Exchange
from specdec.training.denied import Denied
from specdec.training.given import given
from specdec.training.loop import Data
from specdec.training.progress import Show, Stage
from specdec.training.prompts import Prompter, Template
from specdec.training.settings import Settings
from specdec.training.vocabulary import DraftVocabulary, counted, needed
from specdec.training.writers import EngineWriter, LateWriter, Writer

HELD_OUT_EVERY = 32
"""Of so many greedy answers one is held out, until there are enough."""


class Material:
    """Makes or reads the answers of a run.

    Args:
        settings: of the run.
        files: of the target, on its device.
        started: `time.monotonic()` at the start of the run.
        say: prints a line.
        show: hears how far the answers are.
    """

    def __init__(
        self, settings: Settings, files: Files, started: float, say: Callable[[str], object], show: Show
    ) -> None:
        self._settings, self._files, self._started, self._say, self._show = settings, files, started, say, show
        self._vocab_size = len(files.module.get_output_embeddings().weight)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The target under our kernels, loaded when it is first needed."""
        target, dtype, device = self._settings.target, self._settings.dtype, self._settings.device
        return load(target.get("path"), dtype=dtype, device=device, generation_config="none", **others(target))

    def data(self, as_it_is: bool) -> tuple[Data, DraftVocabulary]:
        """Texts to learn from, texts to try the head on, and the draft vocabulary.

        Args:
            as_it_is: make no more answers than there are: a checkpoint belongs to a draft vocabulary.
        """
        learnt, held = list[Exchange](), list[Exchange]()
        for one, apart in parted(self._exchanges(as_it_is), self._settings.held_out):
            (held if apart else learnt).append(one)
        counts = counted((one.answer for one in learnt), self._vocab_size)
        forced = needed(self._files.tokenizer, self._vocab_size)
        vocabulary = DraftVocabulary.of(counts, self._settings.head.draft_vocab_size, forced)
        texts, tried = pairs(learnt), pairs(held, len(learnt))
        known = counted((one.answer for one in held), self._vocab_size)
        covered = float(known[vocabulary.ids].sum() / known.sum().clamp(min=1))
        self._say(
            f"{len(texts)} answers of {texts.num_answer_tokens} tokens, and {len(tried)} held out; the draft "
            f"vocabulary has {covered:.2%} of these ({vocabulary.coverage:.2%} of the others)"
        )
        return Data(texts, tried, tuple(one.source for one in (*learnt, *held))), vocabulary

    def _exchanges(self, as_it_is: bool) -> Iterator[Exchange]:
        settings, files = self._settings, self._files
        eos = frozenset(files.words.eos())
        writer, seconds = LateWriter(lambda: self._writer(eos)), settings.schedule.seconds
        until = float("inf") if seconds is None else self._started + settings.answer_share * seconds
        if as_it_is:
            until = 0.0
        denied = Denied.read([Path(path) for path in settings.deny])
        own = given(settings.prompts)
        prompter = Prompter(Template(files.tokenizer), writer, settings.mix, denied, eos, settings.seed, own)
        corpus = Corpus(settings.folder / "answers", prompter, writer, settings.answers, settings.of_texts)
        tokens = 0
        for chunk in corpus.chunks(until):
            tokens += sum(len(one.answer) for one in chunk)
            self._show(answering(tokens, settings.answers.tokens, corpus.rate, until - time.monotonic()))
            yield from chunk

    def _writer(self, eos: frozenset[int]) -> Writer:
        """Large batches on a GPU; on a CPU our engine, whose kernels are faster than any batch there."""
        settings = self._settings
        if settings.writer == "batch" or (settings.writer == "auto" and settings.device != "cpu"):
            return BatchWriter(self._files.module, eos, settings.cells)
        return EngineWriter(SpeculativeGenerator(self.loaded, "none", config=EngineConfig(max_num_seqs=32)))


def answering(tokens: int, asked: int, rate: float | None, most: float) -> Stage:
    """How far the answers are.

    >>> print(answering(500, 2000, 25.0, float("inf")))
    answers 25 %, 1 min left: 500 of 2,000 tokens, 25 tokens/s

    Args:
        tokens, asked: written, and wanted.
        rate: tokens a second; None if none was written yet but only read.
        most: seconds after which it ends in any case.
    """
    left = None if rate is None else max(min((asked - tokens) / rate, most), 0.0)
    speed = "" if rate is None else f", {rate:.0f} tokens/s"
    return Stage("answers", min(tokens / asked, 1.0), left, f"{tokens:,} of {asked:,} tokens{speed}")


def parted(exchanges: Iterable[Exchange], most: int) -> Iterator[tuple[Exchange, bool]]:
    """Each with whether it is held out; no more than `most` are."""
    greedy = held = 0
    for one in exchanges:
        greedy += not one.drawn
        apart = not one.drawn and greedy % HELD_OUT_EVERY == 1 and held < most
        held += apart
        yield one, apart


def pairs(exchanges: Sequence[Exchange], first: int = 0) -> Texts:
    """Prompts and answers, numbered from `first` on."""
    return Texts(((one.prompt, one.answer) for one in exchanges), first)


def clock(started: float) -> str:
    """How long a run has been going on."""
    return f"[{time.monotonic() - started:6.1f} s]"


def others(target: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the target's files, without their place."""
    return {name: value for name, value in target.items() if name != "path"}
