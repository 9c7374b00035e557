"""What a drafter is. To add a method, subclass `Drafter` in one file (docs/add-a-drafter.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor

from specdec.cache import Layout, PagedCache, Pool
from specdec.checks import take
from specdec.drafters.sizes import BRANCHES, CHOICES, DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.sampling import LogitsTransform
from specdec.sampling.view import TransformView
from specdec.verify.base import Rule, StepKey
from specdec.verify.tree import DraftTree, TreeShape


@dataclass(frozen=True)
class TargetHandle:
    """What a drafter may know of the target before the first request.

    Args:
        model: the target.
        tokenizer: the target's tokenizer, or None when the engine runs on token ids alone.
        max_batch_tokens: rows that one pass of a drafter's own model should not exceed.
    """

    model: CausalLM
    tokenizer: Any = None
    max_batch_tokens: int = 512


@dataclass(frozen=True)
class Needs:
    """What a drafter asks of the engine. What nobody asks for is not computed.

    Args:
        hidden: layer boundaries whose hidden states it wants of every row, increasing (`Wants`).
        logits: whether it wants the target's logits: of no row, of the rows that a step verifies, or of all rows that
            run, a prompt's too.
        top: how many of the largest logits of each row that a step verifies it wants to be told; their ids cost nothing
            beside the pass, where logits cost their memory.
        pools: layouts of the pools that it keeps beside the target's, under the same block table.
        whole_prefix: whether the target must have cached all tokens but the last before this drafter can draft.
    """

    hidden: tuple[int, ...] = ()
    logits: Literal["none", "verified", "all"] = "none"
    top: int = 0
    pools: tuple[Layout, ...] = ()
    whole_prefix: bool = False


@dataclass(frozen=True)
class DraftRequest:
    """One sequence that wants a draft.

    Args:
        request_id: stable over the request's life; the sequence's name in the cache.
        tokens: every committed token, the prompt's first. The last one has not been run by the target yet.
        max_depth: no branch may be longer than this. At least 1.
        transform: the request's sampling transform, the same for q as for p.
        rule: the acceptance rule that will judge the draft.
        key: the step's random numbers.
        shape: the tree to draw, at most so deep, for drafters that draw; None leaves it to the drafter.
        salt: requests of different salts share nothing.
        store: whether anything of this text may outlive the request, or be seen by others.
        prediction: what the user expects the text to be; empty if nothing is expected.
        num_prompt_tokens: how many of the tokens are the prompt's.
    """

    request_id: int
    tokens: Sequence[int]
    max_depth: int
    transform: LogitsTransform | TransformView
    rule: Rule
    key: StepKey
    shape: TreeShape | None = None
    salt: str = ""
    store: bool = True
    prediction: tuple[int, ...] = ()
    num_prompt_tokens: int = 0

    @property
    def by_argmax(self) -> bool:
        """Whether a single candidate is always the argmax of the drafter's logits."""
        return self.rule.by_argmax and self.transform.identity

    def draw(self, logits: Tensor, prefix: Sequence[int], lanes: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """Draws candidates for one node from a drafter's logits, as the rule's proof requires.

        Args:
            logits: [V], the drafter's raw logits after the committed tokens and `prefix`.
            prefix: draft tokens on the path to the node.
            lanes: numbers that the new nodes will have in the tree, one per candidate.

        Returns:
            The tokens, at most one per lane, and their q (float32 [V]) if the rule needs it.
        """
        scores = self.transform.scores(logits[None], [prefix])[0]
        return self.rule.draw(scores, self.key, len(prefix), lanes)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one pass did for one request. Every pass is told: prompt chunks, steps without a draft, the last step.

    The pass ran T rows: those of `tail`, then those of the N nodes of `tree`. Row r of the tail stands at position
    start + r.

    Args:
        request_id: the request.
        start: tokens that the target had cached before the pass.
        tail: committed tokens that ran: a piece of the prompt, or the last token.
        tree: the draft that was verified.
        drafter: name of the drafter that proposed it.
        path: nodes that were accepted and kept, first to last. What the request cut off, after an end token or at a
            limit, is not among them.
        tokens: tokens that the step added to the text: those of `path`, and the target's own, unless it was cut off.
            Empty where the pass read only a piece of a prompt.
        hidden: float32 [T, k, H] at the boundaries that the drafter asked for, or None.
        logits: the target's raw logits, float: the rows that were verified, [N + 1, V] (after the last token of the
            tail, and after every node); or of all rows that ran, [T, V]; or None, as the drafter asked.
        top: int32 [N + 1, k], ids of the k largest raw logits of the rows that were verified, largest first and of
            equals the lowest id first, for as many as the drafter asked (k is less only where the vocabulary is);
            None if it asked for none, or if the pass read only a piece of a prompt.
        seconds: of the target's pass, all requests together.
    """

    request_id: int
    start: int
    tail: Sequence[int]
    tree: DraftTree = field(default_factory=DraftTree)
    drafter: str = ""
    path: tuple[int, ...] = ()
    tokens: Sequence[int] = ()
    hidden: Tensor | None = None
    logits: Tensor | None = None
    top: Tensor | None = None
    seconds: float = 0.0

    @cached_property
    def rows(self) -> list[int]:
        """Rows of the pass whose entries stay in the cache, at the positions from `start` on."""
        tail = len(self.tail)
        return [*range(tail), *(tail + node for node in self.path)]

    @cached_property
    def cached(self) -> list[int]:
        """The tokens of those rows."""
        return [*self.tail, *(self.tree.tokens[node] for node in self.path)]


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
    """Whether a request's draft may depend on other requests: a store of answers, statistics over all texts. Only rules
    whose text does not depend on the draft may judge it then."""
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
