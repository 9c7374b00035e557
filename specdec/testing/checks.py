"""What is checked of a drafter, one function a check: each takes a scene, and whether to be quick about it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

from specdec.drafters.base import Drafter, DraftRequest
from specdec.engine import Engine
from specdec.engine.request import Request
from specdec.sampling import SamplingParams
from specdec.testing.conformance import GREEDY, LENGTH, WARM, Drafts, Scene, compatible_rules, drain, run, same, texts
from specdec.testing.laws import follows, joint_law
from specdec.testing.tiny import llama
from specdec.verify.tree import DraftTree

ERROR_RATE = 1e-6
"""Of each test of a law: so often a good drafter fails it."""


def greedy_texts(scene: Scene, quick: bool) -> None:
    """At temperature 0 the text is plain decoding's, token for token."""
    prompts = scene.prompts(5)
    params = [GREEDY] * len(prompts)
    same(texts(run(scene.engine(), prompts, params)), scene.plain(prompts, params), "greedy")


def gumbel_texts(scene: Scene, quick: bool) -> None:
    """Under the gumbel rule the text is that of plain decoding with the same seed."""
    prompts = scene.prompts(5)
    params = scene.seeded(WARM, len(prompts))
    same(texts(run(scene.engine("gumbel"), prompts, params)), scene.plain(prompts, params, "gumbel"), "gumbel")


def laws(scene: Scene, quick: bool) -> None:
    """Under every other rule that may judge its drafts, texts follow the target's joint law."""
    length, samples, prompt = 3, 300 if quick else 1200, [1, 2, 0, 1, 2]
    sizes = {"vocab_size": 4, "hidden_size": 16, "max_context": 64, "scale": 0.5}
    small = Scene(scene.make, llama(scene.seed + 2, **sizes), scene.seed)
    params = SamplingParams(temperature=1.0, max_tokens=length)
    law = joint_law(small.target, prompt, length)
    for rule in compatible_rules(small, params):
        engine = small.engine(rule, num_blocks=1024, max_num_seqs=32, max_batch_tokens=1024)
        each = [replace(params, seed=seed) for seed in range(samples)]
        try:
            follows(texts(run(engine, [prompt] * samples, each)), law, ERROR_RATE)
        except AssertionError as error:
            raise AssertionError(f"rule {rule}: {error}") from error


def batches(scene: Scene, quick: bool) -> None:
    """A request's text does not depend on its neighbours; a drafter that shares is judged by invariant rules alone."""
    prompts = scene.prompts(5)
    for params in (GREEDY, WARM):
        each = scene.seeded(params, len(prompts))
        together = texts(run(scene.engine(), prompts, each))
        alone = [texts(run(scene.engine(), [p], [one]))[0] for p, one in zip(prompts, each, strict=True)]
        assert together == alone, f"in a batch: {together}, alone: {alone}"
    if scene.make(scene.target).shares:
        for rule in compatible_rules(scene, WARM):
            request = scene.engine(rule).make_request([1, 2], WARM)
            assert request.rule.draft_invariant, f"rule {rule} may judge drafts that depend on other requests"


