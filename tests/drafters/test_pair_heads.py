"""The drafter that runs heads token by token."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.base import DraftRequest
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.headparts import WIDTH
from specdec.drafters.none import NoDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.engine import Engine
from specdec.heads.files import save_head
from specdec.heads.nativepairs import NativePairs
from specdec.heads.pairs import PairHead
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.testing.tiny import llama_module
from specdec.verify.token import TokenRule
from specdec.verify.tree import DraftTree
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
    told,
)
from tests.engines import outputs, run
from tests.pairheads import flat_bigram_module, oracle_pairs, random_pairs

pytestmark = pytest.mark.fewer(2)

KINDS = {
    "EAGLE-3": ("eagle3", {}),
    "EAGLE-3.1": ("eagle3", {"fc_norm": True, "norm_output": True}),
    "EAGLE-1": ("eagle1", {"fc_bias": True}),
    "MTP": ("mtp", {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
ALL = {"floor": 0.0, "deepen": 0.0}


@every_target
@every_way
def test_an_oracle_head_is_always_right(made: Callable[[Any], CausalLM], params: SamplingParams) -> None:
    """γ + 1 tokens a step: every level follows its own tokens, q has p's transform, and the next draft begins where the
    text ends. Only the first token of a prompt of one token comes before there is a pair."""
    module = flat_bigram_module()
    drafter = HeadDrafter(oracle_pairs(module), 4, 40, drawn=4, **ALL)
    for request in run(engine(made(module), drafter, max_batch_tokens=1024), PROMPTS, params):
        assert request.stats.acceptance_rate == 1.0
        assert request.stats.mean_accepted_length >= 4.0


@every_target
def test_a_long_prompt_is_run_in_pieces_of_a_pass(made: Callable[[Any], CausalLM]) -> None:
    module = flat_bigram_module()
    sizes = {"max_batch_tokens": 12, "max_num_seqs": 1}
    [request] = run(engine(made(module), HeadDrafter(oracle_pairs(module), 3, 9, **ALL), **sizes), [[5] * 60], GREEDY)
    assert request.stats.acceptance_rate == 1.0


@every_target
@every_kind
@every_noise
def test_every_node_has_the_chance_that_the_modules_give_it_over_the_whole_text(
    made: Callable[[Any], CausalLM], kind: str, params: SamplingParams
) -> None:
    """At a temperature that of the modules' logits and the target's noise together. Of trees all along texts whose
    prompts were read in pieces, whose drafts were kept in part, and that lost their place: against the target's and the
    head's own modules, which see each text at once, in float64. Logits are within 2e-5 of the largest
    (test_pair_runs.py), which is 100 at most."""
    module, architecture, options = llama_module(0), *KINDS[kind]
    head = random_pairs(made(llama_module(0)), architecture, **options)
    drafter = HeadDrafter(head, 4, 9, **ALL)
    drafted = told(drafter)
    requests = run(engine(made(llama_module(0)), drafter, num_blocks=26, max_batch_tokens=48), PROMPTS, params)
    assert sum(request.stats.preemptions for request in requests)
    assert sum(request.stats.accepted_tokens for request in requests)
    module, head = module.double(), head.double()
    head.bind(module.get_input_embeddings().weight, module.lm_head.weight)
    full = [(tokens, tree) for tokens, tree in drafted if len(tree)]
    assert max(tree.depth for _, tree in full) >= 3
    for tokens, tree in full[:: max(1, len(full) // 8)]:
        for node, chance in enumerate(tree.chances):
            assert chance == pytest.approx(_chance(module, head, tokens, tree, node, params), rel=4e-3)


@torch.no_grad()
def _chance(module: Any, head: PairHead, tokens: Any, tree: DraftTree, node: int, params: SamplingParams) -> float:
    """The chance of a node below those above it, from the definition: the target's states stop at the text's end."""
    above = tree.prefix(node)[:-1]
    states = torch.stack(module(torch.tensor([tokens]), output_hidden_states=True).hidden_states, 2)
    taps = states[:, :, list(head.config.taps)]
    whole = torch.cat([taps, taps.new_zeros(1, 1 + len(above), *taps.shape[2:])], 1)
    logits = head(whole, torch.tensor([[*tokens, *above, 0]]), 1 + len(above)).logits
    known, at = head.draft_ids.tolist(), len(tokens) + len(above)
    return chance_of(logits[-1, 0, len(tokens) - 2], known.index(tree.tokens[node]), known, params, at)


@every_target
@every_kind
@pytest.mark.parametrize("rule", ["greedy", "gumbel"])
def test_a_random_head_changes_no_text(made: Callable[[Any], CausalLM], kind: str, rule: str) -> None:
    target, (architecture, options) = made(llama_module(0)), KINDS[kind]
    params, name = (GREEDY, "auto") if rule == "greedy" else (WARM, rule)
    drafter = HeadDrafter(random_pairs(target, architecture, **options), choices=[[0, 0, 0], [0, 1], [1]])
    drafts = drafts_of(drafter)
    assert texts(target, drafter, params, rule=name) == texts(target, NoDrafter(), params, rule=name)
    assert any(map(len, drafts))


def test_drafts_have_only_tokens_that_the_head_knows_and_q_is_zero_elsewhere() -> None:
    target = NativeModel(llama_module(0))
    head = random_pairs(target, known=0.3)
    for params in (GREEDY, WARM, replace(GREEDY, repetition_penalty=1.3)):
        drafter = HeadDrafter(head)
        drafts = drafts_of(drafter)
        texts(target, drafter, params, rule="block")
        check_knows_only(head, drafts, params)


@every_target
def test_nothing_is_read_that_was_not_written(made: Callable[[Any], CausalLM]) -> None:
    """In pools of NaN the drafts are those in pools of zeros: through prompts in pieces, trees, preemption."""
    target, drafts = made(llama_module(0)), list[list[DraftTree]]()
    for filling in (0.0, float("nan")):
        drafter = HeadDrafter(random_pairs(target), **ALL)
        drafts.append(drafts_of(drafter))
        one = engine(target, drafter, num_blocks=26, max_batch_tokens=60)
        for pool in one.cache.pools[1:]:
            for tensor in pool.tensors:
                tensor.fill_(filling)
        assert sum(request.stats.preemptions for request in run(one, PROMPTS, GREEDY))
    assert [(tree.tokens, tree.parents, tree.chances) for tree in drafts[0]] == [
        (tree.tokens, tree.parents, tree.chances) for tree in drafts[1]
    ]


def test_a_draft_is_a_function_of_the_text_whatever_the_pieces_and_the_batch() -> None:
    target = NativeModel(llama_module(0))
    found: list[dict[tuple[int, ...], Any]] = []
    for sizes in ({}, {"max_num_seqs": 1}, {"num_blocks": 26, "max_batch_tokens": 60}):
        drafter = HeadDrafter(random_pairs(target), **ALL)
        drafts = told(drafter)
        run(engine(target, drafter, **sizes), PROMPTS, GREEDY)
        found.append({tokens: (tree.tokens, tree.chances) for tokens, tree in drafts})
    assert all(drafts == found[0] for drafts in found)


def test_a_request_with_a_hole_goes_without_a_draft() -> None:
    """One pass is not told, as where a prefix was found without its hidden states: nothing behind it is read."""
    target = NativeModel(llama_module(0))
    drafter = HeadDrafter(random_pairs(target))
    drafts, heard = drafts_of(drafter), deaf_at_first(drafter)
    assert outputs(run(engine(target, drafter), PROMPTS[-1:], GREEDY)) == texts(target, NoDrafter())[-1:]
    assert heard() > 5
    assert not any(map(len, drafts))


def test_tables_go_on_where_the_head_stops() -> None:
    target = NativeModel(llama_module(0))
    cascade = CascadeDrafter([HeadDrafter(random_pairs(target), 2), SuffixDrafter(floor=0.0)], max_nodes=24)
    drafts = drafts_of(cascade)
    assert texts(target, cascade, max_batch_tokens=256) == texts(target, NoDrafter())
    assert max(tree.depth for tree in drafts) > 2


def test_a_head_is_read_from_its_folder(tmp_path: Path) -> None:
    target = NativeModel(llama_module(0))
    save_head(random_pairs(target), tmp_path)
    given, read = (HeadDrafter(source) for source in (random_pairs(target), tmp_path))
    drafts = [drafts_of(each) for each in (given, read)]
    assert texts(target, given) == texts(target, read)
    assert [tree.tokens for tree in drafts[0]] == [tree.tokens for tree in drafts[1]]


def best_first(laws: list[list[float]], token: int, depth: int, nodes: int) -> list[float]:
    """Values of the best tree of so many nodes below a token, at most `WIDTH` children each, where a law depends on the
    token before alone."""
    found, open_nodes = list[float](), [(-1.0, 0, token)]
    while open_nodes and len(found) <= nodes:
        value, level, last = heapq.heappop(open_nodes)
        found.append(-value)
        if level < depth:
            for each in sorted(range(len(laws[last])), key=lambda one: -laws[last][one])[:WIDTH]:
                heapq.heappush(open_nodes, (value * laws[last][each], level + 1, each))
    return found[1:]  # without the root


@pytest.mark.parametrize(("nodes", "floor"), [(5, 0.0), (12, 0.0), (40, 0.1)])
def test_trees_have_the_nodes_of_largest_value(nodes: int, floor: float) -> None:
    """Beside a search that knows nothing of levels: at least .95 of what its nodes are worth, for four nodes of a level
    are gone on from at most, and none that is below the floor."""
    module = flat_bigram_module()
    laws = module(torch.arange(64)[:, None]).logits[:, 0].double().softmax(-1).tolist()
    drafter, worth, most = HeadDrafter(oracle_pairs(module), 4, nodes, floor, deepen=0.0), 0.0, 0.0
    drafted = told(drafter)
    run(engine(NativeModel(module), drafter, max_batch_tokens=1024), PROMPTS, GREEDY)
    for tokens, tree in drafted:
        if len(tree):
            values = [prod(tree.chances[each] for each in tree.path(node)) for node in range(len(tree))]
            worth += sum(values)
            most += sum(value for value in best_first(laws, tokens[-1], 4, nodes) if value >= floor)
            assert len(tree) <= nodes
            assert min(values) >= floor
    assert 0.95 * most <= worth <= most * (1 + 1e-4)


@pytest.mark.parametrize("rule", ["auto", "block"])
def test_requests_of_a_batch_draft_each_by_its_own_rule(rule: str) -> None:
    """Greedy ones, edited ones, and drawn ones or such with noise in the same passes: each is what it is alone."""
    target, edited = NativeModel(llama_module(0)), replace(GREEDY, repetition_penalty=1.5, bad_words=[[3], [8]])
    params = [GREEDY, WARM, edited, GREEDY]
    drafters = [HeadDrafter(random_pairs(target), **ALL) for _ in range(2)]
    together, alone = map(told, drafters)
    texts = outputs(run(engine(target, drafters[0], rule), PROMPTS, params))
    one = engine(target, drafters[1], rule, max_num_seqs=1)
    assert outputs(run(one, PROMPTS, params)) == texts
    assert sorted((tokens, tree.tokens) for tokens, tree in together) == sorted(
        (tokens, tree.tokens) for tokens, tree in alone
    )


def test_a_level_is_run_only_if_it_can_add_enough() -> None:
    """A random head's chances fall fast: at a bound of .9 no draft is deeper than a level and its candidates."""
    target = NativeModel(llama_module(0))
    depths = {}
    for bound in (0.0, 0.9):
        drafter = HeadDrafter(random_pairs(target), 5, 20, floor=0.0, deepen=bound)
        drafts = drafts_of(drafter)
        texts(target, drafter)
        depths[bound] = max(tree.depth for tree in drafts)
    assert depths[0.9] < depths[0.0] == 5


