"""The deciding half of a step: logits → each request's verdict, on the host or where the logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduled
from specdec.errors import NumericalError
from specdec.kernels.rows import RowMaxima
from specdec.verify.base import Rule, Verdict
from specdec.verify.device import can_judge, judge_batch
from specdec.verify.tree import DraftTree


@dataclass(frozen=True, eq=False)
class Decoded:
    """A request between the target pass and its verdict.

    Args:
        part: whose, and with which rows it took part.
        tree: its draft, N nodes.
        logits: [N + 1, V], or what there is of them where the argmax is enough.
    """

    part: Scheduled
    tree: DraftTree
    logits: Tensor | RowMaxima

    @property
    def request(self) -> Request:
        """Whose verdict it is."""
        return self.part.request


Outcome = Verdict | NumericalError
"""An error is the request's own: its logits have a NaN, or every token is banned."""


def decide(decoded: Sequence[Decoded], on_device: bool) -> list[tuple[Decoded, Outcome]]:
    """Every request's verdict; requests that share a rule are judged together.

    Args:
        decoded: the requests of a pass.
        on_device: whether to use the GPU kernels for the rules that have one.
    """
    groups: dict[int, list[Decoded]] = {}
    for item in decoded:
        groups.setdefault(id(item.request.rule), []).append(item)
    return [
        pair
        for group in groups.values()
        for pair in zip(group, _judge(group[0].request.rule, group, on_device), strict=True)
    ]


def _judge(rule: Rule, group: Sequence[Decoded], on_device: bool) -> Sequence[Outcome]:
    trees = [item.tree for item in group]
    if on_device and all(isinstance(item.logits, Tensor) for item in group):
        transforms = [item.request.transform for item in group]
        if can_judge(rule, trees, transforms):
            logits = [item.logits for item in group if isinstance(item.logits, Tensor)]
            return judge_batch(rule, trees, logits, transforms, [item.request.key() for item in group])
    found: list[Outcome] = []
    for item in group:
        try:
            found.append(_alone(rule, item))
        except NumericalError as error:
            found.append(error)
    return found


def _alone(rule: Rule, item: Decoded) -> Verdict:
    """Applies the request's sampling transform to every row, each with its own history, and asks the rule."""
    if isinstance(item.logits, RowMaxima):
        item.request.transform.require_mass(item.logits.values)
        return rule.accept_argmax(item.tree, item.logits.tokens)
    paths = [(), *(item.tree.prefix(node) for node in range(len(item.tree)))]
    scores = item.request.transform.scores(item.logits, paths)
    [verdict] = rule.accept([item.tree], [scores], [item.request.key()])
    return verdict
