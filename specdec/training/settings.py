"""What a run is told: the head, the texts, the loss, and how long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from specdec.checks import flag, number, settle, several, text, whole
from specdec.errors import ConfigError
from specdec.models.backends import DTYPES
from specdec.training.batches import Batching
from specdec.training.corpus import Answers
from specdec.training.given import marks
from specdec.training.losses import LossConfig
from specdec.training.prompts import Mix
from specdec.training.schedule import LoopConfig, Schedule
from specdec.typed import TypedName, TypedPath


@dataclass(frozen=True)
class HeadOptions:
    """What the head is; the rest is as in the target.

    Args:
        architecture: "eagle3" drafts token by token; "block" drafts all tokens in one pass; "medusa" has heads on the
            last state alone, each of which drafts a token further ahead.
        start: first weights of the layers: "target" copies the target's last layers, "random" draws them. Medusa heads
            begin as identities.
        num_layers: layers; an EAGLE-3 head has one. For Medusa, residual blocks of each head.
        block_size: γ, tokens of a draft.
        taps: boundaries of the target that the head reads; None takes one near the first layer, the middle and near the
            last, and for Medusa the state after the last norm.
        draft_vocab_size: number of tokens that the head knows.
        markov_rank: rank of the term by which a block uses the token before a row; 0 for no term.
        causal: a block's row sees only the rows before it.
        fc_norm: whether each tap has a norm.
        mask_token_id: token in the rows of a block; None takes the last special token.
    """

    architecture: Literal["eagle3", "block", "medusa"] = "eagle3"
    start: Literal["target", "random"] = "random"
    num_layers: int = 1
    block_size: int = 6
    taps: tuple[int, ...] | None = None
    draft_vocab_size: int = 8192
    markov_rank: int = 64
    causal: bool = True
    fc_norm: bool = True
    mask_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("architecture", ("eagle3", "block", "medusa")), ("start", ("target", "random"))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"head.{name}={getattr(self, name)!r} cannot be trained. Give one of {', '.join(known)}."
                )
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
        target: of `specdec.models.loading.load`, the options that say which files are read: path (none for the
            embedded model), revision, allow_pickle, trust_remote_code, base_model.
        dtype, device: of the target.
        seed: of all that is random.
        prompts: prompts of the user's own, of which `mix.given` says the share: files, and sets of the hub
            (`specdec.training.given`).
        deny: files of what nothing may overlap with.
        writer: "engine", ours, or "batch", large batches on plain torch; "auto" takes the first on a CPU.
        taps_gib: GiB for what the target saw of the texts, rounded: on the disk, seen through our kernels, or in the
            memory of a GPU, seen by the target's own module. None runs that module anew for every batch.
        answer_share: of `schedule.seconds`, how much of the time may be gone when the last chunk of answers is done.
        cells: tokens in the cache of the writer of large batches, on a GPU.
        held_out: greedy answers to try the head on.
        command: as it was typed, for the card.
        head, mix, answers, batching, loss, schedule, loop: see these.
    """

    output: TypedPath
    target: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    prompts: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    writer: Literal["auto", "engine", "batch"] = "auto"
    answer_share: float = 0.4
    taps_gib: float | None = None
    cells: int = 1 << 16
    held_out: int = 128
    command: TypedName = ""
    head: HeadOptions = field(default_factory=HeadOptions)
    mix: Mix = field(default_factory=Mix)
    answers: Answers = field(default_factory=Answers)
    batching: Batching = field(default_factory=Batching)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: Schedule = field(default_factory=Schedule)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        share = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
        gib = number(lambda value: 0 <= value < float("inf"), "a number >= 0")
        counts = {"seed": whole(0, 2**31), "cells": whole(1), "held_out": whole()}
        files = dict.fromkeys(("prompts", "deny"), several(text(), "names of files"))
        settle(self, {**counts, **files, "answer_share": share, "taps_gib": gib.or_none()})
        if self.writer not in ("auto", "engine", "batch"):
            raise ConfigError(f"writer={self.writer!r} is not known. Give engine, batch or auto.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} cannot teach. Give one of {', '.join(DTYPES)}.")

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.output)

    @property
    def of_texts(self) -> dict[str, Any]:
        """What the answers depend on, but for their number."""
        names = ("dtype", "device", "writer", "seed")
        mix = json.loads(json.dumps(asdict(self.mix)))
        share = mix.pop("given")
        return {name: getattr(self, name) for name in names} | {
            "target": self.target.get("path"),
            "mix": mix | ({"given": share} if self.prompts else {}),
            "deny": [Path(path).name for path in self.deny],
            **({"prompts": marks(self.prompts)} if self.prompts else {}),
        }

    @property
    def of_states(self) -> dict[str, Any]:
        """What the target sees of a run depends on: its texts, and how far they are read."""
        sizes = {"answers": asdict(self.answers), "held_out": self.held_out, "max_length": self.batching.max_length}
        found: dict[str, Any] = json.loads(json.dumps(self.of_texts | sizes))
        return found

    @property
    def of_head(self) -> dict[str, Any]:
        """What the head depends on."""
        parts = ("head", "answers", "batching", "loss", "schedule")
        others = {"held_out": self.held_out, "rounded": self.taps_gib is not None}
        chosen: dict[str, Any] = {name: asdict(getattr(self, name)) for name in parts} | others
        if self.loss.rows is None:  # as it was told before there was a choice: runs of then go on
            del chosen["loss"]["rows"]
        found: dict[str, Any] = json.loads(json.dumps(self.of_texts | chosen))
        return found
