"""What a drafter is told of a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from specdec.drafters.messages import Needs
from specdec.verify.tree import DraftTree


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one pass did for one request. Drafters see every pass: prompt chunks, steps without a draft, the last step.

    The pass ran T rows: those of `tail`, then those of the N nodes of `tree`. Row r of the tail stands at position
    start + r.

    Args:
        request_id: the request.
        start: tokens that the target had cached before the pass.
        tail: committed tokens that ran: a piece of the prompt, or the last token.
        tree: the draft that was verified.
        drafter: name of the drafter that proposed it.
        path: nodes that were accepted and kept, first to last. What the request cut off, after an end token or at a
            limit, is not among them.
        tokens: tokens that the step added to the text: those of `path`, and the target's own, unless it was cut off.
            Empty where the pass read only a piece of a prompt.
        hidden: float32 [T, k, H] at the boundaries that the drafter asked for, or None.
        logits: the target's raw logits, float: the rows that were verified, [N + 1, V] (after the last token of the
            tail, and after every node); or of all rows that ran, [T, V]; or None, as the drafter asked.
        top: int32 [N + 1, k], ids of the k largest raw logits of the rows that were verified, largest first and of
            equals the lowest id first, for as many as the drafter asked (k is less only where the vocabulary is);
            None if it asked for none, or if the pass read only a piece of a prompt.
        seconds: of the target's pass, all requests together.
    """

    request_id: int
    start: int
    tail: Sequence[int]
    tree: DraftTree = field(default_factory=DraftTree)
    drafter: str = ""
    path: tuple[int, ...] = ()
    tokens: Sequence[int] = ()
    hidden: Tensor | None = None
    logits: Tensor | None = None
    top: Tensor | None = None
    seconds: float = 0.0

    @cached_property
    def rows(self) -> list[int]:
        """Rows of the pass whose entries stay in the cache, at the positions from `start` on."""
        tail = len(self.tail)
        return [*range(tail), *(tail + node for node in self.path)]

    @cached_property
    def cached(self) -> list[int]:
        """The tokens of those rows."""
        return [*self.tail, *(self.tree.tokens[node] for node in self.path)]

    def told_to(self, drafter: str, leads: Mapping[str, str]) -> Outcome:
        """With the drafter's own name where it counts what was drafted as its own.

        Args:
            drafter: its name.
            leads: drafter → who counts its drafts as their own.
        """
        led = self.drafter != drafter and leads.get(self.drafter) == drafter
        return replace(self, drafter=drafter) if led else self

    def shown_to(self, wanted: Needs, given: Needs) -> Outcome:
        """What a drafter asked to see.

        Args:
            wanted: by the drafter.
            given: what is here: at least as much.
        """
        if (wanted.hidden, wanted.logits, wanted.top) == (given.hidden, given.logits, given.top):
            return self
        hidden = self.hidden
        if hidden is not None and wanted.hidden != given.hidden:
            columns = [given.hidden.index(boundary) for boundary in wanted.hidden]
            hidden = hidden[:, columns] if columns else None
        logits = self.logits
        if logits is not None and wanted.logits != given.logits:
            last = len(self.tree) + 1 if wanted.logits == "verified" and self.tokens else 0
            logits = logits[-last:] if last else None
        top = self.top[:, : wanted.top] if wanted.top and self.top is not None else None
        return replace(self, hidden=hidden, logits=logits, top=top)
