"""What a drafter knows of its target, what it needs, and what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor

from specdec.cache import Layout
from specdec.models.base import CausalLM
from specdec.models.chains import ChainDraw
from specdec.sampling import LogitsTransform, probabilities
from specdec.sampling.noise import Noise
from specdec.sampling.view import TransformView
from specdec.verify.base import Rule, StepKey
from specdec.verify.tree import TreeShape


@dataclass(frozen=True)
class TargetHandle:
    """What a drafter knows about the target before the first request.

    Args:
        model: the target.
        tokenizer: the target's tokenizer, or None if the engine runs on token ids alone.
        max_batch_tokens: most rows of one pass of a drafter's own model.
    """

    model: CausalLM
    tokenizer: Any = None
    max_batch_tokens: int = 512


@dataclass(frozen=True)
class Needs:
    """What a drafter asks the engine for. The engine computes only what some drafter asks for.

    Args:
        hidden: layer boundaries whose hidden states it needs for every row, increasing (`Wants`).
        logits: the rows whose logits of the target it needs: none, those that a step verifies, or all that run, a
            prompt's too.
        top: how many ids of the largest logits it needs for each verified row. The ids cost nothing beside the pass;
            logits cost their memory.
        pools: layouts of the pools that it keeps beside the target's, under the same block table.
        whole_prefix: whether the target must have cached all tokens but the last before this drafter can draft.
        told: which of `pools`, by index, hold what the drafter sees of a token only when the token runs, and cannot
            compute again. A request begins with no more cached tokens than they hold. None means all of them if it asks
            for hidden states or all logits, and otherwise none.
    """

    hidden: tuple[int, ...] = ()
    logits: Literal["none", "verified", "all"] = "none"
    top: int = 0
    pools: tuple[Layout, ...] = ()
    whole_prefix: bool = False
    told: tuple[int, ...] | None = None

    @property
    def each_token(self) -> bool:
        """Whether it must see every token when the token runs, as far as its pools do not hold it already."""
        return bool(self.hidden) or self.logits == "all"

    @property
    def told_pools(self) -> tuple[int, ...]:
        """`told`, or what None stands for."""
        return self.told if self.told is not None else tuple(range(len(self.pools))) if self.each_token else ()

    @property
    def keeps_no_state(self) -> bool:
        """Whether it must see every token, and keeps nothing of that in a pool."""
        return self.each_token and not self.told_pools

    @classmethod
    def together(cls, several: Sequence[Needs]) -> Needs:
        """What several drafters ask for together. Their pools follow one another."""
        offsets = accumulate((len(each.pools) for each in several), initial=0)
        told = [start + place for start, each in zip(offsets, several, strict=False) for place in each.told_pools]
        return cls(
            hidden=tuple(sorted({boundary for each in several for boundary in each.hidden})),
            logits=max((each.logits for each in several), key=("none", "verified", "all").index, default="none"),
            top=max((each.top for each in several), default=0),
            pools=tuple(layout for each in several for layout in each.pools),
            whole_prefix=any(each.whole_prefix for each in several),
            told=() if any(each.keeps_no_state for each in several) else tuple(told),
        )


@dataclass(frozen=True)
class DraftRequest:
    """A request for the draft of one sequence.

    Args:
        request_id: stays the same for the request's whole life; also the sequence's name in the cache.
        tokens: every committed token, the prompt's first. Read it before the next pass: it may be a view that grows
            with the text. The target has not run the last token yet.
        max_depth: no branch may be longer than this. At least 1.
        transform: the request's sampling transform, the same for q as for p. Under a rule that is draft-invariant its
            scores leave out the constraint: what that forbids is taken out of the draft afterwards.
        rule: the acceptance rule that will judge the draft.
        key: the step's random numbers.
        shape: the tree to draw, at most this deep, for drafters that sample; None lets the drafter choose.
        salt: requests with different salts share nothing.
        store: whether anything of this text may outlive the request, or be seen by others.
        prediction: what the user expects the text to be; empty if there is no prediction.
        num_prompt_tokens: how many of the tokens belong to the prompt.
        floor: nodes that are less likely than this to be accepted, together with all nodes above them, will not be
            verified. A drafter may leave them out. 0 unless the draft may be trimmed.
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
    floor: float = 0.0

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

    @property
    def noise(self) -> Noise | None:
        """What the target's draw adds to its logits, if nothing else is done to them but the filters."""
        params = self.transform.params
        shared = self.rule.noisy_argmax and not params.greedy and not self.transform.edits
        return Noise(params, self.key.random, self.key.anchor) if shared else None

    def ranked(
        self, logits: Tensor, prefix: Sequence[int], count: int, ids: Tensor | None = None
    ) -> list[tuple[int, float]]:
        """The tokens that the target will most likely emit at one node, best first, and how likely: for rules whose
        text does not depend on the draft.

        A target that shares its noise emits the argmax of z + T g, with z its logits. The drafter's are off by some
        error. If that is standard Gumbel noise too, as where a softmax of logits is the chance of each token, then the
        chances are softmax(z + T g): at T = 0 the drafter's own law, and otherwise much surer, since g is known.

        Args:
            logits: [V], the drafter's raw logits after the committed tokens and `prefix`; or [n], of `ids` alone.
            prefix: draft tokens on the path to the node.
            count: most tokens.
            ids: int64 [n], the tokens that the drafter knows, increasing, where nothing edits logits; None: all.
        """
        transform, temperature = self.transform, self.transform.params.temperature
        if ids is None:
            [scores] = transform.scores(logits[None], [prefix])
        else:
            [scores] = transform.scores_of_some(logits[None])
        if self.rule.noisy_argmax and temperature:
            noise = Noise(transform.params, self.key.random, self.key.anchor).at(len(prefix), len(scores), ids)
            law = probabilities(temperature * scores + noise.to(scores.device))
            places = law.topk(min(count, int(law.count_nonzero()))).indices.tolist()
        else:
            law = probabilities(scores)
            places, _ = self.rule.draw(scores, self.key, len(prefix), range(count))
        tokens = places if ids is None else ids[places].tolist()
        return list(zip(tokens, law[places].clamp(max=1.0).tolist(), strict=True))

    @property
    def draws_among_some(self) -> bool:
        """Whether `draw_among` is for it: only q says what is drawn, and tokens count for nothing else."""
        return self.rule.needs_q and not self.transform.edits

    def chain_draw(self, depth: int) -> ChainDraw | None:
        """How a chain of so many tokens is drawn, if it takes no more than temperature and points."""
        params = self.transform.params
        if not self.draws_among_some or params.filters or params.greedy:
            return None
        points = [self.rule.draw_points(self.key, level, [level]) for level in range(depth)]
        told = [point for each in points if each is not None for point in each]
        return ChainDraw(told, params.temperature) if len(told) == depth else None

    def draw_among(self, logits: Tensor, ids: Tensor, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor]:
        """As `draw`, of a drafter that knows some tokens alone: less is read and drawn from.

        Args:
            logits: [n], of these.
            ids: int64 [n], which they are, increasing.
            depth, lanes: see `Rule.draw`.
        """
        places, known = self.rule.draw(self.transform.scores_of_some(logits[None])[0], self.key, depth, lanes)
        assert known is not None
        q = known.new_zeros(self.transform.vocab_size)
        q[ids] = known
        return ids[places].tolist(), q
