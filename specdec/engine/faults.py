"""Errors of drafters and policies end here: a fault costs the requests in question their drafts, and the log one line.

What they return is checked here, once, before anything is done with it: a token id or a row of q that is wrong would
reach native code, which trusts them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import torch
from torch import Tensor

from specdec.checks import is_integer, shown, take, whole
from specdec.drafters.base import Drafter, DraftRequest
from specdec.errors import SpecdecError
from specdec.foreign import STOPS
from specdec.verify.tree import KINDS, ROOT, DraftTree

logger = logging.getLogger("specdec")
MASS_TOLERANCE = 1e-3
"""A row of q is a softmax in float32: its sum is off by less than the vocabulary's size times 6e-8."""

EMPTY, BYTES = DraftTree(), whole(0, 2**63 - 1, "a number of bytes")
POLICY = "policy "
"""What a policy's name follows, where drafters are called by theirs alone."""


class Faults(dict[str, str]):
    """Drafter or policy, by its name → its first error."""

    def note(self, name: str, when: str, error: BaseException) -> None:
        """Logs the first error of each name."""
        if name in self:
            return
        self[name] = f"{when}: {type(error).__name__}: {error}"
        logger.warning(
            "%s failed in %s and goes without a draft there (%s: %s). Texts do not change. Later failures are not "
            "logged.", _called(name), when, type(error).__name__, error, exc_info=error,
        )  # fmt: skip


def _called(name: str) -> str:
    return name.capitalize() if name.startswith(POLICY) else f"Drafter {name!r}"


class Contained:
    """An exception inside the block is noted, and the step goes on. May be entered again and again.

    Args:
        faults: takes it.
        name: of the drafter or policy whose it is.
        when: what it was asked to do.
        quiet: leave it out of the notes, since it will be asked again.
    """

    def __init__(self, faults: Faults, name: str, when: str, quiet: bool = False) -> None:
        self._faults, self._name, self._when, self._quiet = faults, name, when, quiet
        self.failed = False

    def __enter__(self) -> Contained:
        self.failed = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or isinstance(error, STOPS):
            return False
        self.failed = True
        if not self._quiet:
            self._faults.note(self._name, self._when, error)
        return True


def held_bytes(drafters: Iterable[Drafter], faults: Faults) -> int:
    """What drafters tell of their memory, together; one that fails to tell counts nothing."""
    total = 0
    for drafter in drafters:
        with Contained(faults, drafter.name, "memory"):
            total += int(take("memory()", drafter.memory(), BYTES, SpecdecError))
    return total


def check_trees(trees: Any, requests: Sequence[DraftRequest]) -> list[Any]:
    """What `propose` returned, if it is one thing a request."""
    if not isinstance(trees, list | tuple):
        raise SpecdecError(f"it returned {type(trees).__name__}; give a list with one DraftTree per request")
    if len(trees) != len(requests):
        raise SpecdecError(
            f"it returned {len(trees)} trees for {len(requests)} requests; give a list with one DraftTree per request"
        )
    return list(trees)


def check_tree(
    tree: Any, request: DraftRequest, max_nodes: int, deterministic: bool, device: torch.device
) -> DraftTree:
    """The draft, if the target can run it and a rule can judge it; token ids of other integer types become ints.

    Args:
        tree: what a drafter returned.
        request: for whom.
        max_nodes: so many slots were reserved for it.
        deterministic: whether the drafter says that its drafts have no q.
        device: where the target's logits are.

    Raises:
        SpecdecError: for anything else. That q is what the tokens were drawn from cannot be seen here.
    """
    if not isinstance(tree, DraftTree):
        raise SpecdecError(f"it returned {type(tree).__name__} for a request; give a DraftTree")
    if not len(tree.tokens) and not len(tree.parents):
        return EMPTY
    draft = _with_plain_numbers(tree)
    deepest = _check_nodes(draft, request.transform.vocab_size)
    if len(draft.tokens) > max_nodes or deepest > request.max_depth:
        raise SpecdecError(
            f"{len(draft.tokens)} nodes of depth {deepest}; asked for were at most {max_nodes} nodes of depth "
            f"{request.max_depth}"
        )
    if draft.q is not None:
        if deterministic:
            raise SpecdecError("a q from a drafter that says deterministic = True")
        _check_q(draft, draft.q, request.transform.vocab_size, device)
        if draft.q.requires_grad:
            return replace(draft, q=draft.q.detach())
    return draft


