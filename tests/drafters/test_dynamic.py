"""Trees that follow the drafting model: the nodes of largest value, by a search that knows nothing of levels."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch

from specdec import ConfigError, SamplingParams
from specdec.drafters.base import Drafter, DraftRequest
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.models.base import CausalLM
from specdec.testing import check_drafter
from specdec.testing.conformance import Drafts
from specdec.verify.tree import DraftTree
from tests.engines import outputs, run, small_engine
from tests.tiny import llama, llama_module

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [5], [7, 8, 7, 8, 7]]
DEPTH, WIDTH = 3, 2


def best_first(seed: int, text: tuple[int, ...], nodes: int) -> set[tuple[int, ...]]:
    """The paths of the most valuable tree of so many nodes with at most `WIDTH` children each, by transformers."""
    module = llama_module(seed)

    @cache
    def law(path: tuple[int, ...]) -> tuple[float, ...]:
        with torch.inference_mode():
            logits = module(torch.tensor([[*text, *path]])).logits[0, -1]
        return tuple(torch.softmax(logits.double(), -1).tolist())

    def children(path: tuple[int, ...], value: float) -> list[tuple[float, tuple[int, ...]]]:
        ranked = sorted(range(len(law(path))), key=lambda token: -law(path)[token])[:WIDTH]
        return [(-value * law(path)[token], (*path, token)) for token in ranked]

    heap, found = children((), 1.0), set[tuple[int, ...]]()
    heapq.heapify(heap)
    while heap and len(found) < nodes:
        value, path = heapq.heappop(heap)
        found.add(path)
        if len(path) < DEPTH:
            for child in children(path, -value):
                heapq.heappush(heap, child)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_nodes_are_the_most_valuable_ones(seed: int) -> None:
    """Two nodes of each level are run: of six nodes, none of the best can be missed unless three of a level are inner
    ones, and then the value that is lost is small."""
    drafter, drafts = ModelDrafter(llama(seed), DEPTH, WIDTH, dynamic=True), list[tuple[tuple[int, ...], DraftTree]]()
    propose = drafter.propose

    def watched(requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = propose(requests)
        drafts.extend((tuple(request.tokens), tree) for request, tree in zip(requests, trees, strict=True))
        return trees

    drafter.propose = watched  # type: ignore[method-assign]
    run(small_engine(drafter), PROMPTS, [SamplingParams(max_tokens=10)] * 3)
    exact = 0
    full = [(text, tree) for text, tree in drafts if len(tree) == DEPTH * WIDTH]
    for text, tree in full:
        exact += {tree.prefix(node) for node in range(len(tree))} == best_first(seed, text, len(tree))
    assert len(full) > 8
    assert exact >= 0.9 * len(full)


def test_values_are_chances_and_fall_along_every_branch() -> None:
    drafter = EarlyExitDrafter(4, 1, branches=3, dynamic=True)
    drafts = Drafts(drafter)
    run(small_engine(drafter), PROMPTS, [SamplingParams(max_tokens=12)] * 3)
    shapes = set()
    for tree in drafts.trees:
        assert len(tree) <= 12
        assert tree.q is None
        assert all(0 <= chance <= 1 for chance in tree.chances)
        assert len(tree.kinds) == len(tree)
        shapes.add(tree.parents)
    assert len(shapes) > 2  # the shape follows the model


@pytest.mark.parametrize("rule", ["auto", "gumbel", "traversal"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_text_changes(rule: str, temperature: float) -> None:
    params = [SamplingParams(max_tokens=24, temperature=temperature, seed=seed) for seed in range(3)]
    engine = small_engine(ModelDrafter(llama(0), DEPTH, WIDTH, dynamic=True), rule)
    requests = run(engine, PROMPTS, params)
    if temperature == 0 or rule != "traversal":
        assert outputs(requests) == outputs(run(small_engine(NoDrafter(), rule), PROMPTS, params))
    else:  # the law of what is drawn from q is another matter: there the shape is fixed
        fixed = run(small_engine(ModelDrafter(llama(0), DEPTH, WIDTH), rule), PROMPTS, params)
        assert outputs(requests) == outputs(fixed)
    assert engine.drafting.faults == {}


def test_the_targets_own_weights_are_accepted_to_the_full_depth() -> None:
    params = [SamplingParams(max_tokens=40)]
    [request] = run(small_engine(ModelDrafter(llama(0), DEPTH, WIDTH, dynamic=True)), PROMPTS[:1], params)
    [other] = run(small_engine(ModelDrafter(llama(0), DEPTH, WIDTH)), PROMPTS[:1], params)
    assert request.output == other.output
    assert request.stats.mean_accepted_length > 2


MAKE: dict[str, Callable[[CausalLM], Drafter]] = {
    "early_exit": lambda target: EarlyExitDrafter(3, 1, 2, dynamic=True),
    "model": lambda target: ModelDrafter(llama(1, vocab_size=target.vocab_size), 3, 2, dynamic=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_the_contract_holds(name: str) -> None:
    check_drafter(MAKE[name], seeds=(0,), quick=True)


@pytest.mark.parametrize("value", [None, "yes", 1, 0.0, [], "\ud800"])
def test_dynamic_is_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match=r"dynamic = .* cannot work"):
        EarlyExitDrafter(dynamic=value)  # type: ignore[arg-type]
