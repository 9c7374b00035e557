"""The deciding half of a step: logits → each request's verdict, on the host or where the logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from specdec.checks import is_integer, shown
from specdec.engine.drafting import Proposal
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.errors import SpecdecError
from specdec.foreign import STOPS, described
from specdec.kernels.rows import argmax, forbid
from specdec.models.base import PassOutput
from specdec.sampling.constraints import Constraint, paths_of
from specdec.verify.base import Rule, Verdict
from specdec.verify.device import can_judge, judge_batch
from specdec.verify.tree import ROOT, DraftTree


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


Decision = Verdict | SpecdecError
"""An error is the request's own: a NaN in its logits, a ban on every token, a fault of its constraint or rule."""


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
        except SpecdecError as error:
            decisions.append(error)
        except STOPS:
            raise
        except BaseException as cause:
            decisions.append(own_error(cause, f"the rule {rule.name!r} or its constraint"))
    return decisions


def own_error(cause: BaseException, whose: str) -> SpecdecError:
    """An error of one request's own parts, which ends that request and nothing else; ours are as they were."""
    if isinstance(cause, SpecdecError):
        return cause
    error = SpecdecError(f"The request ends here, since {whose} failed: {type(cause).__name__}: {described(cause)}")
    error.__cause__ = cause
    return error


def _alone(rule: Rule, item: Decoded) -> Verdict:
    """Applies the request's sampling transform to every row, each with its own history, and asks the rule."""
    transform, tree = item.request.transform, item.tree
    if item.request.by_argmax:
        transform.require_mass(item.verified.maxima.values)
        return checked(rule.accept_argmax(tree, item.verified.maxima.tokens), tree, transform.vocab_size, rule)
    assert item.verified.logits is not None
    paths = paths_of(tree.tokens, tree.parents)
    parents = [-1, *(parent + 1 for parent in tree.parents)]
    constraint = transform.constraint
    if constraint is None or not transform.confines_winners or not (rule.by_argmax or rule.noisy_argmax):
        return _accepted(rule, item, transform.scores(item.verified.logits, paths, parents))
    if rule.by_argmax and not transform.edits_unconfined:
        return _by_winners(rule, item, constraint, paths)
    scores = transform.scores(item.verified.logits, paths, parents, confined=False)
    while (row := _refused(constraint, tree, verdict := _accepted(rule, item, scores))) is not None:
        forbid(scores[row : row + 1], constraint.allowed_after(paths[row])[None])
        transform.require_mass([argmax(scores[row])[1]])
    return verdict


def _by_winners(rule: Rule, item: Decoded, constraint: Constraint, paths: Sequence[Sequence[int]]) -> Verdict:
    """Greedy, where the constraint alone is done to logits: the pass tells each row's winner, and a row is looked at
    again only if its winner may not stand there."""
    transform, tree, logits = item.request.transform, item.tree, item.verified.logits
    assert logits is not None
    transform.require_mass(item.verified.maxima.values)
    winners = list(item.verified.maxima.tokens)
    while True:
        verdict = checked(rule.accept_argmax(tree, winners), tree, transform.vocab_size, rule)
        if (row := _refused(constraint, tree, verdict)) is None:
            return verdict
        if (sole := constraint.sole(paths[row])) is None:
            scores = logits[row : row + 1].to(torch.float32, copy=True)
            forbid(scores, constraint.allowed_after(paths[row])[None])
            winners[row], largest = argmax(scores[0])
        else:
            winners[row], largest = sole, float(logits[row, sole])
        transform.require_mass([largest])


def _refused(constraint: Constraint, tree: DraftTree, verdict: Verdict) -> int | None:
    """The first row of a verdict's path whose winner may not stand there; it alone needs a mask."""
    tokens = verdict.tokens(tree)
    at = constraint.kept(tokens)
    if at == len(tokens):
        return None
    return verdict.path[at - 1] + 1 if at else 0


def _accepted(rule: Rule, item: Decoded, scores: Tensor) -> Verdict:
    verdicts = rule.accept([item.tree], [scores], [item.request.key()])
    if not isinstance(verdicts, list | tuple) or len(verdicts) != 1:
        raise SpecdecError(f"Rule {rule.name!r} gives {shown(verdicts)} for one draft; give a list of one Verdict.")
    return checked(verdicts[0], item.tree, item.request.transform.vocab_size, rule)


def checked(verdict: Any, tree: DraftTree, vocab_size: int, rule: Rule) -> Verdict:
    """The verdict, if its path begins at the root and follows the tree, and its token is one: both reach the cache.

    Raises:
        SpecdecError: if not. The rule is at fault then.
    """
    if not isinstance(verdict, Verdict):
        raise SpecdecError(f"Rule {rule.name!r} gives {shown(verdict)}; give a Verdict.")
    node = ROOT
    for step in verdict.path:
        if type(step) is not int or not 0 <= step < len(tree) or tree.parents[step] != node:
            raise SpecdecError(
                f"Rule {rule.name!r} accepts the path {shown(verdict.path)}, which is not a path from the root of a "
                f"draft with parents {tree.parents}."
            )
        node = step
    token = verdict.next_token
    if not is_integer(token) or not 0 <= index(token) < vocab_size:
        raise SpecdecError(f"Rule {rule.name!r} emits {shown(token)}, which is not a token id below {vocab_size}.")
    return verdict if type(token) is int else Verdict(verdict.path, index(token))