def _with_plain_numbers(tree: DraftTree) -> DraftTree:
    """Tokens and parents as tuples of ints: numpy's integers and tensors of one are understood."""
    numbers = (*tree.tokens, *tree.parents, *tree.kinds)
    plain = type(tree.tokens) is tuple and type(tree.parents) is tuple and type(tree.kinds) is tuple
    if not (plain and set(map(type, numbers)) == {int}):
        if odd := [number for number in numbers if not is_integer(number)]:
            raise SpecdecError(f"{shown(odd[0])} in a draft where an integer belongs")
        tokens, parents, kinds = (tuple(map(index, each)) for each in (tree.tokens, tree.parents, tree.kinds))
        tree = DraftTree(tokens, parents, tree.q, kinds, tree.chances)
    return tree


def _check_nodes(tree: DraftTree, size: int) -> int:
    """The depth of the tree; raises SpecdecError for an id outside the vocabulary, or what is no tree."""
    tokens, parents = tree.tokens, tree.parents
    if len(tokens) != len(parents):
        raise SpecdecError(f"{len(tokens)} tokens but {len(parents)} parents")
    if min(tokens) < 0 or max(tokens) >= size:
        bad = next(token for token in tokens if not 0 <= token < size)
        raise SpecdecError(f"token id {bad} is outside the vocabulary of {size}")
    depths: list[int] = []
    for node, parent in enumerate(parents):
        if not ROOT <= parent < node:
            raise SpecdecError(f"node {node} has parent {parent}; parents must come before their children")
        depths.append(0 if parent == ROOT else depths[parent] + 1)
    shape = tree.shape
    if shape.parents != parents or shape.depths != tuple(depths):
        raise SpecdecError("a tree that was changed after it was made; make another DraftTree")
    _check_estimates(tree)
    return max(depths) + 1


def _check_estimates(tree: DraftTree) -> None:
    """Raises SpecdecError for kinds or chances that no table of rates can take."""
    if tree.kinds and (len(tree.kinds) != len(tree) or not 0 <= min(tree.kinds) <= max(tree.kinds) < KINDS):
        raise SpecdecError(f"kinds {shown(tree.kinds)}; give every node a number from 0 to {KINDS - 1}")
    if tree.chances:
        sound = all(isinstance(each, float) and 0 <= each <= 1 for each in tree.chances)
        if not sound or len(tree.chances) != len(tree):
            raise SpecdecError(f"chances {shown(tree.chances)}; give every node a float from 0 to 1")


def _check_q(tree: DraftTree, q: Any, size: int, device: torch.device) -> None:
    inner = tree.shape.inner
    if not isinstance(q, Tensor) or q.dtype != torch.float32 or q.layout != torch.strided:
        kind = f"{q.dtype} {q.layout}" if isinstance(q, Tensor) else type(q).__name__
        raise SpecdecError(f"q is {kind}; give a dense float32 tensor")
    if q.shape != (len(inner), size):
        raise SpecdecError(
            f"q {tuple(q.shape)} does not have a row for each of the {len(inner)} nodes with children and a column for "
            f"each of the {size} tokens"
        )
    if q.device.type != device.type:
        raise SpecdecError(f"q is on {q.device}, the target's logits are on {device}")
    row = {node: number for number, node in enumerate(inner)}
    drawn = q[[row[parent] for parent in tree.parents], list(tree.tokens)]
    masses, least = q.sum(-1), q.amin()
    sound = ((masses - 1).abs() < MASS_TOLERANCE).all() & (least >= 0) & (drawn > 0).all()
    if not bool(sound):
        raise SpecdecError(
            f"q has rows of mass {masses.tolist()}, a least entry of {float(least)}, and {drawn.tolist()} at the "
            "tokens that were drawn from it; rows must have mass 1, no negative entry, and some mass on each such token"
        )
