"""The base class of drafters. To add a method, subclass `Drafter` in one file (docs/add-a-drafter.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from specdec.cache import PagedCache, Pool
from specdec.checks import take
from specdec.drafters.messages import DraftRequest, Needs, TargetHandle
from specdec.drafters.outcome import Outcome
from specdec.drafters.sizes import BRANCHES, CHOICES, DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.verify.tree import DraftTree, TreeShape

__all__ = ["DraftRequest", "Drafter", "Needs", "Outcome", "TargetHandle"]


class Drafter(ABC):
    """Proposes a tree of tokens for each sequence of a batch.

    The engine calls `join`, `bind` and `attach` once. For every request it calls `propose` and `observe` any number of
    times, `forget` when the request loses its place in the cache and will start again, and `end` once. If a drafter
    raises an error, the requests of that call run without a draft; their texts do not change.

    Args:
        num_draft_tokens: γ, the longest branch that it proposes.
        branches: number of candidates for the first token, each continued as a chain; 1 proposes chains.
        shape: the tree to propose, in place of the two.

    Raises:
        ConfigError: if γ or branches is not a positive integer, or a draft has more than `MOST_NODES` tokens.
    """

    name: ClassVar[str]
    deterministic: bool = True
    """Whether its drafts depend only on the committed tokens (their q is one-hot, `tree.q` is None)."""
    shares: bool = False
    """Whether a request's draft may depend on other requests: through a store of answers, statistics over all texts, or
    rows that it runs only if no other request takes their place. If so, only rules whose text does not depend on the
    draft may judge it."""
    extends: ClassVar[bool] = False
    """Whether it can extend the drafts of another drafter (`extend`)."""
    parts: tuple[str, ...] = ()
    """Names of the engine's other drafters that it drafts with (`join`): where one of them has lost track of a request,
    it is not asked either."""

    def __init__(self, num_draft_tokens: int = 5, branches: int = 1, shape: TreeShape | None = None) -> None:
        depth, count = take("num_draft_tokens", num_draft_tokens, DEPTH), take("branches", branches, BRANCHES)
        nodes = depth * count if shape is None else len(shape)
        if nodes > MOST_NODES:
            raise ConfigError(
                f"num_draft_tokens = {depth} with branches = {count} or these choices make drafts of {nodes} tokens. A "
                f"draft has at most {MOST_NODES}: ask for less."
            )
        self.shape = TreeShape.fork(count, depth) if shape is None else shape

    @staticmethod
    def chosen(choices: object) -> TreeShape | None:
        """The shape of an option `choices`; None if that is None.

        Raises:
            ConfigError: if it is not a list of branches, or a branch lacks its likelier siblings.
        """
        paths = take("choices", choices, CHOICES)
        return None if paths is None else TreeShape.choices(paths)

    @property
    def trimmable(self) -> bool:
        """Whether a policy may ask for full drafts and verify only a part of them, if the text does not depend on the
        draft. This fits drafters whose drafts cost little, however large: those that run no model and depend only on
        the committed tokens."""
        return self.deterministic

    @property
    def ranks(self) -> bool:
        """Whether it drafts trees of the likeliest candidates under rules whose text does not depend on the draft
        (`DraftRequest.ranked`), though it draws under others. `rule=auto` takes such a rule then."""
        return False

    @property
    def num_draft_tokens(self) -> int:
        """γ: the longest branch of a draft."""
        return self.shape.depth

    @property
    def trees(self) -> bool:
        """Whether a node may have several candidates."""
        return self.shape.widest > 1

    @property
    def lead(self) -> str:
        """Name of the engine's drafter that counts the drafts of this one as its own."""
        return self.name

    def join(self, others: Mapping[str, Drafter]) -> None:  # noqa: B027 - most drafters work alone
        """Called once, before `bind`, with the engine's other drafters by their names. It may draft with them; their
        lives are the engine's business."""

    def bind(self, target: TargetHandle) -> Needs:
        """Called once, before the cache is made. Returns what the drafter needs.

        Raises:
            ConfigError: if this drafter cannot draft for that target.
        """
        return Needs()

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:  # noqa: B027 - many drafters keep nothing there
        """Called once, before the first request.

        Args:
            cache: block tables of all sequences, by request id, and the target's pool; read only.
            pools: the pools that `bind` asked for, in order. The drafter writes to them, and records with `cache.fill`
                how far they are filled.
        """

    def vocabulary(self) -> Mapping[str, int] | None:
        """Token → id of the vocabulary of its drafts, if it is known before anything loads. None for the target's."""
        return None

    def max_nodes(self, max_depth: int) -> int:
        """The most nodes of a draft if no branch is longer than `max_depth`."""
        return sum(depth < max_depth for depth in self.shape.depths)

    def memory(self) -> int:
        """Bytes that it holds now for all requests together: tables, stores and caches of its own, as far as it knows.
        The engine counts its pools (`Needs.pools`). Weights are not counted."""
        return 0

    @abstractmethod
    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """One tree per request; an empty tree proposes nothing.

        A tree may depend on the committed tokens and on its own draws, and on other requests only if `shares` is set.
        """

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """Adds nodes below and beside the nodes of another drafter's deterministic drafts.

        Args:
            requests: the requests.
            trees: one draft for each request. Their nodes keep their numbers.

        Returns:
            One larger tree for each; new nodes have the highest numbers.
        """
        raise NotImplementedError(f"Drafter {self.name!r} does not extend drafts.")

    def observe(self, outcomes: Sequence[Outcome]) -> None:  # noqa: B027
        """Called after every pass, with its outcome for each request in it, whoever drafted. The cache holds the
        kept tokens."""

    def forget(self, request_id: int) -> None:  # noqa: B027
        """The request lost its place in the cache, and will start again from its tokens. Unknown ids are ignored."""

    def end(self, request_id: int, tokens: Sequence[int]) -> None:  # noqa: B027
        """The request ended, for any reason, with these tokens (prompt and text). Called once for every request."""