def preemption(scene: Scene, quick: bool) -> None:
    """With too few blocks for all, and with prompts read in pieces, texts stay as they are, and drafts too."""
    prompts = [[*prompt, *range(8)] for prompt in scene.prompts(5)]
    each = scene.seeded(WARM, len(prompts))
    drafters = [scene.make(scene.target) for _ in range(3)]
    drafts = [Drafts(drafter) for drafter in drafters]
    plenty = texts(run(scene.engine("gumbel", drafters[0]), prompts, each))
    limits = scene.engine().scheduler._limits
    draft = limits.max_nodes(limits.max_depth)
    largest = max(len(prompt) for prompt in prompts) + LENGTH + draft
    short = run(scene.engine("gumbel", drafters[1], num_blocks=-(-largest // 4) + 4), prompts, each)
    assert sum(request.stats.preemptions for request in short), "nothing was preempted: the check is too mild"
    assert texts(short) == plenty, "preempted requests have other texts"
    few_rows = 2 * (1 + draft) + 3
    pieces = run(scene.engine("gumbel", drafters[2], max_num_seqs=2, max_batch_tokens=few_rows), prompts, each)
    assert texts(pieces) == plenty, "requests whose prompts were read in pieces have other texts"
    if not drafters[0].shares and limits.max_depth:
        drafts[0].agree(drafts[1])
        drafts[0].agree(drafts[2])


def aborts(scene: Scene, quick: bool) -> None:
    """A request that is aborted in any state leaves the others as they are."""
    prompts = scene.prompts(5)
    params = [GREEDY] * len(prompts)
    plain = scene.plain(prompts, params)
    for steps in range(6):
        engine = scene.engine(max_num_seqs=3)
        requests = [engine.make_request(prompt, GREEDY) for prompt in prompts]
        for request in requests:
            engine.add(request)
        for _ in range(steps):
            engine.step()
        engine.abort(requests[1])
        engine.abort(requests[4])
        drain(engine)
        same(texts(requests[i] for i in (0, 2, 3)), [plain[i] for i in (0, 2, 3)], f"aborted after {steps} steps")


def empty_drafts(scene: Scene, quick: bool) -> None:
    """Requests that may not draft, and a draft that is lost on its way, change no text."""
    prompts = scene.prompts(4)
    capped = [replace(GREEDY, num_draft_tokens=cap) for cap in (0, 1, 2, None)]
    plain = scene.plain(prompts, [GREEDY] * 4)
    same(texts(run(scene.engine(), prompts, capped)), plain, "capped drafts")
    drafter = scene.make(scene.target)
    propose, calls = drafter.propose, 0

    def every_other(requests: Sequence[DraftRequest]) -> list[DraftTree]:
        nonlocal calls
        calls += 1
        return [tree if calls % 2 else DraftTree() for tree in propose(requests)]

    drafter.propose = every_other  # type: ignore[method-assign]
    same(texts(run(scene.engine(drafter=drafter), prompts, [GREEDY] * 4)), plain, "every other draft lost")


def ends(scene: Scene, quick: bool) -> None:
    """Context, max_tokens, an end token and a stop string are met exactly, also inside an accepted draft."""
    prompts = scene.prompts(4)
    plain = scene.plain(prompts, [GREEDY] * 4)
    for n in (1, 2, 3, 5, 7):
        found = texts(run(scene.engine(), prompts, [replace(GREEDY, max_tokens=n)] * 4))
        same(found, [text[:n] for text in plain], f"max_tokens={n}")
    for prompt, text in zip(prompts, plain, strict=True):
        end = text[len(text) // 2]
        want = text[: text.index(end) + 1]
        [request] = run(scene.engine(eos=[end]), [prompt], [GREEDY])
        same((request.output, request.finish_reason), (want, "stop"), "end token")
        engine = scene.engine()
        engine._intake._tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(f"<{token}>" for token in ids))
        [request] = run(engine, [prompt], [replace(GREEDY, stop=(f"<{end}>",))])
        same((request.output, request.finish_reason), (want, "stop"), "stop string")
    short = Scene(scene.make, llama(scene.seed, max_context=24), scene.seed)
    long = [list(range(20))]
    params = [replace(GREEDY, max_tokens=50)]
    same(texts(run(short.engine(), long, params)), short.plain(long, params), "context")


def transforms(scene: Scene, quick: bool) -> None:
    """Penalties, bias and bans are the same for p and q: texts stay plain decoding's, and q has no mass on a ban."""
    prompts = scene.prompts(4)
    banned = list(range(0, scene.target.vocab_size, 3))
    edited = SamplingParams(
        max_tokens=LENGTH, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2,
        logit_bias={1: 2.0, 2: -3.0}, bad_words=[[token] for token in banned],
    )  # fmt: skip
    same(texts(run(scene.engine(), prompts, [edited] * 4)), scene.plain(prompts, [edited] * 4), "edited logits")
    drafter = scene.make(scene.target)
    drafts = Drafts(drafter)
    warm = scene.seeded(replace(edited, temperature=0.8, top_k=20), 4)
    run(scene.engine(drafter=drafter), prompts, warm)
    for tree in drafts.trees:
        assert tree.q is None or not bool(tree.q[:, banned].any()), "q has mass on banned tokens"


def adopted_prefixes(scene: Scene, quick: bool) -> None:
    """A request that begins with another one's cached tokens, which its drafter has not seen run, has the same text and
    the same drafts: those of a request that runs, and those that an earlier one has left."""
    for prompt in ([*prompt, 5, 9, 7, 3] for prompt in scene.prompts(3)):
        drafters = [scene.make(scene.target) for _ in range(2)]
        forked, alone = (Drafts(drafter) for drafter in drafters)
        engine = scene.engine(drafter=drafters[0])
        first = engine.make_request(prompt, GREEDY)
        engine.add(first)
        while len(first.output) < 5:
            engine.step()
        child = _adopt(engine, first)
        forked.clear()
        drain(engine)
        same(texts([child]), scene.plain([child.prompt], [GREEDY]), "adopted prefix")
        same(texts([first]), scene.plain([prompt], [GREEDY]), "its owner")
        run(scene.engine(drafter=drafters[1]), [child.prompt], [GREEDY])
        drafts = not drafters[0].shares and drafters[0].num_draft_tokens
        if drafts:
            alone.agree(forked)
        forked.clear()
        same(texts(run(engine, [child.prompt], [GREEDY])), texts([child]), "a prompt that comes again")
        if drafts:
            alone.agree(forked)


def random_steps(scene: Scene, quick: bool) -> None:
    """A thousand steps of arrivals, aborts and ends in a cache that is too small; every text is plain decoding's."""
    draw = scene.random
    engine = scene.engine("gumbel", num_blocks=28, max_num_seqs=4)
    prompts = scene.prompts(12)
    params = [
        replace(WARM if index % 2 else GREEDY, seed=index, num_draft_tokens=draw.choice([None, None, 1, 3]))
        for index in range(12)
    ]
    plain = scene.plain(prompts, params, "gumbel")
    live: list[tuple[int, Request]] = []
    for _ in range(200 if quick else 1000):
        if len(live) < 6 and draw.random() < 0.4:
            index = draw.randrange(12)
            live.append((index, engine.make_request(prompts[index], params[index])))
            engine.add(live[-1][1])
        if live and draw.random() < 0.03:
            engine.abort(live.pop(draw.randrange(len(live)))[1])
        engine.step()
        engine.cache.check_integrity()
        for index, request in [pair for pair in live if pair[1].finished]:
            same(texts([request]), [plain[index]], f"prompt {index}")
            live.remove((index, request))
    drain(engine)


def memory(scene: Scene, quick: bool) -> None:
    """What it holds does not grow with the number of requests that have ended."""
    drafter = scene.make(scene.target)
    engine = scene.engine("gumbel", drafter)
    sizes: list[int] = []
    for _ in range(3):
        prompts = scene.prompts(6)
        run(engine, prompts, scene.seeded(WARM, 6))
        sizes.append(_held(drafter))
    assert drafter.shares or sizes[2] <= sizes[0], f"things held after 6, 12 and 18 requests: {sizes}"


CHECKS: dict[str, Callable[[Scene, bool], None]] = {
    "greedy texts are plain decoding's": greedy_texts,
    "seeded texts under gumbel are plain decoding's": gumbel_texts,
    "texts follow the target's law under every rule": laws,
    "a batch gives what single requests give": batches,
    "preemption and prompts in pieces": preemption,
    "aborts": aborts,
    "empty drafts": empty_drafts,
    "ends inside a draft": ends,
    "penalties, bias and bans": transforms,
    "an adopted prefix": adopted_prefixes,
    "a thousand random steps": random_steps,
    "memory": memory,
}


def _adopt(engine: Engine, parent: Request) -> Request:
    """A running request whose prompt is the parent's text so far, and whose cache is a fork of the parent's."""
    child = engine.make_request(list(parent.tokens), GREEDY)
    engine.cache.fork(parent.id, child.id)
    engine.scheduler.join(child)
    return child


def _held(root: Drafter) -> int:
    """Entries of all containers that a drafter reaches without going through tensors, models or classes."""
    seen, waiting, count = {id(root)}, deque([root.__dict__]), 0
    while waiting:
        thing = waiting.popleft()
        for one in gc.get_referents(thing):
            if id(one) in seen or isinstance(one, type) or callable(one):
                continue
            seen.add(id(one))
            if isinstance(one, dict | list | set | tuple | deque):
                count += len(one)
                waiting.append(one)  # type: ignore[arg-type]
            elif type(one).__module__ == type(root).__module__:
                waiting.append(vars(one) if hasattr(one, "__dict__") else [])
    return count
