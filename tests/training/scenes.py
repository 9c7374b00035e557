"""A tiny target, texts that it wrote, and heads for it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.heads.base import ChainHead
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.medusa import MedusaHead
from specdec.models.llama import LlamaWeights
from specdec.training.batches import Texts
from specdec.training.batchwriter import BatchWriter
from specdec.training.teacher import Teacher
from specdec.training.writers import Way
from tests.tiny import VOCAB_SIZE, llama_module


def target(seed: int = 0, **options: int | float) -> PreTrainedModel:
    return llama_module(seed, num_layers=3, **options)  # type: ignore[arg-type]


def texts(module: PreTrainedModel, count: int, longest: int = 24, seed: int = 0, drawn: bool = False) -> Texts:
    """Random prompts of 2 to 6 tokens, and the target's answers."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(VOCAB_SIZE, (2 + index % 5,), generator=generator).tolist() for index in range(count)]
    ways = [Way(longest - index % 7, float(drawn), seed=seed) for index in range(count)]
    answers = BatchWriter(module, (), 1 << 16).write(prompts, ways)
    return Texts(zip(prompts, answers, strict=True))


def head(module: PreTrainedModel, ids: list[int] | None = None, start: bool = True, **options: object) -> BlockHead:
    """A block head, bound to the target; with random weights where it does not start from it."""
    sizes = {"num_layers": 1, "taps": (0, 2, 3), "block_size": 3, "causal": True, "markov_rank": 4, "confidence": True}
    made = BlockHead(*_sized("block", module, ids, sizes | options))
    return _bound(made, module, start)


def pairs(module: PreTrainedModel, ids: list[int] | None = None, start: bool = True, **options: object) -> Eagle3Head:
    """The same with an EAGLE-3.1 head."""
    sizes = {"taps": (0, 2, 3), "block_size": 3, "fc_norm": True, "norm_output": True}
    made = Eagle3Head(*_sized("eagle3", module, ids, sizes | options))
    return _bound(made, module, start)


def medusa(module: PreTrainedModel, ids: list[int] | None = None, start: bool = True, **options: object) -> MedusaHead:
    """The same with three Medusa heads; where they do not start as identities their weights are random."""
    made = MedusaHead(*_sized("medusa", module, ids, {"medusa_heads": 3, "fc_bias": True} | options))
    if not start:
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return _bound(made, module, start)


Made = TypeVar("Made", BlockHead, Eagle3Head, MedusaHead)


def _sized(name: str, module: PreTrainedModel, ids: list[int] | None, sizes: Any) -> tuple[HeadConfig, Tensor | None]:
    torch.manual_seed(1)
    size = VOCAB_SIZE if ids is None else len(ids)
    known = None if ids is None else torch.tensor(ids)
    return HeadConfig.like(module.config, name, draft_vocab_size=size, **sizes), known


def _bound(made: Made, module: PreTrainedModel, start: bool) -> Made:
    weights = LlamaWeights.of(module, "tiny")
    if start:
        made.start_from(weights)
    made.bind(weights.embedding, weights.head)
    return made


def teacher(module: PreTrainedModel, head: ChainHead) -> Teacher:
    return Teacher(module, head.config.taps)
