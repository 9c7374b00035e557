"""What a drafter is. To add a method, subclass `Drafter` in one file (docs/add-a-drafter.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from specdec.cache.paged import PagedCache
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.sampling import LogitsTransform
from specdec.verify.base import Rule, StepKey
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class TargetHandle:
    """What a drafter may know of the target before the first request.

    Args:
        model: the target.
        cache: the target's paged cache; sequences go by their request id.
        tokenizer: the target's tokenizer, or None when the engine runs on token ids alone.
        max_batch_tokens: rows that one pass of a drafter's own model should not exceed.
    """

    model: CausalLM
    cache: PagedCache
    tokenizer: Any = None
    max_batch_tokens: int = 512


@dataclass(frozen=True)
class DraftRequest:
    """One sequence that wants a draft.

    Args:
        request_id: stable over the request's life.
        tokens: every committed token, the prompt's first. The last one has not been run by the target yet.
        num_draft_tokens: no branch may be longer than this. At least 1.
        transform: the request's sampling transform, the same for q as for p.
        rule: the acceptance rule that will judge the draft.
        key: the step's random numbers.
    """

    request_id: int
    tokens: Sequence[int]
    num_draft_tokens: int
    transform: LogitsTransform
    rule: Rule
    key: StepKey

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


class Drafter(ABC):
    """Proposes a tree of tokens for each sequence of a batch.

    Args:
        num_draft_tokens: γ, the longest branch that is proposed.
        branches: number of branches; 1 proposes chains.

    Raises:
        ConfigError: if either is below 1.
    """

    name: ClassVar[str]
    deterministic: ClassVar[bool] = True
    """Whether a draft is a function of the committed tokens alone (its q is one-hot)."""
    reads_target_cache: ClassVar[bool] = False
    """Whether the target must have cached all tokens but the last before this drafter can draft."""

    def __init__(self, num_draft_tokens: int = 5, branches: int = 1) -> None:
        if num_draft_tokens < 1:
            raise ConfigError(
                f"num_draft_tokens={num_draft_tokens} must be at least 1; for plain decoding use drafter='none'."
            )
        if branches < 1:
            raise ConfigError(f"branches={branches} must be at least 1 (1 proposes chains).")
        self.num_draft_tokens, self.branches = num_draft_tokens, branches

    def bind(self, target: TargetHandle) -> None:  # noqa: B027 - many drafters need nothing of the target
        """Called once before the first request.

        Raises:
            ConfigError: if this drafter cannot draft for that target.
        """

    def vocab_size(self) -> int | None:
        """Tokens of the vocabulary that drafts come from, if that can be told before anything is loaded; None if they
        come from the target's own."""
        return None

    def max_nodes(self, num_draft_tokens: int) -> int:
        """Upper bound of a draft's size when no branch is longer than `num_draft_tokens`."""
        return self.branches * num_draft_tokens

    @abstractmethod
    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """One tree per request, empty where there is nothing to propose.

        A tree may depend on the committed tokens and on its own draws, never on the other requests.
        """

    def observe(self, request_id: int, tree: DraftTree, path: Sequence[int]) -> None:  # noqa: B027
        """Tells which nodes of a proposed tree were accepted. The committed tokens follow with the next proposal."""

    def release(self, request_id: int) -> None:  # noqa: B027
        """The request ended, or was preempted and will start anew. Unknown ids are ignored."""
