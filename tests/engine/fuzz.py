"""Random engines, requests and ways to use them, each a function of a seed; and what plain decoding makes of them.

A case has a model, a drafter, a rule, sizes that are as tight as they may be, four to seven requests, and a way to be
run: step by step with aborts, or by threads through a loop. Its oracle is plain decoding, one request at a time in a
roomy engine. Under a rule whose text depends on the draft the oracle has the same drafter: the text must not depend on
the batch, the sizes and the threads then.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from specdec import ConfigError, Drafter, Engine, EngineConfig, EngineLoop, InvalidRequestError, SamplingParams
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.registry import RULES
from specdec.sampling import Choices
from specdec.testing import OracleDrafter, PoisonDrafter
from tests.engines import NonsenseDrafter
from tests.tiny import VOCAB_SIZE, llama, llama_module

CONTEXT = 96
END, STOP_TOKEN = 7, 11
KINDS = ("float32", "bfloat16", "int8", "int8_weight")
HELD = (torch.float32, torch.bfloat16, torch.int8)
CHOICES = ([[0], [1], [0, 0]], [[0], [0, 0], [0, 1], [1]], [[0], [1], [2], [0, 0], [0, 0, 0]])

OCCURS = ("accepted", "trees", "preempted", "in pieces", "cut", "aborted", "stopped", "threads", "greedy", "invariant",
          "other rules", "constraints", "logprobs")  # fmt: skip
"""What a number of cases must have met, to be worth something."""


class Letters:
    """One letter a token; some tokens are parts of a character of three bytes."""

    chat_template = None

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        raw = b"".join("€".encode()[token % 3 : token % 3 + 1] if token >= 58 else bytes([65 + token]) for token in ids)
        return raw.decode(errors="replace")

    def encode(self, text: str, **_: bool) -> list[int]:
        return [ord(letter) - 65 for letter in text if 65 <= ord(letter) < 65 + 58]


@cache
def model_of(kind: str, held: torch.dtype | None, seed: int) -> CausalLM:
    """One of a few tiny targets, or drafts of them."""
    if kind == "transformers" or native.library() is None:
        return llama(seed, max_context=CONTEXT)
    return NativeModel(llama_module(seed, max_context=CONTEXT), f"tiny-{seed}", kind, held)


@dataclass(frozen=True)
class Case:
    """Everything that a seed says.

    Args:
        seed: of the case.
        kind, held: of the target's weights and cache.
        make: the drafter, or two.
        rule: its name.
        sizes: of the engine under test, but for `num_blocks`.
        spare: blocks beyond those that the largest request needs.
        adaptive: whether a policy chooses depth and drafter.
        prompts, params: of the requests.
        aborted: request → outputs after which it is aborted.
        clients: threads that share a loop; 0 steps the engine directly.
        threads: of the kernels.
    """

    seed: int
    kind: str
    held: torch.dtype | None
    make: Callable[[], list[Drafter]]
    rule: str
    sizes: dict[str, int]
    spare: int
    adaptive: bool
    prompts: list[list[int]]
    params: list[SamplingParams]
    aborted: dict[int, int]
    clients: int
    threads: int

    @property
    def exact(self) -> bool:
        """Whether the bits of a row do not depend on the rows beside it: torch promises no such thing."""
        return self.kind != "transformers" and native.library() is not None

    def engine(self, drafters: Sequence[Drafter], **sizes: int) -> Engine:
        """The target with these drafters."""
        policy = ProductPolicy(CostCurve((1, 64), (1.0, 1.0 + self.seed % 5))) if self.adaptive else None
        model = model_of(self.kind, self.held, 0)
        return Engine(model, drafters, self.rule, EngineConfig(**sizes), Letters(), [END], policy)


def case_of(seed: int) -> Case:
    """The case of a seed."""
    draw = random.Random(seed)
    kind = draw.choice(("transformers", *KINDS, *KINDS))
    count = draw.randint(4, 7)
    greedy = draw.random() < 0.5
    prompts = [prompt_of(draw) for _ in range(count)]
    max_num_seqs = draw.randint(1, 4)
    make = drafters_of(draw)
    rule = draw.choice(["auto", "gumbel", "gumbel", *RULES.names()])
    widest = max(drafter.max_nodes(drafter.num_draft_tokens) for drafter in make())
    return Case(
        seed=seed,
        kind=kind,
        held=None if kind == "transformers" else draw.choice((None, *HELD)),
        make=make,
        rule="auto" if rule == "greedy" and not greedy else rule,
        sizes={
            "block_size": draw.choice((1, 2, 3, 4, 4, 8)),
            "max_num_seqs": max_num_seqs,
            "max_batch_tokens": max_num_seqs * (1 + widest) + draw.choice((0, 0, 1, 3, 10, 60)),
        },
        spare=draw.choice((0, 0, 1, 2, 4, 8, 60)),
        adaptive=draw.random() < 0.25,
        prompts=prompts,
        params=[params_of(draw, seed * 10 + i, greedy, prompt) for i, prompt in enumerate(prompts)],
        aborted={i: draw.randint(0, 4) for i in range(count) if draw.random() < 0.15},
        clients=draw.choice((0, 0, 0, 2, 3)),
        threads=draw.choice((1, 1, 2)),
    )


def prompt_of(draw: random.Random) -> list[int]:
    """Random tokens, often ones that repeat themselves."""
    length = draw.choice((1, 2, 5, 9, 17, 30, 45))
    period = [draw.randrange(VOCAB_SIZE) for _ in range(draw.choice((length, 1, 2, 4)))]
    return [period[i % len(period)] for i in range(length)]


def drafters_of(draw: random.Random) -> Callable[[], list[Drafter]]:
    """How to make the drafters: anew for every engine."""
    depth, branches = draw.randint(1, 5), draw.choice((1, 1, 2, 3))
    choices = draw.choice((None, None, *CHOICES))
    draft = draw.choice(("float32", "int8"))
    seed = draw.choice((0, 1))  # the target's own weights, or others: drafts that are taken, and drafts that are not
    kinds: list[Callable[[], Drafter]] = [
        lambda: NgramDrafter(depth, 1, draw_max, branches),
        lambda: ModelDrafter(model_of(draft, None, seed), depth, branches),
        lambda: ModelDrafter(model_of(draft, None, seed), choices=choices or [[0]]),
        lambda: EarlyExitDrafter(depth, 1, branches),
        lambda: EarlyExitDrafter(num_layers=1, choices=choices or [[0], [0, 0]]),
        lambda: OracleDrafter(depth, branches),
        lambda: PoisonDrafter(depth, depth, branches),
        NonsenseDrafter,
        NoDrafter,
    ]
    draw_max = draw.randint(1, 4)
    first, second = draw.choice(kinds), draw.choice(kinds[:1] + kinds[6:8])
    if draw.random() < 0.8 or first().name == second().name:
        return lambda: [first()]
    return lambda: [first(), second()]


def params_of(draw: random.Random, seed: int, greedy: bool, prompt: Sequence[int]) -> SamplingParams:
    """A request's parameters: most of them at their defaults."""
    wild: dict[str, Any] = {
        "top_k": draw.choice((1, 3, 20)),
        "top_p": draw.choice((0.3, 0.8, 0.95)),
        "min_p": draw.choice((0.05, 0.3)),
        "repetition_penalty": draw.choice((0.7, 1.3, 2.0)),
        "presence_penalty": draw.choice((-0.5, 0.7)),
        "frequency_penalty": draw.choice((-0.3, 0.9)),
        "logit_bias": {draw.randrange(VOCAB_SIZE): draw.choice((-3.0, 2.0, 5.0)) for _ in range(3)},
        "bad_words": [[draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(1, 2))] for _ in range(6)],
        "allowed_token_ids": draw.sample(range(VOCAB_SIZE), 40),
        "begin_suppress_tokens": draw.sample(range(VOCAB_SIZE), 10),
        "stop": tuple(chr(65 + draw.randrange(58)) for _ in range(3)),
        "stop_token_ids": [STOP_TOKEN, draw.randrange(VOCAB_SIZE)],
        "include_stop_str_in_output": True,
        "min_tokens": draw.randint(1, 6),
        "ignore_eos": True,
        "logprobs": draw.choice((0, 3)),
        "prompt_logprobs": draw.choice((0, 2)),
        "num_draft_tokens": draw.choice((0, 1, 2)),
        "constraint": Choices(
            [[draw.randrange(58) for _ in range(draw.randint(1, 9))] for _ in range(5)], [END], VOCAB_SIZE
        ),
    }
    rare = ("constraint", "allowed_token_ids", "min_tokens")
    picked = {name: value for name, value in wild.items() if draw.random() < (0.06 if name in rare else 0.12)}
    always = {"seed": seed, "max_tokens": draw.choice((1, 2, 7, 15, 24, 80)), "temperature": 0.0}
    if not greedy:
        always["temperature"] = draw.choice((0.4, 0.8, 1.0, 1.6))
    while True:
        try:
            return SamplingParams(**always, **picked)
        except ConfigError:  # two of them cannot go together
            picked.popitem()


