"""What a policy is: who drafts for a request in a step, and how deep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from specdec.models.base import CausalLM
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class Candidate:
    """One way to get a draft for one request.

    Args:
        drafter: name of the drafter.
        depth: longest branch that is possible.
        trimmable: whether the draft costs next to nothing and may be cut once it is there, because it is a function of
            the committed tokens; `Policy.trim` is asked then.
    """

    drafter: str
    depth: int
    trimmable: bool = False


@dataclass(frozen=True)
class Ask:
    """A request that may draft in this step, and its candidates, at least one."""

    request_id: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Choice:
    """Who drafts, and how deep; depth 0 drafts nothing."""

    drafter: str
    depth: int


@dataclass(frozen=True)
class Drafted:
    """A draft that is there, and may be cut."""

    request_id: int
    drafter: str
    tree: DraftTree


@dataclass(frozen=True)
class Load:
    """The pass that drafts are weighed against.

    Args:
        rows: of the pass without the drafts in question.
        requests: all that wait for the pass.
        cached: tokens that they have in the cache, together.
    """

    rows: int
    requests: int
    cached: int = 0


class Policy(ABC):
    """Chooses drafter and depth; one decision, since only the cost of a pass can weigh the two.

    It is asked for requests whose text does not depend on their drafts (draft-invariant rules). It may look at the
    whole batch and at the clock, but never at a token of the draft that it decides on: what is decided before the draft
    is drawn, or about a draft that was not drawn, changes no law.
    """

    name: ClassVar[str]

    def prepare(self, model: CausalLM) -> None:  # noqa: B027 - many policies measure nothing
        """Called before every step, outside of its time: the first call is the place to measure something."""

    @abstractmethod
    def choose(self, asks: Sequence[Ask], load: Load) -> list[Choice]:
        """One choice per ask, before anything is drafted."""

    def trim(self, drafts: Sequence[Drafted], load: Load) -> list[int]:
        """Depth to which each trimmable draft is cut."""
        return [draft.tree.depth for draft in drafts]

    def observe(self, request_id: int, drafter: str, tree: DraftTree, num_accepted: int) -> None:  # noqa: B027
        """Learns from a verdict on a draft."""

    def drafted(self, drafter: str, levels: int, seconds: float) -> None:  # noqa: B027
        """Learns what a drafter took for `levels` levels of all its drafts of a step."""

    def timed(self, load: Load, seconds: float) -> None:  # noqa: B027
        """Learns what a pass took; `load.rows` counts the drafts' rows too."""

    def end(self, request_id: int) -> None:  # noqa: B027
        """Forgets a request that ended."""
