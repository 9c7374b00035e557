"""What a run met at each of its steps, and the verdicts of any rule on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from specdec.analysis.traces.compact import without_rest
from specdec.errors import ConfigError
from specdec.randomness import RandomSource
from specdec.sampling import SamplingParams
from specdec.stats import DecodingStats
from specdec.verify.base import Rule, StepKey
from specdec.verify.draws import DrawsWithoutReplacement, IndependentDraws
from specdec.verify.greedy import GreedyRule
from specdec.verify.select import select_rule
from specdec.verify.tree import DraftTree

DETERMINISTIC = "deterministic"


def _name(draw: Callable[..., object]) -> str:
    return f"{draw.__module__}.{draw.__qualname__}"


ONE_CANDIDATE = {_name(IndependentDraws.draw), _name(DrawsWithoutReplacement.draw)}
"""Ways to draw that are the same where no node has a second candidate."""


@dataclass(frozen=True, eq=False)
class TraceStep:
    """One step: a draft, and the target's rows for it.

    Args:
        request: which text, counted from 0.
        anchor: committed tokens when the step began.
        tree: the draft of N nodes. In a trace with `top_k` its tokens are columns of `scores`, not token ids.
        scores: float32 [N + 1, V], as `Rule.accept` gets them: log p up to a constant per row, -inf where p is zero.
        ids: int32 [N + 1, W] in a trace with `top_k`, else None: the token id of each column of `scores`, -1 for all
            other tokens together, -2 for none.
    """

    request: int
    anchor: int
    tree: DraftTree
    scores: Tensor
    ids: Tensor | None = None

    def truncated(self, depth: int) -> TraceStep:
        """The step as it would have been with drafts of at most `depth` tokens."""
        if self.tree.depth <= depth:
            return self
        rows = [0, *(node + 1 for node, d in enumerate(self.tree.depths) if d < depth)]
        ids = None if self.ids is None else self.ids[rows]
        return replace(self, tree=self.tree.truncated(depth), scores=self.scores[rows], ids=ids)


@dataclass(frozen=True)
class TraceInfo:
    """How a trace came about.

    Args:
        rule: name of the rule of the run.
        draws: how drafts were drawn: "deterministic", or the rule's `draw` method by its full name.
        greedy: whether the temperature was 0.
        num_draft_tokens: γ, the longest branch that was asked for.
        top_k: tokens kept of each row, or None for whole rows.
        every_position: whether every position of the texts is an anchor, whatever was accepted.
        vocab_size: V.
        target, drafter, sampling: for the reader.
    """

    rule: str
    draws: str
    greedy: bool
    num_draft_tokens: int
    top_k: int | None
    every_position: bool
    vocab_size: int
    target: str = ""
    drafter: str = ""
    sampling: str = ""


@dataclass(frozen=True, eq=False)
class Trace:
    """The steps of some requests. What a replay of them is worth is stated in docs/traces.md.

    Args:
        info: how it came about.
        steps: by request, then by anchor.
        seeds: of each request.
        texts: token ids of each request, prompt and output.
    """

    info: TraceInfo
    steps: Sequence[TraceStep]
    seeds: Sequence[int]
    texts: Sequence[Sequence[int]]

    @torch.inference_mode()
    def replay(
        self, rule: str | Rule, *, seed: int | None = None, num_draft_tokens: int | None = None
    ) -> DecodingStats:
        """Judges every recorded draft anew. No model runs.

        Args:
            rule: a name, "auto" or a rule. As in the engine, every lossless rule is `greedy` at temperature 0.
            seed: of new random numbers, the same for every rule; None takes the request's own, with which the rule of
                the run gives its very verdicts again (with `top_k` rounding may change some, and `gumbel` finds other
                noise).
            num_draft_tokens: cuts the drafts to this length; None leaves them.

        Returns:
            Counts; times are zero. Tokens of a last step that the run cut off, after an end token, count as emitted.

        Raises:
            ConfigError: if the drafts were not drawn as the rule's proof asks, or if the trace does not hold what is
                needed.
        """
        judge = self._judge(rule, seed)
        steps = self._cut(num_draft_tokens)
        sources = [RandomSource(own if seed is None else _derived(seed, i)) for i, own in enumerate(self.seeds)]
        scores = [step.scores for step in steps]
        if self.info.top_k is not None and isinstance(judge, GreedyRule):
            scores = [without_rest(rows) for rows in scores]
        keys = [StepKey(sources[step.request], step.anchor) for step in steps]
        stats = DecodingStats()
        for step, verdict in zip(steps, judge.accept([step.tree for step in steps], scores, keys), strict=True):
            accepted = len(verdict.path)
            tested = verdict.num_tested(step.tree)
            stats.record_step(accepted + 1, len(step.tree), tested, accepted, self.info.drafter)
        return stats

    @property
    def branches(self) -> int:
        """Most candidates of any node; 1 if all drafts are chains, 0 if none was made."""
        return max((step.tree.shape.widest for step in self.steps), default=0)

    def _cut(self, num_draft_tokens: int | None) -> Sequence[TraceStep]:
        if num_draft_tokens is None:
            return self.steps
        if not 0 <= num_draft_tokens <= self.info.num_draft_tokens:
            raise ConfigError(
                f"num_draft_tokens={num_draft_tokens}: this trace was recorded with {self.info.num_draft_tokens}. "
                "Give a number from 0 to that, or record longer drafts."
            )
        return [step.truncated(num_draft_tokens) for step in self.steps]

    def _judge(self, rule: str | Rule, seed: int | None) -> Rule:
        """The rule, if these drafts may be judged by it."""
        info, branches = self.info, self.branches
        params = SamplingParams(temperature=0.0 if info.greedy else 1.0)
        judge = select_rule(rule, params, info.draws == DETERMINISTIC, branches > 1)
        if info.top_k is not None and not judge.lossless:
            raise ConfigError(f"rule={judge.name!r} may read whole rows, and this trace has top_k={info.top_k}.")
        if info.draws == DETERMINISTIC:
            return judge
        mine, theirs = draws_of(judge), info.draws
        if mine != theirs and not (branches <= 1 and {mine, theirs} <= ONE_CANDIDATE):
            raise ConfigError(
                f"rule={judge.name!r} draws candidates with {mine}; these were drawn with {theirs} "
                f"(rule={info.rule!r}). Record a trace with rule={judge.name!r}."
            )
        if not judge.needs_q and (seed is not None or info.top_k is not None):
            raise ConfigError(
                f"rule={judge.name!r} shares its noise with the draft, so the draft can be judged with the recorded "
                "random numbers alone, over whole rows. Leave out seed, and record without top_k."
            )
        return judge


def draws_of(rule: Rule) -> str:
    """Full name of the method that draws a rule's candidates: rules that share it may judge each other's drafts."""
    return _name(type(rule).draw)


def _derived(seed: int, request: int) -> int:
    """A seed for each request: two requests must not share random numbers, even if they did when recorded."""
    return int.from_bytes(blake2b(f"{seed}/{request}".encode(), digest_size=8).digest(), "big")
