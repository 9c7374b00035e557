"""Drafters with a language model, against plain transformers on the whole text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec import ConfigError, Drafter, DraftTree, SamplingParams, TargetHandle, UnsupportedModelError
from specdec.cache.paged import PagedCache
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.models import loading
from specdec.models.batch import RaggedBatch, SequenceRows
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

    def forward(self, batch: RaggedBatch, cache: PagedCache) -> Tensor:
        self.passes.append(len(batch.token_ids))
        return super().forward(batch, cache)

    def counted(self) -> list[int]:
        """Rows of each pass since the last call."""
        passes, self.passes = self.passes, []
        return passes


def handle(target: TransformersModel, **options: int) -> TargetHandle:
    return TargetHandle(target, PagedCache(target.kv_layout, NUM_BLOCKS, block_size=4), **options)


def model_drafter(draft: TransformersModel, branches: int = 1, **options: int) -> ModelDrafter:
    drafter = ModelDrafter(draft, 3, branches)
    drafter.bind(handle(llama(seed=0), **options))
    return drafter


def read(target: TargetHandle, prompts: Sequence[Sequence[int]], room: int) -> None:
    """Puts all tokens but each prompt's last into the target's cache, and reserves rows as a step does."""
    for seq, prompt in enumerate(prompts):
        target.cache.add(seq)
        if len(prompt) > 1:
            target.cache.reserve(seq, len(prompt) - 1)
            rows = SequenceRows(prompt[:-1], target.cache.slots(seq), 0)
            target.model.run(RaggedBatch.build([rows]), target.cache.target)
            target.cache.commit(seq, len(prompt) - 1)
        target.cache.reserve(seq, 1 + room)


def early_exit(prompts: Sequence[Sequence[int]], branches: int) -> tuple[Drafter, PagedCache]:
    target = handle(llama(seed=1, num_layers=3))
    drafter = EarlyExitDrafter(3, num_layers=2, branches=branches)
    drafter.bind(target)
    read(target, prompts, drafter.max_nodes(3))
    return drafter, target.cache


def of_model(prompts: Sequence[Sequence[int]], branches: int) -> Drafter:
    return model_drafter(llama(seed=1, num_layers=2), branches=branches)


def of_early_exit(prompts: Sequence[Sequence[int]], branches: int) -> Drafter:
    return early_exit(prompts, branches)[0]


def first_layers(num_layers: int) -> PreTrainedModel:
    """The target of `early_exit`, cut by hand."""
    module = llama_module(1, num_layers=3)
    del module.model.layers[num_layers:]
    module.config.num_hidden_layers = num_layers
    return module


MAKERS = {"model": of_model, "early exit": of_early_exit}
ORACLES: dict[str, Callable[[], PreTrainedModel]] = {
    "model": lambda: llama_module(1, num_layers=2),
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
    drafter = MAKERS[kind](PROMPTS, 1)
    trees = drafter.propose([draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)])
    for prompt, tree in zip(PROMPTS, trees, strict=True):
        assert tree.is_chain
        assert tree.q is None
        assert list(tree.tokens) == greedy(module, prompt, 3)


@kinds
@pytest.mark.parametrize("asked", [1, 2, 3, 9])
def test_no_branch_is_longer_than_was_asked_for(kind: str, asked: int) -> None:
    [tree] = MAKERS[kind]([PROMPT], 2).propose([draft_request(PROMPT, asked)])
    assert tree.depth == min(asked, 3)


@kinds
@pytest.mark.parametrize(("rule", "branches"), [("token", 1), ("block", 1), ("traversal", 3), ("multiround", 3)])
def test_q_is_the_softmax_of_the_drafting_models_scores_at_every_node(kind: str, rule: str, branches: int) -> None:
    module = ORACLES[kind]()
    [tree] = MAKERS[kind]([PROMPT], branches).propose([draft_request(PROMPT, rule=rule, params=WARM)])
    assert len(tree) == 3 * branches
    assert tree.q is not None
    assert tree.q.shape == (1 + 2 * branches, VOCAB_SIZE)
    for node in (ROOT, *range(2 * branches)):
        logits = logits_after(module, [*PROMPT, *tree.prefix(node)])
        torch.testing.assert_close(tree.q_below(node), torch.softmax(logits / 0.7, -1), atol=1e-5, rtol=1e-3)


@kinds
def test_the_first_token_branches_and_each_branch_goes_on_as_a_chain(kind: str) -> None:
    module = ORACLES[kind]()
    [tree] = MAKERS[kind]([PROMPT], 3).propose([draft_request(PROMPT)])
    assert tree.parents == (ROOT, ROOT, ROOT, 0, 1, 2, 3, 4, 5)
    best = logits_after(module, PROMPT).topk(3).indices.tolist()
    for first, leaf in zip(best, (6, 7, 8), strict=True):
        assert list(tree.prefix(leaf)) == [first, *greedy(module, [*PROMPT, first], 2)]


@kinds
@pytest.mark.parametrize(("rule", "branches"), [("block", 1), ("traversal", 3)])
def test_drafts_of_a_batch_are_those_of_each_request_alone(kind: str, rule: str, branches: int) -> None:
    requests = [
        draft_request(prompt, num_draft_tokens=1 + i, request_id=i, rule=rule, params=WARM)
        for i, prompt in enumerate(PROMPTS)
    ]
    together = MAKERS[kind](PROMPTS, branches).propose(requests)
    for request, tree in zip(requests, together, strict=True):
        [alone] = MAKERS[kind](PROMPTS, branches).propose([request])
        assert (tree.tokens, tree.parents) == (alone.tokens, alone.parents)
        assert tree.q is not None
        assert alone.q is not None
        torch.testing.assert_close(tree.q, alone.q, atol=1e-6, rtol=1e-4)


def test_only_what_was_not_kept_from_the_last_draft_is_run_again() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    drafter, text = model_drafter(draft), list(PROMPT)
    for accepted, rows in [(1, [6, 1, 1]), (3, [1, 1, 1]), (0, [2, 1, 1]), (2, [1, 1, 1]), (2, [1, 1, 1])]:
        [tree] = drafter.propose([draft_request(text)])
        assert list(tree.tokens) == greedy(module, text, 3)
        assert draft.counted() == rows
        drafter.observe(0, tree, tuple(range(accepted)))
        text += [*tree.tokens[:accepted], 50]


def test_the_rows_of_an_accepted_branch_are_kept_and_those_of_the_others_dropped() -> None:
    draft, module = Counted(llama_module(1)), llama_module(1)
    drafter, text = model_drafter(draft, branches=3), list(PROMPT)
    for path, rows in [((1, 4, 7), [6, 3, 3]), ((2, 5), [2, 3, 3]), ((2,), [1, 3, 3]), ((), [1, 3, 3])]:
        [tree] = drafter.propose([draft_request(text)])
        best = logits_after(module, text).topk(3).indices.tolist()
        assert [list(tree.prefix(leaf)) for leaf in (6, 7, 8)] == [[x, *greedy(module, [*text, x], 2)] for x in best]
        assert draft.counted() == rows
        drafter.observe(0, tree, path)
        text += [*(tree.tokens[node] for node in path), 50]


def test_a_long_text_is_read_in_passes_no_larger_than_the_targets() -> None:
    draft = Counted(llama_module(1))
    drafter = model_drafter(draft, max_batch_tokens=7)
    [tree] = drafter.propose([draft_request(PROMPTS[2])])
    assert draft.counted() == [7, 7, 4, 1, 1]
    assert list(tree.tokens) == greedy(llama_module(1), PROMPTS[2], 3)


def test_a_text_beyond_the_draft_models_context_gets_an_empty_tree_and_its_neighbours_a_draft() -> None:
    drafter = model_drafter(llama(seed=1, max_context=16))
    long = [3] * 14
    first, second, third = drafter.propose(
        [draft_request(long), draft_request(PROMPT, request_id=1), draft_request(long, 2, request_id=2)]
    )
    assert len(first) == 0
    assert list(second.tokens) == greedy(llama_module(1, max_context=16), PROMPT, 3)
    assert len(third) == 2  # ends with the context
    drafter.observe(0, first, ())
    drafter.release(0)


def test_release_frees_all_blocks_and_a_new_start_drafts_the_same() -> None:
    drafter = model_drafter(llama(seed=1))
    requests = [draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)]
    cache = drafter._cache
    assert cache is not None
    before = [tree.tokens for tree in drafter.propose(requests)]
    drafter.observe(1, DraftTree(before[1], (ROOT, 0, 1)), (0,))
    assert cache.num_free_blocks < NUM_BLOCKS
    for request in requests:
        drafter.release(request.request_id)
    drafter.release(99)
    cache.check_integrity()
    assert cache.num_free_blocks == NUM_BLOCKS
    assert [tree.tokens for tree in drafter.propose(requests)] == before


def test_a_draft_with_another_vocabulary_is_refused_by_name() -> None:
    drafter = ModelDrafter(llama(seed=1, vocab_size=48))
    with pytest.raises(ConfigError, match=r"Draft tiny-1 has 48 tokens, target tiny-0 has 64\. Choose"):
        drafter.bind(handle(llama(seed=0)))


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
    target = handle(llama(seed=0))
    target = TargetHandle(target.model, target.cache, vocabulary)
    if same:
        drafter.bind(target)
        assert len(drafter.propose([draft_request(PROMPT)])[0]) == 4
    else:
        with pytest.raises(ConfigError, match="Draft tiny-1 and target tiny-0 give different ids"):
            drafter.bind(target)
    assert asked == [("some/draft", {"dtype": "float32"})]


@pytest.mark.parametrize("branches", [1, 3])
def test_early_exit_leaves_the_committed_part_of_the_targets_cache_as_it_was(branches: int) -> None:
    drafter, cache = early_exit(PROMPTS, branches)
    committed = torch.cat([cache.slots(seq)[: cache.length(seq)] for seq in range(len(PROMPTS))])
    before = [tensor[committed] for tensor in cache.target.tensors]
    free = cache.num_free_blocks
    trees = drafter.propose([draft_request(prompt, request_id=i) for i, prompt in enumerate(PROMPTS)])
    assert [tree.depth for tree in trees] == [3] * len(PROMPTS)
    after = [tensor[committed] for tensor in cache.target.tensors]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [cache.length(seq) for seq in range(len(PROMPTS))] == [len(prompt) - 1 for prompt in PROMPTS]
    assert cache.num_free_blocks == free
    cache.check_integrity()


@pytest.mark.parametrize("num_layers", [-1, 0, 3, 4])
def test_an_exit_that_is_not_before_the_last_layer_is_refused(num_layers: int) -> None:
    drafter = EarlyExitDrafter(num_layers=num_layers)
    with pytest.raises(UnsupportedModelError, match=f"tiny-1 has 3 layers; .* 1 to 2 of them, got {num_layers}"):
        drafter.bind(handle(llama(seed=1, num_layers=3)))


@pytest.mark.parametrize(("total", "exit_after"), [(2, 1), (3, 1), (6, 2)])
def test_a_third_of_the_layers_draft_unless_told_otherwise(total: int, exit_after: int) -> None:
    drafter = EarlyExitDrafter()
    drafter.bind(handle(llama(seed=1, num_layers=total)))
    assert drafter._model is not None
    assert drafter._model.kv_layout.num_layers == exit_after


def test_early_exit_leaves_the_target_whole() -> None:
    target = handle(llama(seed=1, num_layers=3))
    EarlyExitDrafter(num_layers=1).bind(target)
    cache = target.cache
    cache.add(0)
    cache.reserve(0, len(PROMPT))
    batch = RaggedBatch.build([SequenceRows(PROMPT, cache.slots(0), 0, logit_rows=[len(PROMPT) - 1])])
    want = logits_after(llama_module(1, num_layers=3), PROMPT)
    torch.testing.assert_close(target.model.run(batch, cache.target).logits[0], want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: ModelDrafter(llama(seed=1)), EarlyExitDrafter], ids=["model", "early exit"])
def test_a_drafter_that_was_not_bound_says_so(make: Callable[[], Drafter]) -> None:
    drafter = make()
    with pytest.raises(ConfigError, match=r"before bind\(\)"):
        drafter.propose([draft_request(PROMPT)])
    drafter.release(0)


def test_a_model_drafter_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="draft=<hub id, folder, GGUF file or model>"):
        ModelDrafter()
