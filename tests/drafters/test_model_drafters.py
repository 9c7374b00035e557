"""Drafters with a language model, against plain transformers on the whole text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec import (
    ConfigError,
    Drafter,
    DraftRequest,
    DraftTree,
    Outcome,
    SamplingParams,
    TargetHandle,
    UnsupportedModelError,
)
from specdec.cache import KVPool, PagedCache
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.models import loading
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from specdec.verify.tree import ROOT
from tests.drafting import draft_request
from tests.tiny import VOCAB_SIZE, llama, llama_module

PROMPT = [5, 17, 3, 40, 40, 9]
PROMPTS = [PROMPT, [1], [2, 3] * 9, [60, 0, 33]]
WARM = SamplingParams(temperature=0.7)
NUM_BLOCKS = 64


class Counted(TransformersModel):
    """Notes the rows of every pass."""

    def __init__(self, module: PreTrainedModel, name: str = "") -> None:
        super().__init__(module, name)
        self.passes: list[int] = []

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        self.passes.append(len(batch.token_ids))
        return super().run(batch, pool, wants)

    def counted(self) -> list[int]:
        """Rows of each pass since the last call."""
        passes, self.passes = self.passes, []
        return passes


class Desk:
    """A drafter beside a target's cache, as an engine has it; requests are what their texts say.

    Args:
        drafter, target: to be bound.
        read: whether the target's cache is to be complete, and not only its table.
    """

    def __init__(self, drafter: Drafter, target: TransformersModel, read: bool = False, **options: int) -> None:
        self.drafter, self.target, self.read = drafter, target, read
        needs = drafter.bind(TargetHandle(target, **options))
        self.cache = PagedCache(target.kv_layout, NUM_BLOCKS, 4, needs.pools)
        drafter.attach(self.cache, self.cache.pools[1:])

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Reserves rows as a step does, and asks."""
        for request in requests:
            seq, tokens = request.request_id, list(request.tokens)
            if seq not in self.cache:
                self.cache.add(seq)
            if self.read and (missing := tokens[self.cache.length(seq) : -1]):
                self.cache.reserve(seq, len(missing))
                rows = SequenceRows(missing, self.cache.slots(seq), self.cache.length(seq))
                self.target.run(RaggedBatch.build([rows]), self.cache.target)
                self.cache.commit(seq, len(missing))
            tail = len(tokens) - self.cache.length(seq)
            self.cache.reserve(seq, tail + self.drafter.max_nodes(request.max_depth))
        return self.drafter.propose(requests)

    def settle(self, request: DraftRequest, tree: DraftTree, path: tuple[int, ...], drafter: str = "") -> None:
        """Commits an accepted path and tells the drafter."""
        seq, start = request.request_id, self.cache.length(request.request_id)
        tail = request.tokens[start:]
        self.cache.commit_path(seq, [*range(len(tail)), *(len(tail) + node for node in path)])
        tokens = [*(tree.tokens[node] for node in path), 50]
        self.drafter.observe([Outcome(seq, start, tail, tree, drafter or self.drafter.name, path, tokens)])


def model_desk(draft: TransformersModel, branches: int = 1, **options: int) -> Desk:
    return Desk(ModelDrafter(draft, 3, branches), llama(seed=0), **options)


def of_early_exit(branches: int) -> Desk:
    return Desk(EarlyExitDrafter(3, num_layers=2, branches=branches), llama(seed=1, num_layers=3), read=True)


def of_model(branches: int) -> Desk:
    return model_desk(llama(seed=1, num_layers=2), branches)


def of_native_model(branches: int) -> Desk:
    """Draws chains by itself, in one call."""
    return Desk(ModelDrafter(NativeModel(llama_module(1)), 3, branches), llama(seed=0))


def first_layers(num_layers: int) -> PreTrainedModel:
    """The target of `early_exit`, cut by hand."""
    module = llama_module(1, num_layers=3)
    del module.model.layers[num_layers:]
    module.config.num_hidden_layers = num_layers
    return module


