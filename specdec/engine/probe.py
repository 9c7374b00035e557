"""Texts that are to be scored and not generated: a tree of tokens below a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from specdec.errors import NumericalError
from specdec.models.base import PassOutput
from specdec.sampling import log_probability
from specdec.verify.tree import ROOT, DraftTree


@dataclass(frozen=True, eq=False)
class Probe:
    """What a request wants to know of a tree.

    Args:
        tree: N ≥ 1 tokens, each of which gets its log-probability after the prompt and the nodes above it.
    """

    tree: DraftTree

    @cached_property
    def read(self) -> DraftTree:
        """The nodes that the pass runs: those that have children. A leaf is scored by the row above it, and nothing is
        scored by its own."""
        return self.tree.of([node for node in self.tree.shape.inner if node != ROOT])

    def scores(self, verified: PassOutput) -> list[float]:
        """Of each node its natural log-probability, under the target itself.

        Args:
            verified: rows of the last token of the prompt, and of each node of `read`.

        Raises:
            NumericalError: if one of them is no number.
        """
        assert verified.logits is not None  # a probe is not judged by argmax
        rows = {node: row for row, node in enumerate(self.tree.shape.inner)}
        above = [rows[parent] for parent in self.tree.parents]
        scores: list[float] = log_probability(verified.logits, self.tree.tokens, above).tolist()
        if any(math.isnan(score) for score in scores):
            raise NumericalError("The logits of a text that is to be scored hold NaN. Load the model in another dtype.")
        return scores
