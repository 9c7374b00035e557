"""What a drafter is. To add a method, subclass `Drafter` in one file (docs/add-a-drafter.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from specdec.cache import PagedCache, Pool
from specdec.checks import take
from specdec.drafters.messages import DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.sizes import BRANCHES, CHOICES, DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.verify.tree import DraftTree, TreeShape

__all__ = ["DraftRequest", "Drafter", "Needs", "Outcome", "TargetHandle"]


class Drafter(ABC):
    """Proposes a tree of tokens for each sequence of a batch.

    Its life: `bind`, `attach`; then for every request any number of `propose` and `observe`, `forget` when the request
    loses its place in the cache and will start anew, and `end`, once. A drafter that raises costs the requests it was
    asked about their drafts, never their texts.

    Args:
        num_draft_tokens: γ, the longest branch that is proposed.
        branches: candidates for the first token, each continued as a chain; 1 proposes chains.
        shape: the tree that is proposed, in place of the two.

    Raises:
        ConfigError: if γ or branches is no integer from 1 on, or a draft has more than `MOST_NODES` tokens.
    """

    name: ClassVar[str]
    deterministic: bool = True
    """Whether its drafts are functions of the committed tokens alone (their q is one-hot, `tree.q` is None)."""
    shares: bool = False
    """Whether a request's draft may depend on other requests: a store of answers, statistics over all texts, or rows
    that it runs only if no other one takes its place. Only rules whose text does not depend on the draft may judge it
    then."""
    extends: ClassVar[bool] = False
    """Whether it can go on where another drafter's draft stops (`extend`)."""

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
            ConfigError: if it is no list of branches, or a branch lacks its likelier siblings.
        """
        paths = take("choices", choices, CHOICES)
        return None if paths is None else TreeShape.choices(paths)

    @property
    def trimmable(self) -> bool:
        """Whether a policy may ask for its drafts in full and verify a part of them, where the text does not depend on
        the draft: a draft costs little, and not more if it is larger. So it is with those that run no model, if they
        are functions of the committed tokens."""
        return self.deterministic

    @property
    def num_draft_tokens(self) -> int:
        """γ: the longest branch of a draft."""
        return self.shape.depth

    @property
    def trees(self) -> bool:
        """Whether a node may have several candidates."""
        return self.shape.widest > 1

    def bind(self, target: TargetHandle) -> Needs:
        """Called once, before the cache is made. Tells what the drafter needs.

        Raises:
            ConfigError: if this drafter cannot draft for that target.
        """
        return Needs()

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:  # noqa: B027 - many drafters keep nothing there
        """Called once, before the first request.

        Args:
            cache: block tables of all sequences, by request id, and the target's pool; to be read.
            pools: those that `bind` asked for, in order; the drafter writes to them, and notes by `cache.fill` how far.
        """

    def vocabulary(self) -> Mapping[str, int] | None:
        """Token → id of the vocabulary of its drafts, if that is known before anything loads; None for the target's."""
        return None

    def max_nodes(self, max_depth: int) -> int:
        """Upper bound of a draft's size when no branch is longer than `max_depth`."""
        return sum(depth < max_depth for depth in self.shape.depths)

    def memory(self) -> int:
        """Bytes that it holds now, for all requests together: tables, stores, caches of its own, as far as it can tell.
        The engine counts its pools (`Needs.pools`); weights are nobody's."""
        return 0

    @abstractmethod
    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """One tree per request, empty where there is nothing to propose.

        A tree may depend on the committed tokens and on its own draws, and on other requests only if `shares` is set.
        """

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """Adds nodes below, and candidates beside, those of another drafter's deterministic drafts.

        Args:
            requests: who asks.
            trees: one draft for each. Their nodes keep their numbers.

        Returns:
            One larger tree for each; new nodes have the highest numbers.
        """
        raise NotImplementedError(f"Drafter {self.name!r} does not extend drafts.")

    def observe(self, outcomes: Sequence[Outcome]) -> None:  # noqa: B027
        """Tells of one pass: what came of it for each request in it, whoever drafted. The cache holds what was kept."""

    def forget(self, request_id: int) -> None:  # noqa: B027
        """The request lost its place in the cache, and will start anew from its tokens. Unknown ids are ignored."""

    def end(self, request_id: int, tokens: Sequence[int]) -> None:  # noqa: B027
        """The request ended, for whatever reason, with these tokens, prompt and text. Called once for every request."""