MAKERS = {"model": of_model, "native model": of_native_model, "early exit": of_early_exit}
ORACLES: dict[str, Callable[[], PreTrainedModel]] = {
    "model": lambda: llama_module(1, num_layers=2),
    "native model": lambda: llama_module(1, num_layers=2),
    "early exit": lambda: first_layers(2),
}
kinds = pytest.mark.parametrize("kind", MAKERS)


@torch.inference_mode()
def logits_after(module: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """[V]: what plain transformers says next, without any cache."""
    logits: Tensor = module(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


def greedy(module: PreTrainedModel, tokens: Sequence[int], length: int) -> list[int]:
    text = list(tokens)
    for _ in range(length):
        text.append(int(logits_after(module, text).argmax()))
    return text[len(tokens) :]


@kinds
def test_a_greedy_chain_is_the_drafting_models_own_continuation(kind: str) -> None:
    module = ORACLES[kind]()
    drafter = MAKERS[kind](1)
    trees = drafter.propose([draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)])
    for prompt, tree in zip(PROMPTS, trees, strict=True):
        assert tree.is_chain
        assert tree.q is None
        assert list(tree.tokens) == greedy(module, prompt, 3)


@kinds
@pytest.mark.parametrize("asked", [1, 2, 3, 9])
def test_no_branch_is_longer_than_was_asked_for(kind: str, asked: int) -> None:
    [tree] = MAKERS[kind](2).propose([draft_request(PROMPT, asked)])
    assert tree.depth == min(asked, 3)


@kinds
@pytest.mark.parametrize(("rule", "branches"), [("token", 1), ("block", 1), ("traversal", 3), ("multiround", 3)])
def test_q_is_the_softmax_of_the_drafting_models_scores_at_every_node(kind: str, rule: str, branches: int) -> None:
    module = ORACLES[kind]()
    [tree] = MAKERS[kind](branches).propose([draft_request(PROMPT, rule=rule, params=WARM)])
    assert len(tree) == 3 * branches
    assert tree.q is not None
    assert tree.q.shape == (len(set(tree.parents)), VOCAB_SIZE)
    for parent, q in zip(sorted(set(tree.parents)), tree.q, strict=True):
        logits = logits_after(module, [*PROMPT, *tree.prefix(parent)])
        torch.testing.assert_close(q, torch.softmax(logits / 0.7, -1), atol=1e-5, rtol=1e-3)


@kinds
def test_the_first_token_branches_and_each_branch_goes_on_as_a_chain(kind: str) -> None:
    module = ORACLES[kind]()
    [tree] = MAKERS[kind](3).propose([draft_request(PROMPT)])
    assert tree.parents == (ROOT, ROOT, ROOT, 0, 1, 2, 3, 4, 5)
    best = logits_after(module, PROMPT).topk(3).indices.tolist()
    for first, leaf in zip(best, (6, 7, 8), strict=True):
        assert list(tree.prefix(leaf)) == [first, *greedy(module, [*PROMPT, first], 2)]


@kinds
@pytest.mark.parametrize(("rule", "branches"), [("block", 1), ("traversal", 3)])
def test_drafts_of_a_batch_are_those_of_each_request_alone(kind: str, rule: str, branches: int) -> None:
    requests = [
        draft_request(prompt, max_depth=1 + i, request_id=i, rule=rule, params=WARM) for i, prompt in enumerate(PROMPTS)
    ]
    together = MAKERS[kind](branches).propose(requests)
    for request, tree in zip(requests, together, strict=True):
        [alone] = MAKERS[kind](branches).propose([request])
        assert (tree.tokens, tree.parents) == (alone.tokens, alone.parents)
        assert tree.q is not None
        assert alone.q is not None
        torch.testing.assert_close(tree.q, alone.q, atol=1e-6, rtol=1e-4)


def test_only_what_was_not_kept_from_the_last_draft_is_run_again() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    desk, text = model_desk(draft), list(PROMPT)
    for accepted, rows in [(1, [6, 1, 1]), (3, [1, 1, 1]), (0, [2, 1, 1]), (2, [1, 1, 1]), (2, [1, 1, 1])]:
        request = draft_request(text)
        [tree] = desk.propose([request])
        assert list(tree.tokens) == greedy(module, text, 3)
        assert draft.counted() == rows
        desk.settle(request, tree, tuple(range(accepted)))
        text += [*tree.tokens[:accepted], 50]


def test_the_rows_of_an_accepted_branch_are_kept_and_those_of_the_others_dropped() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    desk, text = model_desk(draft, branches=3), list(PROMPT)
    for path, rows in [((1, 4, 7), [6, 3, 3]), ((2, 5), [2, 3, 3]), ((2,), [1, 3, 3]), ((), [1, 3, 3])]:
        request = draft_request(text)
        [tree] = desk.propose([request])
        best = logits_after(module, text).topk(3).indices.tolist()
        assert [list(tree.prefix(leaf)) for leaf in (6, 7, 8)] == [[x, *greedy(module, [*text, x], 2)] for x in best]
        assert draft.counted() == rows
        desk.settle(request, tree, path)
        text += [*(tree.tokens[node] for node in path), 50]


def test_what_another_drafter_proposed_is_run_before_the_next_draft() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    desk, text = model_desk(draft), list(PROMPT)
    request = draft_request(text)
    desk.propose([request])
    draft.counted()
    theirs = DraftTree.chain([9, 8, 7])
    desk.settle(request, theirs, (0, 1), "somebody else")
    text += [9, 8, 50]
    request = draft_request(text)
    [tree] = desk.propose([request])
    assert draft.counted() == [3, 1, 1]
    assert list(tree.tokens) == greedy(module, text, 3)


def test_a_fork_inherits_what_the_draft_model_has_run() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    desk, text = model_desk(draft), list(PROMPT)
    request = draft_request(text)
    [tree] = desk.propose([request])
    desk.settle(request, tree, (0, 1))
    text += [*tree.tokens[:2], 50]
    desk.cache.fork(0, 1)
    draft.counted()
    for seq, last in ((1, 33), (0, 50)):  # the copy is written to first
        [tree] = desk.propose([draft_request([*text[:-1], last], request_id=seq)])
        assert draft.counted() == [1, 1, 1]
        assert list(tree.tokens) == greedy(module, [*text[:-1], last], 3)
    desk.cache.check_integrity()


def test_a_long_text_is_read_in_passes_no_larger_than_the_targets() -> None:
    draft = Counted(llama_module(1))
    [tree] = model_desk(draft, max_batch_tokens=7).propose([draft_request(PROMPTS[2])])
    assert draft.counted() == [7, 7, 4, 1, 1]
    assert list(tree.tokens) == greedy(llama_module(1), PROMPTS[2], 3)


def test_a_text_beyond_the_draft_models_context_gets_an_empty_tree_and_its_neighbours_a_draft() -> None:
    desk = model_desk(llama(seed=1, max_context=16))
    long = [3] * 14
    requests = [draft_request(long), draft_request(PROMPT, request_id=1), draft_request(long, 2, request_id=2)]
    first, second, third = desk.propose(requests)
    assert len(first) == 0
    assert list(second.tokens) == greedy(llama_module(1, max_context=16), PROMPT, 3)
    assert len(third) == 2  # ends with the context
    desk.settle(requests[0], first, ())


def test_a_request_that_lost_its_place_drafts_the_same_when_it_starts_anew() -> None:
    desk = model_desk(llama(seed=1))
    requests = [draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)]
    before = desk.propose(requests)
    desk.settle(requests[1], before[1], (0,))
    for request in requests:
        desk.cache.free(request.request_id)
        desk.drafter.forget(request.request_id)
    desk.drafter.forget(99)
    assert [tree.tokens for tree in desk.propose(requests)] == [tree.tokens for tree in before]


