"""What a policy answers is checked here, once: it says which drafters run and which rows a pass has."""

from __future__ import annotations

from operator import index
from typing import Any

from specdec.checks import is_integer, number, shown, take
from specdec.errors import SpecdecError
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Pick
from specdec.sampling.constraints import paths_of
from specdec.verify.tree import ROOT, DraftTree, TreeShape

FLOOR = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")


def check_each(answers: Any, count: int, what: str) -> list[Any]:
    """What a policy returned, if it is one thing a question."""
    if not isinstance(answers, list | tuple) or len(answers) != count:
        raise SpecdecError(f"it was asked for {count} {what}; give a list of as many, not {shown(answers)}")
    return list(answers)


def check_choices(choices: Any, ask: Ask) -> list[Choice]:
    """A policy's choices for a request, if each is one of its candidates and no larger; several of them only if all can
    be trimmed."""
    if not isinstance(choices, list | tuple):
        raise SpecdecError(f"it chose {shown(choices)}; give a list of Choices")
    chosen = [check_choice(choice, ask) for choice in choices]
    if len(chosen) > 1:
        names = [choice.drafter for choice in chosen]
        trimmable = {candidate.drafter for candidate in ask.candidates if candidate.trimmable}
        if len(set(names)) < len(names) or not trimmable.issuperset(names):
            raise SpecdecError(
                f"it chose {names}; of drafters whose drafts cannot be trimmed choose one alone, of others each once"
            )
    return chosen


def check_choice(choice: Any, ask: Ask) -> Choice:
    """A policy's choice, if it is one of the candidates that it was asked about, and no larger."""
    if not isinstance(choice, Choice):
        raise SpecdecError(f"it chose {shown(choice)}; give a Choice")
    for candidate in ask.candidates:
        if candidate.drafter == choice.drafter:
            depth = _check_depth(choice.depth, candidate.depth)
            floor = take("floor", choice.floor, FLOOR, SpecdecError)
            return Choice(candidate.drafter, depth, _check_shape(choice.shape, depth, candidate), floor)
    named = ", ".join(repr(one.drafter) for one in ask.candidates)
    raise SpecdecError(f"it chose the drafter {shown(choice.drafter)}; give one of {named}")


def check_pick(pick: Any, drafted: Drafted, ask: Ask) -> Pick | Draft | Choice:
    """What a policy picks of a request's drafts, if it is a part of one of them, parents with their children, or a tree
    that is made of them; or a choice of a candidate that draws."""
    if isinstance(pick, Choice):
        choice = check_choice(pick, ask)
        if any(one.trimmable for one in ask.candidates if one.drafter == choice.drafter):
            raise SpecdecError(f"it chose {choice.drafter!r} when its draft was there; pick nodes of it")
        return choice
    if isinstance(pick, Draft):
        return _check_made(pick, drafted)
    if not isinstance(pick, Pick):
        raise SpecdecError(f"it picked {shown(pick)}; give a Pick")
    for draft in drafted.drafts:
        if draft.drafter == pick.drafter:
            return Pick(draft.drafter, _check_part(pick.nodes, draft.tree))
    named = ", ".join(repr(one.drafter) for one in drafted.drafts)
    raise SpecdecError(f"it picked from the drafter {shown(pick.drafter)}; drafts are there of {named}")


def _check_made(made: Draft, drafted: Drafted) -> Draft:
    """A tree that is made of the drafts: what is verified was drafted, and masked where there is a grammar."""
    tree = made.tree
    if not isinstance(tree, DraftTree) or tree.q is not None or not isinstance(made.drafter, str):
        raise SpecdecError(f"it made the draft {shown(made)}; give a DraftTree without q, and a name")
    if not 0 < len(tree) <= drafted.room:
        raise SpecdecError(f"it made a draft of {len(tree)} nodes; there is room for 1 to {drafted.room}")
    known = {path for one in drafted.drafts for path in paths_of(one.tree.tokens, one.tree.parents)}
    if strange := [path for path in paths_of(tree.tokens, tree.parents) if path not in known]:
        raise SpecdecError(f"it made a draft with the tokens {strange[0]}, which nobody drafted; make it of the drafts")
    return made


def _check_part(nodes: Any, tree: DraftTree) -> tuple[int, ...]:
    """Nodes of the tree, ascending and each with its parent."""
    last, kept = ROOT, {ROOT}
    listed: list[Any] = list(nodes) if isinstance(nodes, list | tuple) else [None]
    for node in listed:
        if not is_integer(node) or not last < node < len(tree) or tree.parents[node] not in kept:
            raise SpecdecError(
                f"it picked the nodes {shown(nodes)} of a draft with parents {tree.parents}; give ascending numbers, "
                "each after its parent's"
            )
        last = index(node)
        kept.add(last)
    return tuple(map(index, listed))


def _check_shape(shape: Any, depth: int, candidate: Candidate) -> TreeShape | None:
    """The shape to draw, if the candidate's slots hold it."""
    if shape is None:
        return None
    largest = candidate.largest
    if not isinstance(shape, TreeShape) or shape.depth > depth or len(shape) > len(largest):
        raise SpecdecError(
            f"it chose to draw {shown(shape)}; give a TreeShape of at most {len(largest)} nodes, {depth} deep"
        )
    return shape


def _check_depth(depth: Any, most: int) -> int:
    """A depth, if it is an integer from 0 to `most`."""
    if not is_integer(depth) or not 0 <= index(depth) <= most:
        raise SpecdecError(f"it chose the depth {shown(depth)}; give an integer from 0 to {most}")
    return index(depth)