@dataclass
class Tally:
    """What happened, over all cases."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, case: Case) -> None:
        """Runs a case and compares it with its oracle."""
        before = torch.get_num_threads()
        torch.set_num_threads(case.threads)
        try:
            assert num_threads() == case.threads
            self._check(case)
        finally:
            torch.set_num_threads(before)

    def _check(self, case: Case) -> None:
        drafters = case.make()
        try:
            roomy = case.engine(drafters, num_blocks=400, block_size=4, max_num_seqs=1)
            plain = [alone(case, i, roomy) for i in range(len(case.prompts))]
        except ConfigError as error:
            if not str(error).startswith("rule="):  # one that cannot judge such drafts
                raise
            self.counts["refused"] += 1
            return
        tight = self._tight(case)
        found = Run(case, tight)
        found.go()
        self.counts["cases"] += 1
        self._count(case, found)
        for index, (want, request) in enumerate(zip(plain, found.requests, strict=True)):
            if request is not None and want is not None:
                self._compare(case, index, want, found, request)

    def _tight(self, case: Case) -> Engine:
        """The engine under test: its cache just holds its largest request."""
        sizing = case.engine(case.make(), num_blocks=400, **case.sizes)
        most = 1
        for prompt, params in zip(case.prompts, case.params, strict=True):
            try:
                request = sizing.make_request(prompt, params)
            except InvalidRequestError:
                continue
            most = max(most, sizing.cache.blocks(sizing.scheduler._limits.most_rows(request)))
        return case.engine(case.make(), num_blocks=most + case.spare, **case.sizes)

    def _count(self, case: Case, found: Run) -> None:
        requests = [request for request in found.requests if request is not None]
        stats = [request.stats for request in requests]
        self.counts.update(
            {
                "accepted": any(one.accepted_tokens for one in stats),
                "trees": found.trees > 0,
                "preempted": any(one.preemptions for one in stats),
                "in pieces": found.pieces > 0,
                "cut": found.cut > 0,
                "aborted": any(request.finish_reason == "aborted" and request.output for request in requests),
                "stopped": any(request.finish_reason == "stop" for request in requests),
                "errors": any(request.finish_reason == "error" for request in requests),
                "threads": case.clients > 0,
                "greedy": case.params[0].greedy,
                "invariant": any(request.rule.draft_invariant for request in requests),
                "other rules": any(not request.rule.draft_invariant for request in requests),
                "constraints": any(request.params.constraint is not None for request in requests),
                "logprobs": any(request.logprobs for request in requests),
                f"rule {requests[0].rule.name}": 1,
                f"weights {case.kind}": 1,
                f"cache {case.held}": 1,
            }
        )
        self.counts["requests"] += len(requests)
        self.counts["tokens"] += sum(one.output_tokens for one in stats)
        # A draft may come to a place where every token is banned, and the text may go another way.
        faults = [fault for fault in found.engine.drafting.faults.values() if "every token is banned" not in fault]
        self.wrong += [f"seed {case.seed}: {fault}" for fault in faults]

    def _compare(self, case: Case, index: int, want: Request, found: Run, request: Request) -> None:
        text = "".join(piece.text for output in found.outputs[index] for piece in output.pieces)
        tokens = [token for output in found.outputs[index] for token in output.token_ids]
        words = found.wanted_text[index] = _text(want)
        if tokens != request.output:
            self._note(case, index, f"was told {tokens}, has {request.output}")
        if request.finish_reason == "aborted":
            if request.output != want.output[: len(tokens)] or not words.startswith(text):
                self._note(case, index, f"aborted {request.output}, plain {want.output}")
            return
        ends = (request.output, request.finish_reason, type(request.error), text)
        if ends != (want.output, want.finish_reason, type(want.error), words):
            self._note(case, index, f"{ends}, plain {want.output, want.finish_reason, want.error, words}")
        for mine, theirs in ((request.logprobs, want.logprobs), (request.prompt_logprobs, want.prompt_logprobs)):
            if len(mine) != len(theirs) or not _close(mine, theirs, case.exact):
                self._note(case, index, f"log-probabilities {mine}, plain {theirs}")

    def _note(self, case: Case, index: int, words: str) -> None:
        self.wrong.append(f"seed {case.seed}, request {index}, rule {case.rule}, {case.kind}: {words}")


def alone(case: Case, index: int, roomy: Engine) -> Request | None:
    """What a request gets by itself: without any draft where none may change its text. None if it is refused."""
    params = case.params[index]
    try:
        request = roomy.make_request(case.prompts[index], params)
        if request.rule.draft_invariant:
            plain = case.engine([NoDrafter()], num_blocks=400, block_size=4)
            request = plain.make_request(case.prompts[index], replace(params, drafter=None))
            return _drained(plain, request)
    except InvalidRequestError:
        return None
    return _drained(roomy, request)


def _drained(engine: Engine, request: Request) -> Request:
    engine.add(request)
    pieces: list[str] = []
    while engine.has_work:
        pieces += [piece.text for output in engine.step() for piece in output.pieces]
    request.shown = "".join(pieces)  # type: ignore[attr-defined]
    return request


def _text(request: Request) -> str:
    shown: str = request.shown  # type: ignore[attr-defined]
    return shown


def _close(mine: Sequence[float], theirs: Sequence[float], exact: bool) -> bool:
    return list(mine) == list(theirs) if exact else all(abs(a - b) < 1e-3 for a, b in zip(mine, theirs, strict=True))


class Run:
    """One case under test, with the cache checked after every step."""

    def __init__(self, case: Case, engine: Engine) -> None:
        self.case, self.engine = case, engine
        self.requests = [self._request(i) for i in range(len(case.prompts))]
        self.outputs: list[list[StepOutput]] = [[] for _ in case.prompts]
        self.wanted_text: dict[int, str] = {}
        self.pieces = self.trees = self.cut = 0
        self.errors: list[BaseException] = []
        self._watch()

    def go(self) -> None:
        """Until every request has ended; then nothing is left."""
        if self.case.clients:
            self._by_threads()
        else:
            self._by_steps()
        if self.errors:
            raise self.errors[0]
        assert not self.engine.has_work
        assert self.engine.cache.num_free_blocks == self.engine.cache.num_blocks

    def _request(self, index: int) -> Request | None:
        try:
            return self.engine.make_request(self.case.prompts[index], self.case.params[index])
        except InvalidRequestError:
            return None

    def _watch(self) -> None:
        step, schedule = self.engine.step, self.engine.scheduler.schedule

        def checked(*args: Any) -> list[StepOutput]:
            outputs = step(*args)
            self.engine.cache.check_integrity()
            return outputs

        def seen() -> list[Scheduled]:
            plan = schedule()
            self.pieces += sum(not part.decodes for part in plan)
            return plan

        self.engine.step, self.engine.scheduler.schedule = checked, seen  # type: ignore[method-assign]

    def _by_steps(self) -> None:
        numbers = {request.id: i for i, request in enumerate(self.requests) if request is not None}
        waiting = [request for request in self.requests if request is not None]
        draw = random.Random(self.case.seed)
        while waiting or self.engine.has_work:
            for _ in range(draw.randint(0, 2)):
                if waiting:
                    self.engine.add(waiting.pop(0))
            for output in self.engine.step() if self.engine.has_work else []:
                self._take(numbers[output.request.id], output)
            for index, after in self.case.aborted.items():
                request = self.requests[index]
                if request is not None and request not in waiting and len(self.outputs[index]) >= after:
                    last = self.engine.abort(request)
                    if last is not None:
                        self._take(index, last)

    def _by_threads(self) -> None:
        loop = EngineLoop(self.engine)
        threads = [threading.Thread(target=self._client, args=(loop, number)) for number in range(self.case.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in threads), f"seed {self.case.seed}: threads wait for ever"
        assert not loop._mail

    def _client(self, loop: EngineLoop, number: int) -> None:
        try:
            own = {r.id: i for i, r in enumerate(self.requests) if r is not None and i % self.case.clients == number}
            requests = [self.requests[i] for i in own.values()]
            for request in requests:
                loop.submit(request)  # type: ignore[arg-type]
            for output in loop.outputs(requests):  # type: ignore[arg-type]
                index = own[output.request.id]
                self._take(index, output)
                if len(self.outputs[index]) == self.case.aborted.get(index, -1):
                    loop.abort(output.request)
        except BaseException as error:
            self.errors.append(error)

    def _take(self, index: int, output: StepOutput) -> None:
        self.outputs[index].append(output)
        self.trees += not output.draft.is_chain
        self.cut += 0 < len(output.token_ids) <= len(output.path)
