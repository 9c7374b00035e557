"""The base class of acceptance rules: how draft tokens are drawn from q, and which of them the target keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from specdec.errors import SpecdecError
from specdec.randomness import RandomSource
from specdec.verify.rational import DrawLaw, ExactDraft, Law, Row
from specdec.verify.tree import ROOT, DraftTree


@dataclass(frozen=True)
class StepKey:
    """The random numbers of a sequence in one step.

    Args:
        random: the request's own source.
        anchor: number of committed tokens when the step began, which is the absolute position that a draft node of
            depth 0 would take.
    """

    random: RandomSource
    anchor: int


@dataclass(frozen=True)
class Verdict:
    """What one sequence emits in one step: the tokens of `path`, then `next_token` (correction or bonus)."""

    path: tuple[int, ...]
    next_token: int

    def num_tested(self, tree: DraftTree) -> int:
        """Draft positions that were tested: all accepted ones, and the first one where every candidate was rejected."""
        return len(self.path) + bool(tree.refused(self.path))

    def tokens(self, tree: DraftTree) -> tuple[int, ...]:
        """The emitted token ids, in order."""
        return (*(tree.tokens[node] for node in self.path), self.next_token)


class Rule(ABC):
    """Decides which draft tokens the target keeps, and emits one more.

    A rule has two faces that must agree, which `specdec.proof.certify` checks: `draw` and `accept` on tensors, and
    `draw_law` and `law`, which state the exact probability of everything that those two may do.

    `scores` are log-probabilities up to a constant per row, after the request's sampling transform, -inf where the
    probability is zero. A sequence with N draft nodes has N + 1 rows: row 0 follows the last committed token, row
    n + 1 follows node n. A rule holds no state: everything it uses comes in by its arguments.
    """

    name: ClassVar[str]
    kernel: ClassVar[str | None] = None
    """Name of the GPU kernel that does the same as this class. Not inherited: a subclass may change the rule."""
    lossless: ClassVar[bool] = True
    """Whether emitted tokens follow `emits`. A lossy rule is for research, and every report marks it."""
    needs_q: ClassVar[bool] = False
    """Whether `draw` returns the distribution it drew from. Without it drafts count as deterministic."""
    draft_invariant: ClassVar[bool] = False
    """Whether the text depends only on (seed, prompt, p), and not on the draft or its size."""
    noisy_argmax: ClassVar[bool] = False
    """Whether every emitted token is the argmax of its row's scores and the noise of its position
    (`RandomSource.gumbel`), which is known before anything is drafted."""
    by_argmax: ClassVar[bool] = False
    """Whether it needs only the first largest score of every row; then it has `accept_argmax`."""
    trees: ClassVar[bool] = True
    """Whether a node may have several candidates."""
    deterministic_trees: ClassVar[bool] = True
    """Whether the candidates may come from a deterministic drafter; has no meaning for a rule of chains."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "draw" in vars(cls) and "draw_points" not in vars(cls):
            cls.draw_points = Rule.draw_points  # type: ignore[method-assign]

    @abstractmethod
    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """Draws draft candidates for one node, in the way that this rule's proof needs.

        Args:
            scores: float32 [V], the drafter's scores after the sampling transform.
            key: the step's random numbers.
            depth: depth of the candidates in the tree.
            lanes: node number of each candidate; sets both how many are drawn and their random numbers.

        Returns:
            One token per lane (fewer if fewer tokens have mass), and q, float32 [V], if `needs_q`.
        """

    def draw_points(self, key: StepKey, depth: int, lanes: Sequence[int]) -> list[float] | None:
        """One point in (0, 1) a candidate, if all that `draw` does is to invert the cumulative distribution of q there;
        None if it draws otherwise. Not inherited by a class with a `draw` of its own."""
        return None

    @abstractmethod
    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        """The probability of every tuple of tokens that `draw` may return for one node.

        Args:
            q: the drafter's distribution, [V] fractions.
            num_candidates: lanes.
        """

    @abstractmethod
    def law(self, draft: ExactDraft) -> Law:
        """The probability of every verdict on one draft, exact fractions that sum to one."""

    def emits(self, p: Row) -> Row:
        """The distribution that an emitted token should follow if the target's is `p`."""
        return p

    @abstractmethod
    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """The verdict for one sequence. `scores`: float32 [N + 1, V]."""

    def accept_argmax(self, tree: DraftTree, tokens: Sequence[int]) -> Verdict:
        """The verdict that `accept_one` gives on scores whose first largest is at `tokens`, one per row."""
        raise NotImplementedError(f"Rule {self.name!r} needs all scores.")

    def accept(self, trees: Sequence[DraftTree], scores: Sequence[Tensor], keys: Sequence[StepKey]) -> list[Verdict]:
        """Verdicts for a ragged batch; each is a function of its own tree, scores and key.

        Args:
            trees: one draft per sequence, possibly empty.
            scores: float32 [N_s + 1, V], one per sequence; the largest of every row is finite, as
                `LogitsTransform.scores` makes sure.
            keys: one per sequence.

        Raises:
            SpecdecError: if the rows do not match the trees, or if a chain is needed and a tree is given.
            NumericalError: if a draft token has no mass under the q that it is said to come from.
        """
        for tree, rows in zip(trees, scores, strict=True):
            if len(rows) != len(tree) + 1:
                raise SpecdecError(
                    f"Rule {self.name!r}: {len(tree)} nodes need {len(tree) + 1} rows of scores, got {len(rows)}."
                )
            if not self.trees and not tree.is_chain:
                raise SpecdecError(f"Rule {self.name!r} judges chains. Use branches=1, or a rule for trees.")
        return [self.accept_one(*problem) for problem in zip(trees, scores, keys, strict=True)]


def walk_matching(tree: DraftTree, emit: Callable[[int, int], int]) -> Verdict:
    """Follows the branch that agrees with the target's own token at every node.

    Args:
        tree: the draft.
        emit: row number and number of accepted nodes → the token that the target emits there. Asked for rows that are
            reached, and no others.
    """
    path: list[int] = []
    node = ROOT
    while True:
        token = emit(node + 1, len(path))
        match = next((child for child in tree.children(node) if tree.tokens[child] == token), None)
        if match is None:
            return Verdict(tuple(path), token)
        path.append(match)
        node = match
