"""The last half of a step: verdicts → tokens, text, and a cache that holds what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.cache.paged import PagedCache
from specdec.drafters.base import Outcome
from specdec.engine.drafting import Drafting, Proposal
from specdec.engine.logprobs import score_prompt, score_step
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.verdicts import Decoded, decide, own_error
from specdec.errors import NumericalError, SpecdecError
from specdec.foreign import STOPS
from specdec.models.base import PassOutput
from specdec.stats import NOBODY
from specdec.verify.base import Verdict

Deliver = Callable[[StepOutput], object]
"""Takes an output as soon as it is settled."""


class Settling:
    """Writes what a pass brought into the requests and the cache.

    Args:
        cache: where the rows of the pass are.
        drafting: says what its drafters want to be told.
        on_device: whether verdicts are found by GPU kernels.
    """

    def __init__(self, cache: PagedCache, drafting: Drafting, on_device: bool) -> None:
        self._cache, self._drafting, self._on_device = cache, drafting, on_device
        self._writing: Request | None = None
        """The request whose tokens are being written: until it is None again they are not certain."""

    def restore(self) -> None:
        """After an interrupt: the request that was being written ends with an error."""
        if (request := self._writing) is not None:
            request.error = request.error or SpecdecError(
                f"Request {request.id} was interrupted while its tokens were being written. Send it again."
            )
            request.finish_reason = "error"
        self._writing = None

    def settle(
        self,
        plan: Sequence[Scheduled],
        proposals: Sequence[Proposal],
        outputs: Sequence[PassOutput],
        seconds: float,
        deliver: Deliver,
    ) -> tuple[list[StepOutput], list[Outcome]]:
        """Judges what was verified and commits what stays: what each request gained, and what its drafters are told.

        Args:
            plan, proposals, outputs: of each request its part of the pass, its draft, and what the pass gave for it.
            seconds: of the pass.
            deliver: is given each output.
        """
        outcomes: list[Outcome] = []
        gained: list[StepOutput] = []
        decoded: list[Decoded] = []
        for part, one, output in zip(plan, proposals, outputs, strict=True):
            probed = part.decodes and part.request.probe is not None
            if part.decodes and not probed:
                decoded.append(Decoded(part, one, output, output.last(len(one.tree) + 1)))
                continue
            outcomes.append(self._read(part, output, seconds))
            if probed:
                gained.append(self._answer(part, output))
                deliver(gained[-1])
        with self._cache.moving.together():
            for item, verdict in decide(decoded, self._on_device):
                request, start = item.request, self._cache.length(item.request.id)
                seen = item.output if self._drafting.needs.logits == "all" else item.verified
                self._writing = request
                gained.append(self._commit(item, verdict))
                deliver(gained[-1])
                self._writing = None
                if request.error is None and (len(item.tree) or self._drafting.wants(request.id)):
                    tokens = tuple(gained[-1].token_ids)
                    outcomes.append(
                        Outcome(
                            request.id, start, tuple(item.part.tail), item.tree, item.proposal.drafter,
                            gained[-1].path[: len(tokens)], tokens, item.output.hidden, self._drafting.shown(seen),
                            self._drafting.shown_top(item.verified), seconds,
                        )
                    )  # fmt: skip
        return gained, outcomes

    def _read(self, part: Scheduled, output: PassOutput, seconds: float) -> Outcome:
        """Commits a piece of a prompt. What drafters are told of it."""
        request, count = part.request, len(part.tail)
        start, logits = self._cache.length(request.id), self._drafting.shown(output, prompt=True)
        self._writing = request
        score_prompt(request, start, count, output.logits)
        self._writing = None
        self._cache.commit(request.id, count)
        hidden, logits = (None if rows is None else rows[:count] for rows in (output.hidden, logits))
        return Outcome(request.id, start, tuple(part.tail), hidden=hidden, logits=logits, seconds=seconds)

    def _answer(self, part: Scheduled, output: PassOutput) -> StepOutput:
        """Ends a probe, with the log-probabilities that it is for."""
        request = part.request
        assert request.probe is not None
        try:
            request.node_logprobs = request.probe.scores(output.last(len(part.probe) + 1))
        except NumericalError as error:
            return self._fail(request, error)
        request.finish_reason = "stop"
        return StepOutput(request, finish_reason="stop")

    def _commit(self, item: Decoded, verdict: Verdict | SpecdecError) -> StepOutput:
        """Appends what the verdict says. What fails in it, a tokenizer or a constraint, is the request's own."""
        if isinstance(verdict, SpecdecError):
            return self._fail(item.request, verdict)
        before = len(item.request.tokens)
        try:
            return self._append(item, verdict)
        except STOPS:
            raise
        except BaseException as error:
            del item.request.tokens[before:]
            return self._fail(item.request, own_error(error, "its tokenizer or its constraint"))

    def _append(self, item: Decoded, verdict: Verdict) -> StepOutput:
        """Appends the accepted path's tokens and the target's own; the cache keeps the rows of those that stay."""
        request, tree, path = item.request, item.tree, verdict.path
        before, tail = len(request.tokens), len(item.part.tail)
        score_prompt(request, self._cache.length(request.id), tail, item.output.logits)
        pieces = request.commit(verdict.tokens(tree), num_drafted=len(path))
        tokens = request.tokens[before:]
        self._cache.commit_path(request.id, [*range(tail), *(tail + node for node in path[: len(tokens)])])
        reason = request.finish_reason
        scored = score_step(item, path, tokens)
        drafter = item.proposal.drafter if len(tree) else NOBODY
        output = StepOutput(request, pieces, tokens, reason, tree, path, scored.logprobs, scored.tops, drafter)
        request.stats.record_step(len(tokens), len(tree), verdict.num_tested(tree), len(path), drafter)
        return output

    def _fail(self, request: Request, error: SpecdecError) -> StepOutput:
        """Ends one request; its neighbours go on."""
        return StepOutput(request, request.fail(error), finish_reason="error")
