"""How many rows a request needs: one answer for whoever asks, the check at the door, admission and the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate

from specdec.checks import take, whole
from specdec.drafters.base import Drafter, Needs
from specdec.engine.request import Request
from specdec.errors import ConfigError
from specdec.foreign import foreign

MAX_DEPTH, MAX_NODES = 1024, 65536
"""Deeper and larger drafts are a slip of the pen: every row of a pass is computed."""


@dataclass(frozen=True)
class Bounds:
    """What one drafter may return, as it stated before the first request. What it says later changes nothing.

    Args:
        by_depth: entry d is the largest number of nodes of a draft whose branches are no longer than d.
    """

    by_depth: tuple[int, ...]

    @property
    def depth(self) -> int:
        """γ: its longest branch."""
        return len(self.by_depth) - 1

    def nodes(self, depth: int) -> int:
        """Nodes of its largest draft whose branches are no longer than `depth`."""
        return self.by_depth[min(depth, self.depth)]

    @classmethod
    def of(cls, drafter: Drafter) -> Bounds:
        """As it states them.

        Raises:
            ConfigError: if they are no numbers, or absurd ones.
        """
        depth = _stated(drafter, "num_draft_tokens", lambda: drafter.num_draft_tokens, MAX_DEPTH)
        nodes = [
            _stated(drafter, f"max_nodes({each})", partial(drafter.max_nodes, each), MAX_NODES)
            for each in range(depth + 1)
        ]
        return cls(tuple(accumulate(nodes, max)))


@dataclass(frozen=True)
class DraftLimits:
    """How many rows drafts may take, whoever makes them.

    Args:
        drafters: with what each of them needs; their names are distinct.

    Raises:
        ConfigError: if a drafter states no sound bounds.
    """

    drafters: Sequence[tuple[Drafter, Needs]]
    of: Mapping[str, Bounds] = field(init=False)
    """By the drafter's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", {drafter.name: Bounds.of(drafter) for drafter, _ in self.drafters})

    @cached_property
    def max_depth(self) -> int:
        """Longest branch of any drafter."""
        return max(bounds.depth for bounds in self.of.values())

    @cached_property
    def whole_prefix(self) -> bool:
        """Whether any drafter needs the target's cache to be complete up to the last token."""
        return any(needs.whole_prefix for _, needs in self.drafters)

    @cached_property
    def _by_depth(self) -> list[int]:
        depths = range(self.max_depth + 1)
        return [max(bounds.nodes(depth) for bounds in self.of.values()) for depth in depths]

    def max_nodes(self, depth: int) -> int:
        """Nodes of the largest draft whose branches are no longer than `depth`."""
        return self._by_depth[depth]

    def depth(self, request: Request) -> int:
        """Longest branch that may be drafted for a request now; it depends on the request alone."""
        return request.max_depth(self.max_depth)

    def draft_rows(self, request: Request) -> int:
        """Rows of the largest draft that a request may get now, or of its probe."""
        if request.probe is not None:
            return len(request.probe.read)
        return self._by_depth[self.depth(request)]

    def rows(self, request: Request) -> int:
        """Slots that a request needs to decode now: those of its tokens, and of a draft."""
        return len(request.tokens) + self.draft_rows(request)

    def most_rows(self, request: Request) -> int:
        """Slots that it needs at most, until its end."""
        if request.probe is not None:
            return self.rows(request)
        return self.most(request.max_length, self.depth(request))

    def most(self, length: int, depth: int | None = None) -> int:
        """Slots that a text of `length` tokens needs at most while it grows. Towards its end its drafts get shorter:
        with d more tokens to come after the next one, no branch is longer than d."""
        depth = self.max_depth if depth is None else depth
        return max(length - 1 - d + self._by_depth[d] for d in range(min(depth, length - 1) + 1))


def _stated(drafter: Drafter, what: str, ask: Callable[[], int], most: int) -> int:
    """A number that a drafter states of itself."""
    name = f"{what} of drafter {drafter.name!r}"
    with foreign(ConfigError, f"Cannot learn {name}", "Mend the drafter."):
        stated = ask()
    number: int = take(name, stated, whole(0, most))
    return number
