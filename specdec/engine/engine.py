"""The step: schedule → draft → one target pass → accept → commit. And nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from specdec.cache.paged import PagedCache
from specdec.drafters.base import Drafter, Outcome, TargetHandle
from specdec.engine.clock import StepClock
from specdec.engine.config import EngineConfig
from specdec.engine.drafting import Drafting, Proposal
from specdec.engine.intake import Intake
from specdec.engine.logprobs import score_prompt, score_step
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.scheduler import DraftLimits, Scheduled, Scheduler
from specdec.engine.verdicts import Decoded, decide
from specdec.errors import ConfigError, NumericalError, SpecdecError
from specdec.kernels.cpu.threads import torch_on_one_thread
from specdec.models.base import CausalLM, PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.policy.always import AlwaysPolicy
from specdec.policy.base import Policy
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule, Verdict
from specdec.verify.select import AUTO


class Engine:
    """Generates for many requests at once; requests join and leave between any two steps.

    One thread at a time may use it. `EngineLoop` lets several threads share one.

    Args:
        model: the target.
        drafter: proposes; or several drafters, of which `policy` chooses one for each request and step.
        rule: name of an acceptance rule, "auto", or a rule.
        config: sizes.
        tokenizer: turns tokens into text; without it requests yield token ids and cannot have stop strings.
        eos: token ids that end a text.
        policy: who drafts, and how deep; None drafts always, at full depth.

    Raises:
        ConfigError, OutOfBlocksError: if the parts do not fit together.
    """

    def __init__(
        self,
        model: CausalLM,
        drafter: Drafter | Sequence[Drafter],
        rule: str | Rule = AUTO,
        config: EngineConfig | None = None,
        tokenizer: Any = None,
        eos: Sequence[int] = (),
        policy: Policy | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.model, self.policy = model, policy or AlwaysPolicy()
        self.drafters = (drafter,) if isinstance(drafter, Drafter) else tuple(drafter)
        names = [one.name for one in self.drafters]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"The drafters of an engine need distinct names, and there must be one; got {names}.")
        handle = TargetHandle(model, tokenizer, self.config.max_batch_tokens)
        bound = [(one, one.bind(handle)) for one in self.drafters]
        layouts = [layout for _, needs in bound for layout in needs.pools]
        num_blocks = self.config.blocks_for(model, layouts)
        self.cache = PagedCache(model.kv_layout, num_blocks, self.config.block_size, layouts)
        pools = iter(self.cache.pools[1:])
        for one, needs in bound:
            one.attach(self.cache, [next(pools) for _ in needs.pools])
        self.drafting = Drafting(bound, self.policy)
        sizes = self.config.max_batch_tokens, self.config.max_num_seqs
        self.scheduler = Scheduler(self.cache, DraftLimits(bound), *sizes, lambda r: self.drafting.forget(r.id))
        self._intake = Intake(model, tokenizer, eos, rule, self.drafting.select)
        self._clock = StepClock()

    @property
    def has_work(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def busy_seconds(self) -> float:
        """Time spent in steps so far: what a request waits, without what a caller does between steps."""
        return self._clock.total

    def make_request(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """Checks a request without queueing it. Safe in any thread.

        Args:
            prompt: token ids.
            params: how to sample.

        Raises:
            InvalidRequestError, ConfigError, OutOfBlocksError: if it cannot be served.
        """
        request = self._intake.make(prompt, params)
        self.scheduler.check_fits(request)
        return request

    def add(self, request: Request) -> None:
        """Queues a request that `make_request` made."""
        self.scheduler.add(request)

    def abort(self, request: Request, error: Exception | None = None) -> StepOutput | None:
        """Ends a request now, whatever its state.

        Args:
            request: which.
            error: why, if something failed.

        Returns:
            Its last output; None if it had ended before.
        """
        if request.finished:
            return None
        pieces = request.abort() if error is None else request.fail(error)
        self._finish(request)
        return StepOutput(request, pieces, finish_reason=request.finish_reason)

    @torch.inference_mode()
    @torch_on_one_thread()
    def step(self) -> list[StepOutput]:
        """Runs one pass. Returns what each request that decoded, or failed, gained; prefilling ones are silent."""
        self.policy.prepare(self.model)
        self._clock.start()
        plan = self.scheduler.schedule()
        if not plan:
            return []
        with self._clock.measure("draft"):
            proposals = self.drafting.propose(plan)
        with self._clock.measure("verify"):
            outputs = self._run(plan, proposals)
        seconds = self._clock.spent("verify")
        self.drafting.timed(plan, proposals, seconds)
        gained, outcomes = self._settle(plan, proposals, outputs, seconds)
        with self._clock.measure("draft"):
            self.drafting.observe(outcomes)
        for output in gained:
            if output.finish_reason is not None:
                self._finish(output.request)
        self._clock.divide([part.share(one.tree) for part, one in zip(plan, proposals, strict=True)])
        return gained

    def _run(self, plan: Sequence[Scheduled], proposals: Sequence[Proposal]) -> list[PassOutput]:
        """One target pass; each request's part of what it gave."""
        everything = self.drafting.logits == "all"
        parts = [
            part.rows(one.tree, self.cache, everything or part.request.scores_prompt)
            for part, one in zip(plan, proposals, strict=True)
        ]
        batch = RaggedBatch.build(parts, self.model.kv_layout.device)
        argmax = self.drafting.logits == "none" and all(p.by_argmax for p in plan)
        wants = Wants(logits="argmax" if argmax else "all", hidden=self.drafting.hidden)
        output = self.model.run(batch, self.cache.target, wants)
        return output.split([len(part.logit_rows) for part in parts], [len(part.tokens) for part in parts])

    def _settle(
        self,
        plan: Sequence[Scheduled],
        proposals: Sequence[Proposal],
        outputs: Sequence[PassOutput],
        seconds: float,
    ) -> tuple[list[StepOutput], list[Outcome]]:
        """Judges what was verified and commits what stays: what each request gained, and what its drafters are told."""
        outcomes: list[Outcome] = []
        gained: list[StepOutput] = []
        decoded: list[Decoded] = []
        for part, one, output in zip(plan, proposals, outputs, strict=True):
            if part.decodes:
                decoded.append(Decoded(part, one, output, output.last(len(one.tree) + 1)))
                continue
            start, logits = self.cache.length(part.request.id), self.drafting.shown(output, prompt=True)
            score_prompt(part.request, start, len(part.tail), output.logits)
            self.cache.commit(part.request.id, len(part.tail))
            outcomes.append(
                Outcome(part.request.id, start, part.tail, hidden=output.hidden, logits=logits, seconds=seconds)
            )
        for item, verdict in decide(decoded, self.model.judges_on_device):
            if isinstance(verdict, NumericalError):
                gained.append(self._fail(item.request, verdict))
                continue
            start, output = self.cache.length(item.request.id), item.output
            seen = output if self.drafting.logits == "all" else item.verified
            gained.append(self._commit(item, verdict))
            if self.drafting.listens or len(item.tree):
                tokens = gained[-1].token_ids
                outcomes.append(
                    Outcome(
                        item.request.id, start, item.part.tail, item.tree, item.proposal.drafter,
                        verdict.path[: len(tokens)], tokens, output.hidden, self.drafting.shown(seen), seconds,
                    )
                )  # fmt: skip
        return gained, outcomes

    def _commit(self, item: Decoded, verdict: Verdict) -> StepOutput:
        """Appends the accepted path's tokens and the target's own; the cache keeps the rows of those that stay."""
        request, tree, path = item.request, item.tree, verdict.path
        before, tail = len(request.tokens), len(item.part.tail)
        score_prompt(request, self.cache.length(request.id), tail, item.output.logits)
        pieces = request.commit(verdict.tokens(tree), num_drafted=len(path))
        tokens = request.tokens[before:]
        self.cache.commit_path(request.id, [*range(tail), *(tail + node for node in path[: len(tokens)])])
        reason = request.finish_reason
        scored = score_step(item, path, tokens)
        output = StepOutput(request, pieces, tokens, reason, tree, path, scored.logprobs, scored.tops)
        request.stats.record_step(len(tokens), len(tree), verdict.num_tested(tree), len(path))
        return output

    def _fail(self, request: Request, error: SpecdecError) -> StepOutput:
        """Ends one request; its neighbours go on."""
        return StepOutput(request, request.fail(error), finish_reason="error")

    def _finish(self, request: Request) -> None:
        """Frees everything that a request holds."""
        self.scheduler.finish(request)
        self.drafting.end(request.id, request.tokens)
