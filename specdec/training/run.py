"""One run, from nothing to a head: prompts, answers, the draft vocabulary, training, files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState

from specdec.errors import ConfigError
from specdec.heads.base import ChainHead
from specdec.heads.files import save_head
from specdec.models.backends import DTYPES
from specdec.models.llama import LlamaWeights
from specdec.models.sources import Files, read
from specdec.places import write
from specdec.training.bysource import learnt, tried
from specdec.training.card import card
from specdec.training.checkpoint import Progress
from specdec.training.loop import Data, Loop
from specdec.training.material import Material, clock, others
from specdec.training.newhead import new_head
from specdec.training.progress import Show, Stage
from specdec.training.settings import Settings
from specdec.training.simulate import simulate
from specdec.training.taps import ResidentTeacher, StoredTeacher, TapStore, Watch, watching
from specdec.training.teacher import Teacher
from specdec.training.vocabulary import DraftVocabulary

LONGEST_WAIT = timedelta(days=30)
"""For other processes: answers take hours."""
Say = Callable[[str], object]
Track = Callable[[dict[str, float]], object]


class Run:
    """What a run is made of, loaded.

    Args:
        settings: of the run.
        say: prints a line.
        started: `time.monotonic()` at the start of the run.
        track: hears of every point of the curves, as flat figures (`figures_of`).
        show: hears how far the run is; lines if it is left out.
    """

    def __init__(
        self,
        settings: Settings,
        say: Say = print,
        started: float | None = None,
        track: Track = lambda values: None,
        show: Show | None = None,
    ) -> None:
        self._settings, self._print, self._track, self._show = settings, say, track, show
        self._started = time.monotonic() if started is None else started
        files = read(settings.target.get("path"), DTYPES[settings.dtype], **others(settings.target))
        self._state = PartialState(cpu=settings.device == "cpu", timeout=LONGEST_WAIT)
        self._files = Files(files.module.to(self._state.device), files.tokenizer, files.words)
        self._weights = LlamaWeights.of(self._files.module, "the target")
        self._material = Material(settings, self._files, self._started, self._say, self._at)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, of all that train together."""
        found: bool = self._state.is_main_process
        return found

    def train(self) -> Progress:
        """Makes or reads the answers, then trains, and writes the head and its curves."""
        settings = self._settings
        with self._state.main_process_first():  # it makes the answers, and the others read them
            data, vocabulary = self._material.data(self._checkpoint.exists())
        head = self._head(vocabulary)
        teacher = self._teacher(head, data)
        loop = Loop(
            head, teacher, data, settings.batching, settings.loss, settings.schedule, settings.loop,
            self._checkpoint, settings.of_head | {"texts": len(data.texts)}, self._tell, self._started,
        )  # fmt: skip
        progress = loop.run()
        if not progress.step:
            seconds = settings.schedule.seconds
            raise ConfigError(f"schedule.seconds={seconds} were over before the first step. Give more.")
        if self._state.is_main_process:
            held_out = tried(data, lambda texts: simulate(head, teacher, texts, settings.batching))
            self._write(head.cpu(), progress, data, vocabulary, held_out)
        return progress

    @property
    def _checkpoint(self) -> Path:
        return self._settings.folder / "checkpoint.safetensors"

    def _write(
        self, head: ChainHead, progress: Progress, data: Data, vocabulary: DraftVocabulary, held_out: dict[str, Any]
    ) -> None:
        folder = self._settings.folder
        save_head(head, folder / "head", weights="int8")
        record = asdict(progress) | {
            "coverage": vocabulary.coverage,
            "answer_tokens": data.texts.num_answer_tokens,
            "processes": self._state.num_processes,
            "longest": min(int(data.texts.lengths.max()), self._settings.batching.max_length),
            "learnt": learnt(data),
            "tried": held_out,
        }
        write(folder / "training.json", json.dumps(record, indent=1) + "\n")
        write(folder / "head" / "README.md", card(self._settings, record))
        self._say(f"{folder / 'head'}: best τ {progress.best:.3f} on held-out answers")

    def _head(self, vocabulary: DraftVocabulary) -> ChainHead:
        head = new_head(self._settings, self._files, self._weights, vocabulary).to(self._state.device)
        head.bind(self._weights.embedding, self._weights.head)
        return head

    def _teacher(self, head: ChainHead, data: Data) -> Teacher:
        """The target's own module; with it, or with our kernels on a CPU, what was seen is rounded and kept."""
        settings, taps, module = self._settings, head.config.taps, self._files.module
        if settings.taps_gib is None:
            return Teacher(module, taps)
        lengths = [min(length, settings.batching.max_length) for length in data.all_lengths]
        most = int(settings.taps_gib * 2**30)
        if self._state.device.type == "cuda":
            return ResidentTeacher(module, taps, lengths, most)
        boundaries, told = (*taps, len(self._weights.layers)), [settings.of_states, list(taps)]
        store = TapStore(settings.folder, lengths, len(boundaries), self._weights.hidden_size, most, told)
        return StoredTeacher(module, taps, store, self._watch(boundaries))

    def _watch(self, boundaries: tuple[int, ...]) -> Watch:
        """Loads the model when a text is to be seen that is not kept."""
        return lambda tokens: watching(self._material.loaded.model, boundaries)(tokens)

    def _say(self, line: str) -> None:
        if self._state.is_main_process:
            self._print(line)

    def _at(self, stage: Stage) -> None:
        if self._show is None:
            self._say(f"{clock(self._started)} {stage}")
        elif self.is_main:
            self._show(stage)

    def _tell(self, point: dict[str, Any]) -> None:
        if self.is_main:
            self._track(figures_of(point))
        told = f"step {point['step']}, loss {point['loss']:.4f}, hits {_shares(point['accuracy'])}"
        self._at(Stage("training", point["done"], point["left"], told))
        if found := point.get("held_out"):
            self._say(
                f"{clock(self._started)} step {point['step']}, held out: τ {found['tau']:.3f}, hits "
                f"{_shares(found['accuracy'])}"
            )


def figures_of(point: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """A point of the curves in one level, positions counted from 1.

    >>> figures_of({"step": 7, "accuracy": [0.5, 0.25], "held_out": {"tau": 2.0}})
    {'step': 7, 'accuracy/1': 0.5, 'accuracy/2': 0.25, 'held_out/tau': 2.0}
    """
    found: dict[str, float] = {}
    for name, value in point.items():
        if isinstance(value, Mapping):
            found |= figures_of(value, f"{above}{name}/")
        elif isinstance(value, list):
            found |= {f"{above}{name}/{place}": each for place, each in enumerate(value, 1)}
        else:
            found[f"{above}{name}"] = value
    return found


def _shares(shares: list[float]) -> str:
    return " ".join(f"{share:.3f}" for share in shares)
