"""The step: schedule → draft → one target pass → accept → commit. And nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from specdec.cache import PagedCache, Pool
from specdec.drafters.base import Drafter, Needs, TargetHandle
from specdec.engine.clock import StepClock
from specdec.engine.config import EngineConfig
from specdec.engine.drafting import Drafting, Proposal
from specdec.engine.endings import finish, forget, restore
from specdec.engine.faults import held_bytes
from specdec.engine.intake import Intake
from specdec.engine.limits import DraftLimits
from specdec.engine.outputs import StepOutput
from specdec.engine.owner import Owner
from specdec.engine.pacing import GoalPace
from specdec.engine.prefixes import Prefixes
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.scheduler import Scheduler
from specdec.engine.settling import Deliver, Settling
from specdec.errors import ConfigError, SpecdecError
from specdec.kernels.cpu.threads import torch_on_one_thread
from specdec.kernels.device import wait_for
from specdec.models.base import CausalLM, PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.policy.always import AlwaysPolicy
from specdec.policy.base import Policy
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule
from specdec.verify.select import AUTO
from specdec.verify.tree import DraftTree


class Engine:
    """Generates for many requests at once; requests join and leave between any two steps.

    One thread at a time may use it; a second one is refused. `EngineLoop` lets several threads share one.

    An exception may end a step anywhere, an interrupt too. What is certain is each request's tokens: before the next
    step all requests give their cache back and begin anew from them, and their texts are what they would have been. A
    request whose tokens were just being written ends with an error instead.

    Args:
        model: the target.
        drafter: proposes; or several drafters, of which `policy` chooses one for each request and step.
        rule: name of an acceptance rule, "auto", or a rule.
        config: sizes.
        tokenizer: turns tokens into text; without it requests yield token ids and cannot have stop strings.
        eos: token ids that end a text.
        policy: who drafts, and how deep; None drafts always, at full depth.
        defaults: the model's own values for what a request's parameters leave out (`SamplingParams.over`).

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
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.model, self.policy = model, policy or AlwaysPolicy()
        self.drafters = (drafter,) if isinstance(drafter, Drafter) else tuple(drafter)
        names = [one.name for one in self.drafters]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"The drafters of an engine need distinct names, and there must be one; got {names}.")
        for one in self.drafters:
            one.join({other.name: other for other in self.drafters if other is not one})
        handle = TargetHandle(model, tokenizer, self.config.max_batch_tokens)
        bound = [(one, one.bind(handle)) for one in self.drafters]
        layouts = [layout for _, needs in bound for layout in needs.pools]
        limits = DraftLimits(bound)
        num_blocks = self.config.blocks_for(model, layouts, limits.most(model.max_context))
        self.cache = PagedCache(model.kv_layout, num_blocks, self.config.block_size, layouts)
        self.prefixes = self._attach(bound)
        self.drafting = Drafting(bound, self.policy, limits, model.kv_layout.device)
        sizes = self.config.max_batch_tokens, self.config.max_num_seqs
        goals = self.config.goals
        pace = GoalPace(goals, self.cache, limits, sizes[0]) if goals else None
        # Nothing below may hold the engine itself: the cache is to go with it, not when cycles are looked for.
        self.scheduler = Scheduler(self.cache, limits, *sizes, partial(forget, self.drafting), self.prefixes, pace)
        self._intake = Intake(model, tokenizer, eos, rule, self.drafting.select, defaults or {})
        self._clock = StepClock()
        self._part_takers: list[Request] = []  # of the last pass
        self._settling = Settling(self.cache, self.drafting, model.judges_on_device)
        self._owner = Owner(partial(restore, self._settling, self.scheduler, self.drafting))

    @property
    def has_work(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.scheduler.live)

    @property
    def busy_seconds(self) -> float:
        """Time spent in steps so far: what a request waits, without what a caller does between steps."""
        return self._clock.total

    @property
    def drafter_bytes(self) -> int:
        """What the drafters hold now: what they tell (`Drafter.memory`), and their pools."""
        pools = sum(pool.layout.bytes_per_token() * pool.num_slots for pool in self.cache.pools[1:])
        return pools + held_bytes(self.drafters, self.drafting.faults)

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

    def make_probe(self, prompt: Sequence[int], tree: DraftTree, params: SamplingParams) -> Request:
        """Checks a request for `Request.node_logprobs` of a tree below a prompt, all of them from one pass.

        Args:
            prompt: token ids.
            tree: what is scored, under the target itself, before any sampling transform.
            params: whose salt, and whether anything of the prompt is found or kept. The rest has no say.

        Raises:
            InvalidRequestError, OutOfBlocksError: if it cannot be served.
        """
        request = self._intake.make_probe(prompt, tree, params)
        self.scheduler.check_fits(request)
        return request

    def add(self, request: Request) -> None:
        """Queues a request that `make_request` made. One that is queued already keeps its place.

        Raises:
            SpecdecError: if it has ended.
        """
        if request.finished:
            raise SpecdecError(f"Request {request.id} has ended ({request.finish_reason}). Make another one.")
        self._owner.change(partial(self.scheduler.add, request))

    def abort(self, request: Request, error: Exception | None = None) -> StepOutput | None:
        """Ends a request now, whatever its state.

        Args:
            request: which.
            error: why, if something failed.

        Returns:
            Its last output; None if it had ended before.
        """
        return self._owner.change(partial(self._abort, request, error))

    def mend(self) -> None:
        """Makes good a step that was interrupted, if there was one. The next use does so itself."""
        self._owner.mend()

    def give_up(self, error: Exception) -> list[StepOutput]:
        """Ends the requests that took part in a step that raised `error`, or the first that waits if none did; the
        others go on. Returns their last outputs."""
        ended = [self.abort(request, error) for request in self._part_takers or self.scheduler.live[:1]]
        return [output for output in ended if output is not None]

    def step(self, deliver: Deliver = lambda output: None) -> list[StepOutput]:
        """Runs one pass.

        Args:
            deliver: is given each output as soon as it is settled, so that none is lost if the step is interrupted.

        Returns:
            What each request that decoded, or failed, gained; prefilling ones are silent.

        Raises:
            SpecdecError: if another thread uses the engine, or if requests wait and none can be served.
        """
        return self._owner.change(partial(self._step, deliver))

    @torch.inference_mode()
    @torch_on_one_thread()
    def _step(self, deliver: Deliver) -> list[StepOutput]:
        self._part_takers = []
        self.drafting.policy.prepare(self.model)
        self.scheduler.pace.prepare(self.model)
        self._clock.start()
        plan = self.scheduler.schedule()
        if not plan:
            return []
        self._part_takers = [part.request for part in plan]
        with self._clock.measure("draft"):
            proposals = self.drafting.propose(plan, self.scheduler.pace.draft_rows)
        with self._clock.measure("verify"):
            outputs = self._run(plan, proposals)
        seconds = self._clock.spent("verify")
        if not any(output.first for output in outputs):  # a pass that is captured first tells nothing of others
            self.drafting.timed(proposals, seconds)
        gained, outcomes = self._settling.settle(plan, proposals, outputs, seconds, deliver)
        with self._clock.measure("draft"):
            self.drafting.observe(outcomes)
        self.scheduler.pace.passed(plan, gained)
        self._keep(plan, gained)
        shares = [part.share(one.tree) for part, one in zip(plan, proposals, strict=True)]
        self._clock.divide(shares, self.drafting.seconds)
        return gained

    def _attach(self, bound: Sequence[tuple[Drafter, Needs]]) -> Prefixes:
        """Gives the drafters their pools. A drafter that must be told of each token, and keeps nothing of it in a pool,
        would lack what it was told about tokens that are found in the cache: beside it nothing is."""
        pools = iter(self.cache.pools[1:])
        told: list[Pool] = []
        for drafter, needs in bound:
            own = [next(pools) for _ in needs.pools]
            drafter.attach(self.cache, own)
            told += [own[place] for place in needs.told_pools]
        enabled = self.config.prefix_cache and not any(needs.keeps_no_state for _, needs in bound)
        return Prefixes(self.cache, enabled, told)

    def _keep(self, plan: Sequence[Scheduled], gained: Sequence[StepOutput]) -> None:
        """Leaves to later requests what was read of prompts, and all of the texts that ended."""
        for part in plan:
            if len(part.tail) > 1 and not part.request.finished:
                self.prefixes.share(part.request)
        for output in gained:
            if output.finish_reason is not None:
                finish(self.scheduler, self.drafting, output.request)

    def _run(self, plan: Sequence[Scheduled], proposals: Sequence[Proposal]) -> list[PassOutput]:
        """One target pass; each request's part of what it gave."""
        needs = self.drafting.needs
        everything = needs.logits == "all"
        parts = [
            part.rows(one.tree, self.cache, everything or part.request.scores_prompt)
            for part, one in zip(plan, proposals, strict=True)
        ]
        batch = RaggedBatch.build(parts)
        argmax = needs.logits == "none" and all(p.by_argmax for p in plan)
        wants = Wants(logits="argmax" if argmax else "all", hidden=needs.hidden, top=needs.top)
        output = self.model.run(batch, self.cache.target, wants)
        if self.drafting.policy.learns:
            wait_for(self.model.kv_layout.device)
        return output.split([len(part.logit_rows) for part in parts], [len(part.tokens) for part in parts])

    def _abort(self, request: Request, error: Exception | None) -> StepOutput | None:
        if request.finished:
            return None
        pieces = request.abort() if error is None else request.fail(error)
        finish(self.scheduler, self.drafting, request)
        return StepOutput(request, pieces, finish_reason=request.finish_reason)