def test_a_tree_may_have_any_shape() -> None:
    """Candidates at every level, and a branch that ends early."""
    module, choices = llama_module(1), [[0, 0, 0], [0, 1], [1], [2, 0]]
    drafter = ModelDrafter(llama(seed=1), choices=choices)
    assert (drafter.num_draft_tokens, drafter.max_nodes(3), drafter.max_nodes(1), drafter.trees) == (3, 7, 3, True)
    [tree] = Desk(drafter, llama(seed=0)).propose([draft_request(PROMPT)])
    assert tree.parents == (ROOT, ROOT, ROOT, 0, 0, 2, 3)
    for node, parent in enumerate(tree.parents):
        rank = [child for child, other in enumerate(tree.parents) if other == parent].index(node)
        ranked = logits_after(module, [*PROMPT, *tree.prefix(parent)]).argsort(descending=True)
        assert tree.tokens[node] == int(ranked[rank])


@pytest.mark.parametrize("same", [True, False])
def test_a_draft_is_loaded_by_name_and_its_tokens_must_be_the_targets(
    same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    vocabulary = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1})
    swapped = SimpleNamespace(get_vocab=lambda: {"a": 1, "b": 0})

    def load(source: str, **options: str) -> SimpleNamespace:
        asked.append((source, options))
        return SimpleNamespace(model=llama(seed=1), tokenizer=vocabulary if same else swapped)

    monkeypatch.setattr(loading, "load", load)
    drafter = ModelDrafter("some/draft", load_options={"dtype": "float32"})
    target = TargetHandle(llama(seed=0), vocabulary)
    if same:
        assert drafter.bind(target).pools == (llama(seed=1).kv_layout,)
    else:
        with pytest.raises(ConfigError, match="Draft tiny-1 and target tiny-0 give different ids"):
            drafter.bind(target)
    assert asked == [("some/draft", {"generation_config": "none", "dtype": "float32"})]


