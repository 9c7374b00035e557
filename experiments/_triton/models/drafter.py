"""Triton model `drafter`: what a drafter proposes after some tokens. It holds nothing between requests, so Triton may
batch them as it likes, and replace the model while others use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from specdec import SamplingParams, StepKey
from specdec.drafters.base import DraftRequest, Needs, TargetHandle
from specdec.errors import ConfigError
from specdec.models.sources import tokenizer_alone
from specdec.randomness import RandomSource
from specdec.registry import DRAFTERS, RULES
from specdec.sampling import LogitsTransform


@dataclass(frozen=True)
class NoModel:
    """All that is known of the target here."""

    vocab_size: int
    name: str = "target"


class TritonPythonModel:
    """One drafter."""

    def initialize(self, args: dict[str, str]) -> None:
        """Makes the drafter that the parameter `settings` names, with its options.

        Raises:
            ConfigError: if it drafts with a model or with the target, neither of which is here.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["settings"]["string_value"])
        tokenizer = tokenizer_alone(settings["target"])
        self._model = NoModel(len(tokenizer))
        self._drafter = DRAFTERS.create(settings["drafter"], **settings["options"])
        try:
            needs = self._drafter.bind(TargetHandle(self._model, tokenizer))
        except AttributeError:
            needs = None
        if needs != Needs() or not self._drafter.deterministic:
            raise ConfigError(
                f"Drafter {self._drafter.name!r} needs more than the text, which is all that the Triton model has. "
                "Give drafter=ngram, suffix or retrieval here, or the drafter's name to the target."
            )
        self._ids = count()
        self._rule = RULES.create("greedy")
        self._transform = LogitsTransform(SamplingParams(), [], self._model.vocab_size)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A draft for each row of each request; all rows are drafted for at once."""
        rows = [self._rows(request) for request in requests]
        trees = iter(self._drafter.propose([row for each in rows for row in each]))
        for row in (row for each in rows for row in each):
            self._drafter.end(row.request_id, row.tokens)
        return [_answer([next(trees) for _ in each]) for each in rows]

    def _rows(self, request: Any) -> list[DraftRequest]:
        texts, depths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().tolist() for name in ("token_ids", "max_depth")
        )
        return [self._row(tokens, depth) for tokens, [depth] in zip(texts, depths, strict=True)]

    def _row(self, tokens: list[int], depth: int) -> DraftRequest:
        key = StepKey(RandomSource(0), anchor=len(tokens))
        return DraftRequest(next(self._ids), tokens, depth, self._transform, self._rule, key, store=False)


def _answer(trees: list[Any]) -> Any:
    """Drafts of different sizes are filled up with -1, which is no token; their parents with -1, the root."""
    width = max(len(tree) for tree in trees)
    tokens, parents = np.full((2, len(trees), width), -1, np.int32)
    for row, tree in enumerate(trees):
        tokens[row, : len(tree)], parents[row, : len(tree)] = tree.tokens, tree.parents
    outputs = [pb_utils.Tensor("draft_token_ids", tokens), pb_utils.Tensor("draft_parents", parents)]
    return pb_utils.InferenceResponse(outputs)
