"""Does a drafter keep to its contract? It is run through whole engines on tiny targets, and its texts are compared with
plain decoding's.

Every check is a function of a seed. What fails is printed with its seed, so that it can be run again alone.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdec.drafters.base import Drafter, DraftRequest
from specdec.drafters.none import NoDrafter
from specdec.engine import Engine, EngineConfig
from specdec.engine.request import Request
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.sampling import SamplingParams
from specdec.testing.tiny import VOCAB_SIZE, llama
from specdec.verify.tree import DraftTree

MakeDrafter = Callable[[CausalLM], Drafter]
"""Target → a fresh drafter for it."""
LENGTH = 20
SIZES = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=192, max_num_seqs=6)
GREEDY, WARM = SamplingParams(max_tokens=LENGTH), SamplingParams(max_tokens=LENGTH, temperature=0.9, top_p=0.95)


@dataclass(frozen=True)
class Scene:
    """What a check works with: a drafter, a target, and random numbers."""

    make: MakeDrafter
    target: CausalLM
    seed: int

    @property
    def random(self) -> random.Random:
        """Begins anew at every call."""
        return random.Random(self.seed)

    def engine(
        self, rule: str = "auto", drafter: Drafter | None = None, eos: Sequence[int] = (), **sizes: Any
    ) -> Engine:
        """An engine with a fresh drafter."""
        drafter = drafter or self.make(self.target)
        return Engine(self.target, drafter, rule, replace(SIZES, **sizes), eos=eos)

    def plain(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], rule: str = "auto"
    ) -> list[list[int]]:
        """Texts of plain decoding."""
        return texts(run(self.engine(rule, NoDrafter()), prompts, params))

    def prompts(self, count: int = 4) -> list[list[int]]:
        """Random texts, some of which repeat themselves."""
        draw = self.random
        words = [[draw.randrange(self.target.vocab_size) for _ in range(draw.randint(1, 6))] for _ in range(count)]
        return [word * draw.randint(1, 4) for word in words]

    def seeded(self, params: SamplingParams, count: int) -> list[SamplingParams]:
        """One each, with seeds of their own."""
        return [replace(params, seed=self.seed * 1000 + index) for index in range(count)]


def run(engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Request]:
    """All prompts together; the cache is sound after every step, and empty at the end."""
    requests = [engine.make_request(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    for request in requests:
        engine.add(request)
    drain(engine)
    return requests


def drain(engine: Engine) -> None:
    """Steps until nothing is left."""
    while engine.has_work:
        engine.step()
        engine.cache.check_integrity()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks, "blocks are still held"
    for name, error in engine.drafting.faults.items():
        raise AssertionError(f"drafter {name!r} failed in {error}")


class Drafts(dict[tuple[int, tuple[int, ...]], tuple[int, ...]]):
    """Length of the prompt and committed tokens → what was drafted after them.

    Args:
        drafter: is watched from now on.
    """

    def __init__(self, drafter: Drafter) -> None:
        super().__init__()
        self.trees: list[DraftTree] = []
        propose = drafter.propose

        def watched(requests: Sequence[DraftRequest]) -> list[DraftTree]:
            proposed = propose(requests)
            for request, tree in zip(requests, proposed, strict=True):
                self[request.num_prompt_tokens, tuple(request.tokens)] = tree.tokens
            self.trees += proposed
            return proposed

        drafter.propose = watched  # type: ignore[method-assign]

    def agree(self, others: Drafts) -> None:
        """Raises AssertionError unless both drafted the same wherever both were asked, and that happened."""
        shared = self.keys() & others.keys()
        assert shared, "no text was drafted for in both runs"
        for key in shared:
            assert self[key] == others[key], f"after {key[1]}: {self[key]}, and elsewhere {others[key]}"


def texts(requests: Iterable[Request]) -> list[list[int]]:
    """Generated token ids; a request that failed raises its error."""
    requests = list(requests)
    for request in requests:
        if request.error is not None:
            raise request.error
    return [request.output for request in requests]


def same(ours: object, plain: object, what: str) -> None:
    """Raises AssertionError unless both are equal."""
    assert ours == plain, f"{what}: {ours}, and plain decoding gives {plain}"


def check_drafter(make: MakeDrafter, *, seeds: Sequence[int] = (0, 1), quick: bool = False) -> None:
    """Runs a drafter, of this package or another one, through every check. Prints what passed and what failed.

    Args:
        make: makes a fresh drafter for a target: a tiny Llama of random weights whose vocabulary has between 4 and 64
            tokens. A drafter with weights of its own makes random ones that fit.
        seeds: of the checks; each is run once for every seed.
        quick: fewer random steps and fewer samples.

    Raises:
        AssertionError: if a check failed; names every check and seed.
    """
    from specdec.testing.checks import CHECKS

    failed: list[str] = []
    for name, check in CHECKS.items():
        for seed in seeds:
            try:
                check(Scene(make, llama(seed, vocab_size=VOCAB_SIZE), seed), quick)
            except Exception as error:  # the next checks are worth running, whatever it was
                where = traceback.extract_tb(error.__traceback__)[-1]
                message = f"{name} (seed {seed}): {type(error).__name__}: {error} [{where.filename}:{where.lineno}]"
                failed.append(message)
                print(f"FAILED  {message}")
                break
        else:
            print(f"passed  {name}")
    assert not failed, f"{len(failed)} of {len(CHECKS)} checks failed:\n" + "\n".join(failed)


def compatible_rules(scene: Scene, params: SamplingParams) -> list[str]:
    """Lossless rules that may judge the drafter's drafts at these parameters."""
    from specdec.registry import RULES

    names = []
    for name in RULES.names():
        if not RULES.get(name).lossless:
            continue
        try:
            scene.engine(name).make_request([1, 2], params)
        except ConfigError:
            continue  # chains where the drafter makes trees, greedy at a temperature, …
        names.append(name)
    return names