@pytest.mark.parametrize("branches", [1, 3])
def test_early_exit_leaves_the_committed_part_of_the_targets_cache_as_it_was(branches: int) -> None:
    desk = of_early_exit(branches)
    cache, requests = desk.cache, [draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)]
    desk.propose(requests)
    committed = torch.cat([cache.slots(seq)[: cache.length(seq)] for seq in range(len(PROMPTS))])
    before = [tensor[committed] for tensor in cache.target.tensors]
    free = cache.num_free_blocks
    trees = desk.propose(requests)
    assert [tree.depth for tree in trees] == [3] * len(PROMPTS)
    after = [tensor[committed] for tensor in cache.target.tensors]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [cache.length(seq) for seq in range(len(PROMPTS))] == [len(prompt) - 1 for prompt in PROMPTS]
    assert cache.num_free_blocks == free
    cache.check_integrity()


@pytest.mark.parametrize("num_layers", [3, 4])
def test_an_exit_that_is_not_before_the_last_layer_is_refused(num_layers: int) -> None:
    drafter = EarlyExitDrafter(num_layers=num_layers)
    with pytest.raises(UnsupportedModelError, match=f"tiny-1 has 3 layers; .* 1 to 2 of them, got {num_layers}"):
        drafter.bind(TargetHandle(llama(seed=1, num_layers=3)))


@pytest.mark.parametrize(("total", "exit_after"), [(2, 1), (3, 1), (6, 2)])
def test_a_third_of_the_layers_draft_unless_told_otherwise(total: int, exit_after: int) -> None:
    drafter = EarlyExitDrafter()
    drafter.bind(TargetHandle(llama(seed=1, num_layers=total)))
    assert drafter._model is not None
    assert drafter._model.kv_layout.num_layers == exit_after


def test_early_exit_leaves_the_target_whole() -> None:
    target = llama(seed=1, num_layers=3)
    EarlyExitDrafter(num_layers=1).bind(TargetHandle(target))
    cache = PagedCache(target.kv_layout, NUM_BLOCKS, 4)
    cache.add(0)
    cache.reserve(0, len(PROMPT))
    batch = RaggedBatch.build([SequenceRows(PROMPT, cache.slots(0), 0, logit_rows=[len(PROMPT) - 1])])
    want = logits_after(llama_module(1, num_layers=3), PROMPT)
    logits = target.run(batch, cache.target).logits
    assert logits is not None
    torch.testing.assert_close(logits[0], want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: ModelDrafter(llama(seed=1)), EarlyExitDrafter], ids=["model", "early exit"])
def test_a_drafter_that_was_not_bound_says_so(make: Callable[[], Drafter]) -> None:
    drafter = make()
    with pytest.raises(ConfigError, match=r"before attach\(\)"):
        drafter.propose([draft_request(PROMPT)])
    drafter.forget(0)


def test_a_model_drafter_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="draft=<hub id, folder, GGUF file or model>"):
        ModelDrafter()
