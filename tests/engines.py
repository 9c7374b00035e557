"""Running engines in tests, and drafters that no one would ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from specdec import Drafter, DraftRequest, DraftTree, Engine, EngineConfig, SamplingParams
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.prediction import PredictionDrafter
from specdec.engine.request import Request
from specdec.models.base import CausalLM
from specdec.policy.base import Policy
from tests.tiny import llama


class NonsenseDrafter(Drafter):
    """Full-length drafts that have nothing to do with the text."""

    name = "nonsense"

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Tokens by arithmetic."""
        return [
            DraftTree.chain((len(r.tokens) * 7 + i * 3) % r.transform.vocab_size for i in range(r.max_depth))
            for r in requests
        ]


class ProphetDrafter(Drafter):
    """Knows what the target will say."""

    name = "prophet"

    def __init__(self, texts: Sequence[Sequence[int]], num_draft_tokens: int = 4) -> None:
        super().__init__(num_draft_tokens)
        self._texts = texts

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The next tokens of the text that begins like the request."""
        trees = []
        for request in requests:
            have = list(request.tokens)
            text = next((t for t in self._texts if list(t[: len(have)]) == have), [])
            trees.append(DraftTree.chain(text[len(have) : len(have) + request.max_depth]))
        return trees


class ForetoldDrafter(PredictionDrafter):
    """Every request has a prediction: what the target says to its prompt, with each fifth token changed.

    Args:
        target: says it.
    """

    def __init__(self, target: CausalLM, num_draft_tokens: int = 4) -> None:
        super().__init__(num_draft_tokens)
        self._target = target
        self._predictions: dict[tuple[int, ...], tuple[int, ...]] = {}

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """As for requests that say so themselves."""
        return super().propose([replace(request, prediction=self._prediction(request)) for request in requests])

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Forgets what was predicted, too."""
        super().end(request_id, tokens)
        self._predictions.clear()

    def _prediction(self, request: DraftRequest) -> tuple[int, ...]:
        prompt = tuple(request.tokens[: request.num_prompt_tokens])
        if prompt not in self._predictions:
            [said] = run(Engine(self._target, NoDrafter()), [prompt], SamplingParams(max_tokens=24))
            changed = [token + (place % 5 == 4) for place, token in enumerate(said.output)]
            self._predictions[prompt] = tuple(token % self._target.vocab_size for token in changed)
        return self._predictions[prompt]


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "none": NoDrafter,
    "ngram": lambda: NgramDrafter(num_draft_tokens=4, min_match=1),
    "ngram tree": lambda: NgramDrafter(num_draft_tokens=3, min_match=1, branches=3),
    "model": lambda: ModelDrafter(llama(seed=1), num_draft_tokens=3),
    "model tree": lambda: ModelDrafter(llama(seed=1), num_draft_tokens=3, branches=3),
    "early exit": lambda: EarlyExitDrafter(num_draft_tokens=3, num_layers=1),
    "early exit tree": lambda: EarlyExitDrafter(num_draft_tokens=2, num_layers=1, branches=2),
    "nonsense": NonsenseDrafter,
}


def drain(engine: Engine) -> None:
    """Steps until nothing is left; the cache must be sound after every step and empty at the end."""
    while engine.has_work:
        engine.step()
        engine.cache.check_integrity()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks


def add(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> Request:
    """Queues a prompt."""
    request = engine.make_request(prompt, params)
    engine.add(request)
    return request


def run(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
) -> list[Request]:
    """All prompts together."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    requests = [add(engine, prompt, one) for prompt, one in zip(prompts, each, strict=True)]
    drain(engine)
    return requests


def hopeless(vocab_size: int, **params: Any) -> SamplingParams:
    """Every token is banned after the first one, which is 11."""
    words = [[token] for token in range(vocab_size) if token != 11]
    return SamplingParams(bad_words=[*words, [11, 11]], **params)


def outputs(requests: Sequence[Request]) -> list[list[int]]:
    """Generated token ids."""
    return [request.output for request in requests]


def small_engine(
    drafter: Drafter | Sequence[Drafter], rule: str = "auto", seed: int = 0, policy: Policy | None = None, **sizes: int
) -> Engine:
    """A tiny target with small blocks, so that borders are met often."""
    config = EngineConfig(**{"block_size": 4, "num_blocks": 256, "max_batch_tokens": 128, **sizes})
    return Engine(llama(seed), drafter, rule, config, policy=policy)
