"""The deciding half of a step: logits → each request's verdict, on the host or where the logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.engine.drafting import Proposal
from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduled
from specdec.errors import NumericalError
from specdec.models.base import PassOutput
from specdec.verify.base import Rule, Verdict
from specdec.verify.device import can_judge, judge_batch
from specdec.verify.tree import DraftTree


@dataclass(frozen=True, eq=False)
class Decoded:
    """A request between the target pass and its verdict.

    Args:
        part: whose, and with which rows it took part.
        proposal: its draft, N nodes.
        output: of its rows.
        verified: of the N + 1 rows that are verified alone.
    """

    part: Scheduled
    proposal: Proposal
    output: PassOutput
    verified: PassOutput

    @property
    def tree(self) -> DraftTree:
        """Its draft."""
        return self.proposal.tree

    @property
    def request(self) -> Request:
        """Whose verdict it is."""
        return self.part.request


Decision = Verdict | NumericalError
"""An error is the request's own: its logits have a NaN, or every token is banned."""


def decide(decoded: Sequence[Decoded], on_device: bool) -> list[tuple[Decoded, Decision]]:
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


def _judge(rule: Rule, group: Sequence[Decoded], on_device: bool) -> Sequence[Decision]:
    logits = [item.verified.logits for item in group if item.verified.logits is not None]
    if on_device and len(logits) == len(group):
        trees, transforms = [item.tree for item in group], [item.request.transform for item in group]
        if can_judge(rule, trees, transforms):
            return judge_batch(rule, trees, logits, transforms, [item.request.key() for item in group])
    decisions: list[Decision] = []
    for item in group:
        try:
            decisions.append(_alone(rule, item))
        except NumericalError as error:
            decisions.append(error)
    return decisions


def _alone(rule: Rule, item: Decoded) -> Verdict:
    """Applies the request's sampling transform to every row, each with its own history, and asks the rule."""
    transform, tree = item.request.transform, item.tree
    if item.request.by_argmax:
        transform.require_mass(item.verified.maxima.values)
        return rule.accept_argmax(tree, item.verified.maxima.tokens)
    assert item.verified.logits is not None
    paths = [(), *(tree.prefix(node) for node in range(len(tree)))]
    parents = [-1, *(parent + 1 for parent in tree.parents)]
    scores = transform.scores(item.verified.logits, paths, parents)
    [verdict] = rule.accept([tree], [scores], [item.request.key()])
    return verdict
