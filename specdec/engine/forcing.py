"""What a grammar forces is drafted before any drafter is asked: it costs next to nothing, and is mostly right.

It is verified like any draft. A text may be spelt by other tokens than those that its tokenizer makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.engine.scheduled import Scheduled
from specdec.foreign import STOPS
from specdec.verify.tree import DraftTree

FORCED = "forced"
"""Stands where a drafter's name does."""


def forced_drafts(plan: Sequence[Scheduled], most: Callable[[Scheduled], int]) -> dict[int, DraftTree]:
    """By their numbers in the plan, the requests whose grammars force what comes next, and that.

    Args:
        plan: the requests.
        most: how many tokens may be drafted for one.
    """
    limits = {index: most(part) for index, part in enumerate(plan) if part.request.params.grammar is not None}
    drafts = {index: DraftTree.chain(_forced(plan[index])[:limit]) for index, limit in limits.items() if limit}
    return {index: tree for index, tree in drafts.items() if len(tree)}


def _forced(part: Scheduled) -> list[int]:
    """It depends on the committed tokens alone. A constraint that raises is the request's own affair, and will end it
    when its logits are read; here it costs the draft."""
    constraint = part.request.transform.constraint
    try:
        return [] if constraint is None else constraint.forced()
    except STOPS:
        raise
    except BaseException:
        return []
