"""The step: schedule → draft → one target pass → accept → commit. And nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specdec.cache.paged import PagedCache
from specdec.drafters.base import Drafter, TargetHandle
from specdec.engine.clock import StepClock
from specdec.engine.config import EngineConfig
from specdec.engine.drafting import Drafting
from specdec.engine.intake import Intake
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduled, Scheduler
from specdec.engine.verdicts import Decoded, decide
from specdec.errors import NumericalError, SpecdecError
from specdec.kernels.cpu.threads import torch_on_one_thread
from specdec.kernels.rows import RowMaxima
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch
from specdec.paths import cache_dir
from specdec.policy.cost import cost_curve
from specdec.policy.product import DraftController
from specdec.sampling import SamplingParams, log_probability
from specdec.verify.base import Rule, Verdict
from specdec.verify.select import AUTO
from specdec.verify.tree import DraftTree


class Engine:
    """Generates for many requests at once; requests join and leave between any two steps.

    Args:
        model: the target.
        drafter: proposes; it is bound to the target here.
        rule: name of an acceptance rule, "auto", or a rule.
        config: sizes.
        tokenizer: turns tokens into text; without it requests yield token ids and cannot have stop strings.
        eos: token ids that end a text.

    Raises:
        ConfigError, OutOfBlocksError: if the parts do not fit together.
    """

    def __init__(
        self,
        model: CausalLM,
        drafter: Drafter,
        rule: str | Rule = AUTO,
        config: EngineConfig | None = None,
        tokenizer: Any = None,
        eos: Sequence[int] = (),
    ) -> None:
        self.config = config or EngineConfig()
        self.model, self.drafter = model, drafter
        controller = DraftController(cost_curve(model, cache_dir())) if self.config.adaptive else None
        self.drafting = Drafting(drafter, controller)
        self.cache = PagedCache(model.kv_layout, self.config.blocks_for(model), self.config.block_size)
        self.scheduler = Scheduler(self.cache, drafter, self.config.max_batch_tokens, self.config.max_num_seqs)
        drafter.bind(TargetHandle(model, self.cache, tokenizer, self.config.max_batch_tokens))
        self._intake = Intake(model, tokenizer, eos, rule, drafter)
        self._clock = StepClock()

    @property
    def has_work(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def busy_seconds(self) -> float:
        """Time spent in steps so far: what a request waits, without what a caller does between steps."""
        return self._clock.total

    def add(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """Queues a request.

        Args:
            prompt: token ids.
            params: how to sample.

        Raises:
            InvalidRequestError, ConfigError, OutOfBlocksError: if it cannot be served; nothing was queued then.
        """
        request = self.make_request(prompt, params)
        self.scheduler.add(request)
        return request

    def make_request(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """Checks a request without queueing it; raises as `add` does."""
        request = self._intake.make(prompt, params)
        self.scheduler.check_fits(request)
        return request

    def abort(self, request: Request) -> None:
        """Ends a request now, whatever its state."""
        if not request.finished:
            request.finish_reason = "aborted"
            self._finish(request)

    @torch.inference_mode()
    @torch_on_one_thread()
    def step(self) -> list[StepOutput]:
        """Runs one pass. Returns what each request that decoded, or failed, gained; prefilling ones are silent."""
        self._clock.start()
        plan = self.scheduler.schedule()
        if not plan:
            return []
        with self._clock.measure("draft"):
            trees = self.drafting.propose(plan)
        with self._clock.measure("verify"):
            logits = self._forward(plan, trees)
        self.drafting.timed(plan, trees, self._clock.spent("verify"))
        decoded: list[Decoded] = []
        for part, tree, rows in zip(plan, trees, logits, strict=True):
            if part.decodes:
                decoded.append(Decoded(part, tree, rows))
            else:
                self.cache.commit(part.request.id, len(part.tail))
        outputs = [
            self._fail(item.request, verdict) if isinstance(verdict, NumericalError) else self._commit(item, verdict)
            for item, verdict in decide(decoded, self.model.judges_on_device)
        ]
        self._clock.divide([part.share(tree) for part, tree in zip(plan, trees, strict=True)])
        return outputs

    def _forward(self, plan: Sequence[Scheduled], trees: Sequence[DraftTree]) -> Sequence[Tensor | RowMaxima]:
        """Logits of each request: [N + 1, V] for the last committed token and the draft nodes; [0, V] in prefill. Where
        no request looks at more of them, their argmax."""
        parts = [part.rows(tree, self.cache) for part, tree in zip(plan, trees, strict=True)]
        batch = RaggedBatch.build(parts, self.model.kv_layout.device)
        counts = [len(part.logit_rows) for part in parts]
        argmax = all(part.request.by_argmax or not part.decodes for part in plan)
        output = self.model.run(batch, self.cache.target, Wants(logits="argmax" if argmax else "all"))
        return [one.maxima if one.logits is None else one.logits for one in output.split(counts, counts)]

    def _commit(self, item: Decoded, verdict: Verdict) -> StepOutput:
        """Keeps the accepted path in the cache, appends its tokens, and tells the drafter."""
        request, tree, path = item.request, item.tree, verdict.path
        tail = len(item.part.tail)
        self.cache.commit_path(request.id, [*range(tail), *(tail + node for node in path)])
        emitted = verdict.tokens(tree)
        before = len(request.tokens)
        pieces = request.commit(emitted, num_drafted=len(path))
        tokens = request.tokens[before:]
        if request.params.logprobs:
            rows = [0, *(node + 1 for node in path)][: len(tokens)]
            assert isinstance(item.logits, Tensor)  # such a request is not judged by argmax
            request.logprobs.extend(log_probability(item.logits[rows], tokens).tolist())
        request.stats.record_step(len(tokens), len(tree), verdict.num_tested(tree), len(path))
        if request.finished:
            self._finish(request)
        elif item.part.num_draft_tokens:
            self.drafting.observe(request.id, tree, path)
        return StepOutput(request, tokens, pieces, tree, path)

    def _fail(self, request: Request, error: SpecdecError) -> StepOutput:
        """Ends one request; its neighbours go on."""
        pieces = request.fail(error)
        self._finish(request)
        return StepOutput(request, [], pieces)

    def _finish(self, request: Request) -> None:
        """Frees everything that a request holds."""
        self.scheduler.finish(request)
        self.drafting.finished(request.id)