NOISY = {
    "warm": WARM,
    "cool": replace(WARM, temperature=0.5),
    "hot": replace(WARM, temperature=1.5),
    "top-k": replace(WARM, top_k=5),
    "top-p": replace(WARM, top_p=0.8),
    "min-p": replace(WARM, min_p=0.1),
    "all filters": replace(WARM, temperature=0.7, top_k=40, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("params", NOISY.values(), ids=NOISY)
@every_kind
def test_trees_under_noise_grown_in_one_call_are_those_grown_level_by_level(
    kind: str, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same nodes, their chances to roundings of the noise (test_rows.py) and of logits: those of a random EAGLE-1
    head, which has no norm, are up to 4e4, where floats are 4e-3 apart."""
    target, (architecture, options) = NativeModel(llama_module(0)), KINDS[kind]
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(NativePairs, "grow", lambda self, pool, parts, states, limits: [None for _ in parts])
        drafter = HeadDrafter(random_pairs(target, architecture, **options), 5, 11, floor=0.02, deepen=0.2)
        drafts = told(drafter)
        one = engine(target, drafter, num_blocks=26, max_batch_tokens=48)
        assert sum(request.stats.preemptions for request in run(one, PROMPTS, params))
        found.append(drafts)
    for (text, tree), (other_text, other) in zip(*found, strict=True):
        assert (text, tree.tokens, tree.parents) == (other_text, other.tokens, other.parents)
        assert tree.chances == pytest.approx(other.chances, rel=1e-2 if kind == "EAGLE-1" else 3e-5)
    assert len({tree.parents for _, tree in found[0]}) >= 4


@pytest.mark.parametrize(("floor", "deepen"), [(0.0, 0.0), (0.02, 0.3), (0.2, 0.0)])
@every_kind
def test_trees_grown_in_one_call_are_those_grown_level_by_level(
    kind: str, floor: float, deepen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit of a chance: of several texts at once whose trees have depths and sizes of their own, prompts in
    pieces, preemption."""
    target, (architecture, options) = NativeModel(llama_module(0)), KINDS[kind]
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(NativePairs, "grow", lambda self, pool, parts, states, limits: [None for _ in parts])
        drafter = HeadDrafter(random_pairs(target, architecture, **options), 5, 11, floor=floor, deepen=deepen)
        drafts = told(drafter)
        one = engine(target, drafter, num_blocks=26, max_batch_tokens=48)
        assert sum(request.stats.preemptions for request in run(one, PROMPTS, GREEDY))
        found.append([(text, tree.tokens, tree.parents, tree.chances, tree.kinds) for text, tree in drafts])
    assert found[0] == found[1]
    assert len({parents for _, _, parents, _, _ in found[0]}) >= 4


def test_scores_that_are_no_numbers_are_told_where_trees_grow_in_one_call(caplog: pytest.LogCaptureFixture) -> None:
    target = NativeModel(llama_module(0))
    head = random_pairs(target)
    with torch.no_grad():
        head.midlayer.mlp.down_proj.weight[0, 0] = float("nan")
    assert texts(target, HeadDrafter(head)) == texts(target, NoDrafter())
    assert "the largest logit is nan" in caplog.text


@pytest.mark.parametrize("choices", [None, [[0, 0], [0, 1], [1], [2]]], ids=["chain", "tree"])
@pytest.mark.parametrize("params", [WARM, replace(WARM, temperature=0.6, top_p=0.8)], ids=["warm", "cut"])
def test_draws_among_the_tokens_that_the_head_knows_are_those_among_all(
    params: SamplingParams, choices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens, and q to a rounding: softmax sums fewer numbers."""
    target = NativeModel(llama_module(0))
    found = []
    for among in (True, False):
        monkeypatch.setattr(DraftRequest, "draws_among_some", property(lambda self, among=among: among))
        drafter = HeadDrafter(random_pairs(target), drawn=4, choices=choices)
        drafts = drafts_of(drafter)
        found.append((texts(target, drafter, params, rule="rrs"), drafts))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one.tokens, one.parents) == (other.tokens, other.parents)
        if one.q is not None and other.q is not None:
            assert torch.allclose(one.q, other.q, rtol=1e-5, atol=0)
    assert max(map(len, found[0][1])) >= 4


@pytest.mark.parametrize("rule", ["token", "block", "rrs"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@every_kind
def test_chains_drawn_in_one_call_are_those_drawn_level_by_level(
    kind: str, temperature: float, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens, and q to roundings of the softmax, of texts together whose chains have lengths of their own."""
    target, (architecture, options) = NativeModel(llama_module(0)), KINDS[kind]
    found, calls = [], list[int]()
    draw = NativePairs.draw

    def counted(self: NativePairs, *given: Any) -> Any:
        calls.append(len(given[1]))
        return draw(self, *given)

    monkeypatch.setattr(NativePairs, "draw", counted)
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(NativePairs, "draw", lambda self, pool, parts, *rest: [None for _ in parts])
        drafter = HeadDrafter(random_pairs(target, architecture, **options), drawn=4)
        drafts = told(drafter)
        one = engine(target, drafter, rule=rule, num_blocks=26, max_batch_tokens=60)
        assert sum(each.stats.preemptions for each in run(one, PROMPTS, replace(WARM, temperature=temperature)))
        found.append(drafts)
    assert max(calls) > 1
    for (text, chain), (other_text, other) in zip(*found, strict=True):
        assert (text, chain.tokens, chain.parents) == (other_text, other.tokens, other.parents)
        if len(chain):
            assert chain.q is not None
            assert other.q is not None
            assert torch.allclose(chain.q, other.q, rtol=2e-5, atol=1e-9)
    assert {len(chain) for _, chain in found[0]} >= {0, 1, 4}


@pytest.mark.parametrize(
    "changed", [{"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"bad_words": ((3,),)}]
)
def test_what_is_more_than_a_temperature_is_drawn_level_by_level(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativePairs, "draw", None)
    target = NativeModel(llama_module(0))
    drafter = HeadDrafter(random_pairs(target))
    drafts = drafts_of(drafter)
    texts(target, drafter, replace(WARM, **changed), rule="block")
    assert any(map(len, drafts))


def test_a_rule_with_draws_of_its_own_is_asked_for_them() -> None:
    """It inherits no points: nobody but itself knows how it draws."""

    class Ours(TokenRule):
        name = "ours"

        def draw(self, scores: Any, key: Any, depth: int, lanes: Any) -> Any:
            tokens, q = super().draw(scores, key, depth, lanes)
            drawn.append(depth)
            return tokens, q

    drawn: list[int] = []
    target = NativeModel(llama_module(0))
    run(Engine(target, HeadDrafter(random_pairs(target)), Ours(), SIZES), PROMPTS, WARM)
    assert max(drawn) == 2


def test_a_drawn_draft_is_no_longer_than_told() -> None:
    target = NativeModel(llama_module(0))
    for drawn in (1, 3):
        drafter = HeadDrafter(random_pairs(target), drawn=drawn, **ALL)
        for params in (WARM, GREEDY):
            drafts = drafts_of(drafter)
            texts(target, drafter, params, rule="block")
            deepest = max(tree.depth for tree in drafts)
            assert deepest == drawn if params is WARM else deepest > 3
