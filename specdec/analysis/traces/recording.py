"""Recording: a rule that looks on while another one decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specdec.analysis.traces.compact import compacted
from specdec.analysis.traces.trace import DETERMINISTIC, Trace, TraceInfo, TraceStep, draws_of
from specdec.engine import EngineLoop
from specdec.engine.request import Request
from specdec.errors import ConfigError
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.greedy import GreedyRule
from specdec.verify.rational import DrawLaw, ExactDraft, Law, Row
from specdec.verify.tree import DraftTree

Watch = Callable[[DraftTree, Tensor, Verdict], None]


def record(
    loop: EngineLoop,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    top_k: int | None = None,
    every_position: bool = False,
    watch: Watch = lambda tree, scores, verdict: None,
) -> Trace:
    """Generates for the prompts, and keeps each step's draft, p and q.

    Args:
        loop: runs the target, a drafter and a rule; the rule says how drafts are drawn.
        prompts: token ids.
        params: for all prompts, or one per prompt; all greedy, or none.
        top_k: keep this many tokens of each row and the mass of the rest (see `specdec.analysis.traces.compact`); None
            keeps whole rows, 4 · V bytes each, two per draft token.
        every_position: drafts at every position of the text and keeps none of it. Anchors then do not depend on what
            the rule accepts, and rules can be compared; it takes one pass per token.
        watch: shown every step's draft, its whole rows, and the verdict.

    Raises:
        ConfigError, InvalidRequestError, OutOfBlocksError: if the requests cannot be served together, or top_k < 1.
        Exception: the error of a request that failed.
    """
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k={top_k} must be at least 1, or None to keep whole rows.")
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
    engine = loop.engine
    requests = [engine.make_request(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
    rules = {request.rule for request in requests}
    if len(rules) != 1:
        raise ConfigError(f"{len(rules)} rules for {len(requests)} prompts. Record greedy and sampled texts apart.")
    [rule] = rules
    deterministic = all(drafter.deterministic for drafter in engine.drafters)
    info = TraceInfo(
        rule=rule.name,
        draws=DETERMINISTIC if deterministic or isinstance(rule, GreedyRule) else draws_of(rule),
        greedy=requests[0].params.greedy,
        num_draft_tokens=max(r.max_depth(max(d.num_draft_tokens for d in engine.drafters)) for r in requests),
        top_k=top_k,
        every_position=every_position,
        vocab_size=engine.model.vocab_size,
        target=engine.model.name,
        drafter="+".join(drafter.name for drafter in engine.drafters),
        sampling="; ".join(sorted({repr(replace(one.params, seed=None)) for one in requests})),
    )
    steps: list[TraceStep] = []
    for index, request in enumerate(requests):
        request.rule = _Recorder(rule, index, steps, top_k, every_position, watch)
    _run(loop, requests)
    steps.sort(key=lambda step: (step.request, step.anchor))
    return Trace(info, steps, [r.random.seed for r in requests], [list(r.tokens) for r in requests])


def _run(loop: EngineLoop, requests: Sequence[Request]) -> None:
    for request in requests:
        loop.submit(request)
    for _ in loop.outputs(requests):
        pass
    for request in requests:
        if request.error is not None:
            raise request.error


class _Recorder(Rule):
    """Keeps what one request's rule is asked to judge."""

    name = "recorder"

    def __init__(
        self,
        rule: Rule,
        request: int,
        steps: list[TraceStep],
        top_k: int | None,
        every_position: bool,
        watch: Watch,
    ) -> None:
        self._rule, self._request, self._steps = rule, request, steps
        self._top_k, self._every_position, self._watch = top_k, every_position, watch

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor | None]:
        return self._rule.draw(scores, key, depth, lanes)

    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        return self._rule.draw_law(q, num_candidates)

    def law(self, draft: ExactDraft) -> Law:
        return self._rule.law(draft)

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """The rule's own verdict; on an empty draft, which emits one token of the target's, for `every_position`."""
        self._keep(tree, scores, key.anchor)
        kept, rows = (DraftTree(), scores[:1]) if self._every_position else (tree, scores)
        [verdict] = self._rule.accept([kept], [rows], [key])
        self._watch(tree, scores, verdict)
        return verdict

    def _keep(self, tree: DraftTree, scores: Tensor, anchor: int) -> None:
        with torch.inference_mode(False):  # tensors that outlive the engine's step, and share no memory with it
            tree = replace(tree, q=None if tree.q is None else tree.q.clone())
            scores = scores.clone()
            ids = None
            if self._top_k is not None:
                tree, scores, ids = compacted(tree, scores, self._top_k)
        self._steps.append(TraceStep(self._request, anchor, tree, scores, ids))
