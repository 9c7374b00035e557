"""The drafter that runs a block head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.base import Drafter
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.engine import Engine
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.heads.files import save_head
from specdec.heads.shipped import head_for
from specdec.models.base import CausalLM
from specdec.models.llama import LlamaWeights
from specdec.models.native import NativeModel
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.policy.select import SelectPolicy
from specdec.testing.tiny import llama, llama_module
from specdec.verify.tree import DraftTree
from tests.blockheads import bigram_module, oracle_head, random_head
from tests.drafters.headchecks import (
    GREEDY,
    PROMPTS,
    SIZES,
    WARM,
    chance_of,
    check_knows_only,
    deaf_at_first,
    drafts_of,
    engine,
    every_noise,
    every_target,
    every_way,
    texts,
)
from tests.engines import outputs, run
from tests.pairheads import random_pairs

pytestmark = pytest.mark.fewer(2)


@every_target
@every_way
def test_an_oracle_head_is_always_right(made: Callable[[Any], CausalLM], params: SamplingParams) -> None:
    """γ + 1 tokens a step: the anchor is in row 0, each row follows its own token, q has p's transform, and the next
    block begins where the text ends. Drawn tokens may be refused where q and p differ in their last bits, seldom."""
    module = bigram_module(0)
    drafter = HeadDrafter(oracle_head(module), max_nodes=200, floor=0.0)
    for request in run(engine(made(module), drafter, max_batch_tokens=1024), PROMPTS, params):
        assert request.stats.mean_accepted_length == 5.0
        assert request.stats.acceptance_rate == 1.0


@every_target
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_head_that_copies_a_targets_only_layer_says_what_the_target_says(
    made: Callable[[Any], CausalLM], size: int
) -> None:
    """Position, norms, rotation, scale and context are right, or the first row would not be. Behind it are masks."""
    module = llama_module(3, num_layers=1)
    weights = LlamaWeights.of(module, "target")
    config = HeadConfig.like(module.config, "block", taps=(0,), block_size=size, causal=True, mask_token_id=1)
    head = BlockHead(config)
    head.start_from(weights)
    head.fc.weight.data.copy_(torch.eye(32))
    target = made(module)
    drafter = HeadDrafter(head, max_nodes=1)
    requests = run(engine(target, drafter), PROMPTS, GREEDY)
    assert outputs(requests) == texts(target, NoDrafter())
    assert {request.stats.mean_accepted_length for request in requests} == {2.0}


@every_target
@pytest.mark.parametrize("rule", ["greedy", "gumbel"])
@pytest.mark.parametrize(
    "options",
    [{}, {"known": 1.0, "markov_rank": 0}, {"anchor_predicts": False, "confidence": False}, {"causal": False}],
    ids=["plain", "no term", "masks predict", "not causal"],
)
def test_a_random_head_changes_no_text(made: Callable[[Any], CausalLM], rule: str, options: dict[str, Any]) -> None:
    target = made(llama_module(0))
    params = GREEDY if rule == "greedy" else WARM
    drafter = HeadDrafter(random_head(target, **options))
    drafts = drafts_of(drafter)
    assert texts(target, drafter, params, rule="auto" if rule == "greedy" else rule) == texts(
        target, NoDrafter(), params, rule="auto" if rule == "greedy" else rule
    )
    assert any(drafts)


@every_target
def test_drafts_have_only_tokens_that_the_head_knows_and_q_is_zero_elsewhere(made: Callable[[Any], CausalLM]) -> None:
    target = made(llama_module(0))
    head = random_head(target, known=0.3)
    for params in (GREEDY, WARM, replace(GREEDY, repetition_penalty=1.3)):
        drafter = HeadDrafter(head)
        drafts = drafts_of(drafter)
        texts(target, drafter, params, rule="block")
        check_knows_only(head, drafts, params)


@every_target
def test_nothing_is_read_that_was_not_written(made: Callable[[Any], CausalLM]) -> None:
    """In a pool of NaN the drafts are those in a pool of zeros: through prompts in pieces, trees, preemption."""
    target, drafts = made(llama_module(0)), list[list[DraftTree]]()
    for filling in (0.0, float("nan")):
        drafter = HeadDrafter(random_head(target))
        drafts.append(drafts_of(drafter))
        one = engine(target, drafter, num_blocks=26, max_batch_tokens=60)
        for pool in one.cache.pools[1:]:
            for tensor in pool.tensors:
                tensor.fill_(filling)
        requests = run(one, PROMPTS, GREEDY)
        assert sum(request.stats.preemptions for request in requests)
    assert [(tree.tokens, tree.parents, tree.chances) for tree in drafts[0]] == [
        (tree.tokens, tree.parents, tree.chances) for tree in drafts[1]
    ]


def test_a_draft_is_a_function_of_the_text_whatever_the_pieces_and_the_batch() -> None:
    target = NativeModel(llama_module(0))
    found: list[dict[tuple[int, ...], Any]] = []
    for sizes in ({}, {"max_num_seqs": 1}, {"num_blocks": 26, "max_batch_tokens": 60}):
        drafter, drafts = HeadDrafter(random_head(target)), dict[tuple[int, ...], Any]()

        def kept(requests: Any, propose: Any = drafter.propose, drafts: Any = drafts) -> list[DraftTree]:
            trees = propose(requests)
            drafts.update((tuple(each.tokens), (t.tokens, t.chances)) for each, t in zip(requests, trees, strict=True))
            return trees

        drafter.propose = kept  # type: ignore[method-assign]
        run(engine(target, drafter, **sizes), PROMPTS, GREEDY)
        found.append(drafts)
    assert all(drafts == found[0] for drafts in found)


def test_a_request_with_a_hole_goes_without_a_draft() -> None:
    """One pass is not told, as where a prefix was found without its hidden states: nothing behind it is read."""
    target = NativeModel(llama_module(0))
    drafter = HeadDrafter(random_head(target))
    drafts, heard = drafts_of(drafter), deaf_at_first(drafter)
    one = engine(target, drafter)
    assert outputs(run(one, PROMPTS[-1:], GREEDY)) == texts(target, NoDrafter())[-1:]
    assert heard() > 5
    assert not any(map(len, drafts))


@every_target
def test_tables_go_on_where_the_head_stops(made: Callable[[Any], CausalLM]) -> None:
    """A cascade and a policy that selects: texts stay, and drafts are deeper than the head's block."""
    target = made(llama_module(0))
    plain = texts(target, NoDrafter())

    def tables() -> list[Drafter]:
        return [SuffixDrafter(floor=0.0), RecyclingDrafter(contexts=1 << 8, first=False)]

    cascade = CascadeDrafter([HeadDrafter(random_head(target)), *tables()], max_nodes=24)
    assert cascade.trimmable
    drafts = drafts_of(cascade)
    assert texts(target, cascade, max_batch_tokens=256) == plain
    assert max(tree.depth for tree in drafts) > 4
    several = [HeadDrafter(random_head(target)), *tables()]
    policy = SelectPolicy(CostCurve((1, 64), (1.0, 1.2)))
    requests = run(Engine(target, several, config=SIZES, policy=policy), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    cut = CascadeDrafter([HeadDrafter(random_head(target)), SuffixDrafter(shared=False, floor=0.0)], max_nodes=5)
    drafts = drafts_of(cut)
    assert texts(target, cut, WARM, rule="traversal") != []
    assert all(tree.q is not None or not len(tree) for tree in drafts)


def test_a_policy_cuts_what_does_not_pay() -> None:
    """Where every row costs as much as a token no node of a random head stays; an oracle's stay."""
    module = bigram_module(0)
    target, dear = NativeModel(module), CostCurve((1, 64), (1.0, 40.0))
    plain = texts(target, NoDrafter())
    for head, pays in ((random_head(target), False), (oracle_head(module), True)):
        requests = run(engine(target, HeadDrafter(head), policy=ProductPolicy(dear)), PROMPTS, GREEDY)
        drafted = sum(request.stats.drafted_tokens for request in requests)
        assert outputs(requests) == plain
        assert (sum(request.stats.accepted_tokens for request in requests) > drafted / 2) == pays


def test_a_head_is_read_from_its_folder(tmp_path: Path) -> None:
    target = NativeModel(llama_module(0))
    save_head(random_head(target), tmp_path)
    given, read = (HeadDrafter(source) for source in (random_head(target), tmp_path))
    drafts = [drafts_of(each) for each in (given, read)]
    assert texts(target, given) == texts(target, read)
    assert [tree.tokens for tree in drafts[0]] == [tree.tokens for tree in drafts[1]]


@pytest.mark.parametrize(
    ("held", "asked", "kind"),
    [("int8", None, "int8"), ("float32", None, "float32"), ("float32", "int8", "int8"), ("int8", "float32", "float32")],
)
def test_a_head_whose_file_holds_int8_runs_in_int8(held: Any, asked: str | None, kind: str, tmp_path: Path) -> None:
    target = NativeModel(llama_module(0))
    for make in (random_head, random_pairs):
        save_head(make(target), tmp_path, weights=held)
        drafter = HeadDrafter(tmp_path, weights=asked)
        assert texts(target, drafter) == texts(target, NoDrafter())
        assert drafter._drafts is not None
        assert drafter._drafts.run._model.kind == kind  # type: ignore[attr-defined]


def test_the_head_that_ships_for_a_target_is_found(tmp_path: Path) -> None:
    target, other = NativeModel(llama_module(0)), NativeModel(llama_module(0, hidden_size=16))
    save_head(random_head(other), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"No head that ships is for LlamaForCausalLM.* width 16, not 32"):
        head_for(target, None, tmp_path)
    save_head(random_head(target, seed=1), tmp_path / "b")
    save_head(random_head(target, seed=2), tmp_path / "c")
    found, wanted = head_for(target, None, tmp_path), random_head(target, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_what_cannot_draft_is_refused_with_its_reason(tmp_path: Path) -> None:
    target, other = llama(0), llama(0, hidden_size=16)
    save_head(random_head(target), tmp_path)
    with pytest.raises(UnsupportedModelError, match="a stream of width 32, not 16"):
        engine(other, HeadDrafter(tmp_path))
    with pytest.raises(ConfigError, match=r"No head that ships is for tiny-0[.] Train one with `specdec train`"):
        engine(target, HeadDrafter())
    with pytest.raises(ConfigError, match="no head of the kind 'strange'"):
        engine(target, HeadDrafter(Head(HeadConfig.like(llama_module(0).config, "strange"))))


def test_a_block_is_no_longer_than_the_head_and_the_request_allow() -> None:
    target = NativeModel(llama_module(0))
    long, short = (HeadDrafter(random_head(target), depth, 200, 0.0) for depth in (9, 2))
    for drafter, depth in ((long, 4), (short, 2)):
        drafts = drafts_of(drafter)
        texts(target, drafter, max_batch_tokens=1024)
        assert drafter.num_draft_tokens == depth
        assert max(tree.depth for tree in drafts) == depth


@every_target
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"anchor_predicts": False}], ids=["causal", "not", "masks"])
@every_noise
def test_every_node_has_the_chance_that_the_modules_give_it_over_the_whole_text(
    made: Callable[[Any], CausalLM], options: dict[str, Any], params: SamplingParams
) -> None:
    """Of trees all along texts whose prompts were read in pieces, whose drafts were kept in part, and that lost their
    place: against the target's and the head's own modules, which see each text at once, in float64."""
    module, drafted = llama_module(0), list[tuple[tuple[int, ...], DraftTree]]()
    target = made(llama_module(0))
    head = random_head(target, taps=(0, 1, 2), **options)
    drafter = HeadDrafter(head, floor=0.0)

    def kept(requests: Any, propose: Any = drafter.propose) -> list[DraftTree]:
        trees = propose(requests)
        drafted.extend((tuple(each.tokens), tree) for each, tree in zip(requests, trees, strict=True))
        return trees

    drafter.propose = kept  # type: ignore[method-assign]
    requests = run(engine(target, drafter, num_blocks=28, max_batch_tokens=60), PROMPTS, params)
    assert sum(request.stats.preemptions for request in requests)
    module, head = module.double(), head.double()
    head.bind(module.get_input_embeddings().weight, module.lm_head.weight)
    for tokens, tree in drafted[:: max(1, len(drafted) // 12)]:
        for node, chance in enumerate(tree.chances):
            assert chance == pytest.approx(_chance(module, head, tokens, tree, node, params), rel=1e-3)


@torch.no_grad()
def _chance(module: Any, head: BlockHead, tokens: Any, tree: DraftTree, node: int, params: SamplingParams) -> float:
    """confidence · chance of a node, from the definition."""
    text, anchor = torch.tensor([tokens]), torch.tensor([[len(tokens) - 1]])
    states = torch.stack(module(text, output_hidden_states=True).hidden_states, 2)
    there = torch.ones_like(anchor, dtype=torch.bool)
    hidden = head.draft_states(states, text, anchor, there, head.config.num_drafted)[0, 0, tree.depths[node]]
    parent = tree.parents[node]
    before = torch.tensor(tokens[-1] if parent < 0 else tree.tokens[parent])
    logits, known = head.logits(hidden, before), head.draft_ids.tolist()
    sure = head.confidence_logits(hidden, before)
    assert sure is not None
    at = len(tokens) + tree.depths[node]
    return chance_of(logits, known.index(tree.tokens[node]), known, params, at) * float(sure.sigmoid())
