"""What a policy is: who drafts for a request in a step, and how much of it is verified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from specdec.models.base import CausalLM
from specdec.verify.tree import DraftTree, TreeShape

MOST_NODES = 65536
"""Where nobody says how many nodes there is room for."""


@dataclass(frozen=True)
class Candidate:
    """One way to get a draft for one request.

    Args:
        drafter: name of the drafter.
        depth: longest branch that is possible.
        trimmable: whether the draft costs little, however large it is, and may be cut once it is there; `Policy.pick`
            is asked then.
        shape: the tree that a drafter draws which is not trimmable; None is a chain.
    """

    drafter: str
    depth: int
    trimmable: bool = False
    shape: TreeShape | None = None

    @cached_property
    def largest(self) -> TreeShape:
        """The shape of the largest draft that may be asked for."""
        return TreeShape.chain(self.depth) if self.shape is None else self.shape.truncated(self.depth)


@dataclass(frozen=True)
class Ask:
    """A request that may draft in this step, and its candidates, at least one."""

    request_id: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Choice:
    """Who drafts, and how deep; depth 0 drafts nothing.

    Args:
        drafter: one of the candidates.
        depth: longest branch.
        shape: the tree that is drawn, at most so deep; None is all of the candidate's. Means nothing for a trimmable
            draft.
        floor: of a trimmable draft, a survival below which no node would be verified: a drafter need not make it.
    """

    drafter: str
    depth: int
    shape: TreeShape | None = None
    floor: float = 0.0


@dataclass(frozen=True)
class Draft:
    """A trimmable draft that is there, and who made it."""

    drafter: str
    tree: DraftTree


@dataclass(frozen=True)
class Drafted:
    """The trimmable drafts that a request has; none of them is empty. Without any it stands here only if another
    candidate can still be chosen.

    Args:
        request_id: the request.
        drafts: of one drafter each.
        room: nodes that it has slots for, at least those of each draft.
    """

    request_id: int
    drafts: tuple[Draft, ...]
    room: int = MOST_NODES


@dataclass(frozen=True)
class Pick:
    """What is verified of a request's trimmable drafts: of one drafter's draft some nodes, ascending, each with its
    parent."""

    drafter: str
    nodes: tuple[int, ...]


def whole(draft: Draft) -> Pick:
    """All of a draft."""
    return Pick(draft.drafter, tuple(range(len(draft.tree))))


@dataclass(frozen=True)
class Load:
    """The pass that drafts are weighed against.

    Args:
        rows: of the pass without the drafts in question.
        requests: all that wait for the pass.
        cached: tokens that they have in the cache, together.
        room: rows of drafts that latency goals leave; None for no bound.
    """

    rows: int
    requests: int
    cached: int = 0
    room: int | None = None


class Policy(ABC):
    """Chooses drafters, and what of their drafts is verified; one decision, since only the cost of a pass can weigh the
    two.

    It is asked for requests whose text does not depend on their drafts (draft-invariant rules). It may look at the
    whole batch and at the clock, but never at a token of a draft that is drawn from q: what is decided before such a
    draft is drawn, or about a draft that was not drawn, changes no law.
    """

    name: ClassVar[str]

    def prepare(self, model: CausalLM) -> None:  # noqa: B027 - many policies measure nothing
        """Called before every step, outside of its time: the first call is the place to measure something."""

    @abstractmethod
    def choose(self, asks: Sequence[Ask], load: Load) -> Sequence[Sequence[Choice]]:
        """For each ask who is asked for a draft, before anything is drafted: nobody, any number of trimmable
        candidates, or one other."""

    def pick(self, drafted: Sequence[Drafted], load: Load) -> Sequence[Pick | Draft | Choice | None]:
        """For each request what of its trimmable drafts is verified: a part of one; or a draft that is made of them,
        every path of which is a path of one of them, under any name. Or a candidate that draws, which is then asked
        instead; None for nothing."""
        return [whole(one.drafts[0]) if one.drafts else None for one in drafted]

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:  # noqa: B027
        """Learns from the step of a request, whether it drafted or not.

        Args:
            request_id: the request.
            draft: what was verified, which may be empty.
            path: its nodes that were kept.
            tokens: all that the step added to the text.
        """

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:  # noqa: B027
        """Learns what a drafter took in a step, for so many requests, whose deepest draft has so many levels."""

    def timed(self, load: Load, seconds: float) -> None:  # noqa: B027
        """Learns what a pass took; `load.rows` counts the drafts' rows too."""

    def end(self, request_id: int) -> None:  # noqa: B027
        """Forgets a request that ended."""

    def account(self) -> str:
        """Why most drafts were left out, in a sentence for the user; empty if they were not."""
        return ""
