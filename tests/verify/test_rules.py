"""The tensor face of the rules, one step at a time."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specdec.errors import ConfigError, NumericalError, SpecdecError
from specdec.kernels.rows import RowMaxima
from specdec.proof import cases
from specdec.proof.exact import Setting, joint_law, target_law
from specdec.proof.faces import examine
from specdec.randomness import RandomSource, Stream
from specdec.registry import RULES
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule, StepKey
from specdec.verify.select import select_rule
from specdec.verify.tree import ROOT, DraftTree, TreeShape

pytestmark = pytest.mark.fewer(2)

NAMES = sorted(RULES.names())
LOSSLESS = [name for name in NAMES if RULES.get(name).lossless]
READS_Q = ["block", "hsd", "kseq", "multiround", "rrs", "token", "traversal"]
"""Rules that divide by q, and so need the draft token to have some."""
CHAINS_ONLY = ["block", "token"]
V = 7
SEEDS = range(40)


def key(seed: int, anchor: int = 11) -> StepKey:
    return StepKey(RandomSource(seed), anchor)


def random_scores(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logs(*weights: float) -> Tensor:
    return torch.tensor(weights).log()


def drawn_chain(rule: Rule, q_scores: Tensor, key: StepKey) -> DraftTree:
    """A chain drawn by the rule itself; row n of `q_scores` gives node n."""
    tokens: list[int] = []
    rows: list[Tensor] = []
    for depth, row in enumerate(q_scores):
        [token], q = rule.draw(row, key, depth, [depth])
        tokens.append(token)
        rows += [] if q is None else [q]
    return DraftTree.chain(tokens, torch.stack(rows) if rows else None)


def drawn_fork(rule: Rule, q_scores: Tensor, key: StepKey) -> DraftTree:
    """Up to three candidates for the first token, one more below each of them."""
    tokens, q = rule.draw(q_scores[0], key, 0, [0, 1, 2])
    parents, rows = [ROOT] * len(tokens), [] if q is None else [q]
    for node in range(len(tokens)):
        [token], q = rule.draw(q_scores[1], key, 1, [len(tokens)])
        tokens.append(token)
        parents.append(node)
        rows += [] if q is None else [q]
    return DraftTree(tuple(tokens), tuple(parents), torch.stack(rows) if rows else None)


def test_the_lists_above_are_complete() -> None:
    assert [name for name in LOSSLESS if RULES.get(name).needs_q] == READS_Q
    assert [name for name in NAMES if not RULES.get(name).trees] == CHAINS_ONLY


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_chain_drawn_from_the_target_itself_is_accepted_whole(name: str) -> None:
    rule = RULES.create(name)
    for seed in SEEDS:
        rows = random_scores(seed, 5, V)
        tree = drawn_chain(rule, rows[:4], key(seed))
        [verdict] = rule.accept([tree], [rows], [key(seed)])
        assert verdict.path == (0, 1, 2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_accepted_where_target_and_draft_do_not_overlap(name: str) -> None:
    rule, target, draft = RULES.create(name), logs(0, 0, 0, 2, 1), logs(3, 2, 1, 0, 0)
    for seed in SEEDS:
        tree = drawn_chain(rule, draft.repeat(3, 1), key(seed))
        [verdict] = rule.accept([tree], [target.repeat(4, 1)], [key(seed)])
        assert verdict.path == ()
        assert verdict.next_token in (3, 4)


@pytest.mark.parametrize("name", READS_Q)
def test_a_certain_draft_is_accepted_where_the_uniform_is_below_the_targets_probability(name: str) -> None:
    rule, p = RULES.create(name), [0.1, 0.2, 0.3, 0.4]
    seen = set()
    for seed in SEEDS:
        for token, one_hot in ((1, None), (3, torch.eye(4)[[3]])):
            u = RandomSource(seed).uniform(Stream.ACCEPT, 11, 11, 0)
            [verdict] = rule.accept([DraftTree.chain([token], one_hot)], [logs(*p).repeat(2, 1)], [key(seed)])
            assert (verdict.path == (0,)) == (u < p[token])
            assert verdict.path or verdict.next_token != token  # the residual has no mass on what was refused
            seen.add(verdict.path)
    assert seen == {(), (0,)}


@pytest.mark.parametrize("name", ["multiround", "rrs", "token"])
def test_each_token_is_tested_with_the_uniform_of_its_own_position(name: str) -> None:
    rule, p = RULES.create(name), logs(0.5, 0.5).repeat(4, 1)
    lengths = set()
    for seed in SEEDS:
        uniforms = [RandomSource(seed).uniform(Stream.ACCEPT, 11 + i, 11, i) for i in range(3)]
        [verdict] = rule.accept([DraftTree.chain([0, 1, 0])], [p], [key(seed)])
        want = next((i for i, u in enumerate(uniforms) if u >= 0.5), 3)
        assert verdict.path == tuple(range(want))
        lengths.add(want)
    assert lengths == {0, 1, 2, 3}


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 6])
def test_greedy_draws_ties_in_the_order_that_its_law_states(lanes: int) -> None:
    """All ways in which four tokens can be equal, and many more of a larger vocabulary."""
    rule = RULES.create("greedy")
    rows = [list(row) for row in product((1, 2, 3), repeat=4)]
    rows += torch.randint(1, 4, (200, 40), generator=torch.Generator().manual_seed(lanes)).tolist()
    for row in rows:
        drawn, q = rule.draw(torch.tensor(row, dtype=torch.float32), key(0), 0, range(lanes))
        assert q is None
        assert {tuple(drawn): Fraction(1)} == rule.draw_law(tuple(Fraction(x, sum(row)) for x in row), lanes)


def test_greedy_draws_ties_beside_tokens_without_mass() -> None:
    row = torch.tensor([-torch.inf, 1.0, -torch.inf, 1.0, 2.0])
    assert RULES.create("greedy").draw(row, key(0), 0, range(4))[0] == [4, 1, 3, 0]


@pytest.mark.parametrize("shape", [TreeShape.fork(2, 2), TreeShape((-1, -1, 0, 0, 1))])
def test_greedy_keeps_to_its_law_on_trees_with_ties(shape: TreeShape) -> None:
    """Every target and draft over three tokens of which two or all are equal."""
    rule = RULES.create("greedy")
    weights = [row for row in product((1, 2), repeat=3) if len(set(row)) < 3]
    for p, q in product(weights, repeat=2):
        setting = Setting("ties", cases.constant(*p), cases.constant(*q), shape, max_tokens=4)
        assert examine(rule, setting, 2, 1).agrees
        assert joint_law(rule, setting) == target_law(setting, rule.emits)


def test_greedy_follows_the_argmax_and_ignores_the_key() -> None:
    rule = RULES.create("greedy")
    rows = torch.full((6, V), -1.0)
    for row, best in enumerate([2, 0, 5, 1, 6, 3]):  # after the root and nodes 0 to 4
        rows[row, best] = 1.0
    tree = DraftTree((4, 2, 0, 5, 1), (ROOT, ROOT, 1, 1, 3))  # the root's 2 is node 1, then 5 is node 3, then 6
    for seed in range(3):
        [verdict] = rule.accept([tree], [rows], [key(seed)])
        assert (verdict.path, verdict.next_token) == ((1, 3), 6)
        assert verdict.tokens(tree) == (2, 5, 6)
        assert verdict.num_tested(tree) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drafted", [True, False], ids=["drawn", "deterministic"])
def test_a_ragged_batch_is_judged_as_each_sequence_alone(name: str, drafted: bool) -> None:
    rule = RULES.create(name)
    trees, scores, keys = [], [], []
    for seed in range(24):
        keys.append(key(seed, anchor=5 + seed % 7))
        q_scores = random_scores(500 + seed, seed % 6, V)
        tree = drawn_chain(rule, q_scores, keys[-1])
        if rule.trees and seed % 4 == 3 and (drafted or rule.deterministic_trees):
            tree = drawn_fork(rule, random_scores(500 + seed, 2, V), keys[-1])
        trees.append(tree if drafted else DraftTree(tree.tokens, tree.parents))
        scores.append(random_scores(seed, len(tree) + 1, V))
    assert {len(tree) for tree in trees} >= {0, 1, 2, 3, 4, 5}
    together = rule.accept(trees, scores, keys)
    alone = [rule.accept([tree], [rows], [k])[0] for tree, rows, k in zip(trees, scores, keys, strict=True)]
    backwards = rule.accept(trees[::-1], scores[::-1], keys[::-1])[::-1]
    assert together == alone == backwards
    assert len({len(verdict.path) for verdict in together}) > 1


@st.composite
def token_trees(draw: st.DrawFn) -> DraftTree:
    size = draw(st.integers(0, 9))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(size)]
    return DraftTree(tuple(draw(st.integers(0, 3)) for _ in range(size)), tuple(parents))


@given(token_trees(), st.integers(0, 10**6))
@pytest.mark.parametrize("name", [name for name in RULES.names() if RULES.get(name).by_argmax])
def test_a_rule_that_needs_the_argmax_alone_gives_the_same_verdict_on_it(name: str, tree: DraftTree, seed: int) -> None:
    rule = RULES.create(name)
    scores = random_scores(seed, len(tree) + 1, V).round()  # with ties
    [verdict] = rule.accept([tree], [scores], [key(seed)])
    assert rule.accept_argmax(tree, RowMaxima.of(scores).tokens) == verdict


@given(token_trees(), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_gumbel_emits_the_noisy_argmax_of_p_whatever_the_draft(tree: DraftTree, seed: int, anchor: int) -> None:
    """One p for every prefix, so that the text is known before the draft is."""
    p, source = logs(1, 2, 3, 4), RandomSource(seed)
    text = [int((p + source.gumbel(anchor + i, 4)).argmax()) for i in range(len(tree) + 1)]
    [verdict] = RULES.create("gumbel").accept([tree], [p.repeat(len(tree) + 1, 1)], [StepKey(source, anchor)])
    emitted = list(verdict.tokens(tree))
    assert emitted == text[: len(emitted)]
    last = verdict.path[-1] if verdict.path else ROOT
    assert verdict.next_token not in [tree.tokens[child] for child in tree.children(last)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("nodes", "rows"), [(0, 0), (0, 2), (2, 2), (2, 4)])
def test_rows_must_match_the_tree(name: str, nodes: int, rows: int) -> None:
    tree = DraftTree.chain(range(nodes))
    with pytest.raises(SpecdecError, match=rf"{name}.*{nodes} nodes need {nodes + 1} rows of scores, got {rows}"):
        RULES.create(name).accept([tree], [random_scores(0, rows, V)], [key(0)])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_must_have_scores_and_a_key_for_every_tree(name: str) -> None:
    rule, trees, rows = RULES.create(name), [DraftTree(), DraftTree()], random_scores(0, 1, V)
    with pytest.raises(ValueError, match="shorter"):
        rule.accept(trees, [rows], [key(0)] * 2)
    with pytest.raises(ValueError, match="shorter"):
        rule.accept(trees, [rows] * 2, [key(0)])


@pytest.mark.parametrize("name", CHAINS_ONLY)
def test_a_rule_of_chains_refuses_a_tree(name: str) -> None:
    tree = DraftTree((1, 2), (ROOT, ROOT))
    with pytest.raises(SpecdecError, match=rf"{name}.*judges chains.*branches=1"):
        RULES.create(name).accept([tree], [random_scores(0, 3, V)], [key(0)])


@pytest.mark.parametrize("name", READS_Q)
def test_a_draft_token_without_mass_under_q_is_an_error(name: str) -> None:
    tree = DraftTree.chain([1], torch.tensor([[0.5, 0.0, 0.5]]))
    with pytest.raises(NumericalError, match="Draft token 1 has q = 0"):
        RULES.create(name).accept([tree], [torch.zeros(2, 3)], [key(0)])


@pytest.mark.parametrize(
    ("rule", "temperature", "deterministic", "trees", "expected"),
    [
        ("auto", 0.0, True, False, "greedy"),
        ("auto", 0.0, True, True, "greedy"),
        ("auto", 0.0, False, False, "greedy"),
        ("auto", 0.0, False, True, "greedy"),
        ("auto", 0.7, True, False, "gumbel"),
        ("auto", 0.7, True, True, "gumbel"),
        ("auto", 0.7, False, False, "block"),
        ("auto", 0.7, False, True, "traversal"),
        ("greedy", 0.0, False, True, "greedy"),
        ("token", 0.0, True, True, "greedy"),  # at temperature 0 the name does not matter
        ("token", 1.0, False, False, "token"),
        ("kseq", 1.0, True, False, "kseq"),
        ("kseq", 1.0, False, True, "kseq"),
        ("rrs", 1.0, True, True, "rrs"),
        ("typical", 0.0, False, False, "typical"),  # lossy, so it does not become the exact match
        ("typical", 1.0, True, True, "typical"),
    ],
)
def test_which_rule_judges(rule: str, temperature: float, deterministic: bool, trees: bool, expected: str) -> None:
    chosen = select_rule(rule, SamplingParams(temperature=temperature), deterministic, trees)
    assert chosen.name == expected


@pytest.mark.parametrize(
    ("rule", "deterministic", "trees", "message"),
    [
        ("block", False, True, "rule='block' cannot judge trees from this drafter.*branches=1"),
        ("token", True, True, "rule='token' cannot judge trees from this drafter"),
        ("kseq", True, True, "rule='kseq' cannot judge trees from this drafter"),
        ("greedy", False, False, "rule='greedy' would ignore temperature=0.5"),
        ("tokens", False, False, "Unknown rule 'tokens'. Valid names: block, "),
    ],
)
def test_combinations_that_cannot_work_are_refused(rule: str, deterministic: bool, trees: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_rule(rule, SamplingParams(temperature=0.5), deterministic, trees)


@pytest.mark.parametrize(
    ("rule", "temperature", "deterministic", "trees", "expected"),
    [
        ("auto", 0.0, False, False, "greedy"),
        ("auto", 1.0, True, True, "gumbel"),
        ("auto", 1.0, False, False, "gumbel"),
        ("auto", 1.0, False, True, "gumbel"),
        ("gumbel", 1.0, False, True, "gumbel"),
        ("block", 0.0, False, False, "greedy"),
        ("typical", 1.0, False, False, "typical"),  # says already that the text is not the target's
    ],
)
def test_drafts_that_may_depend_on_other_requests_are_judged_by_rules_that_the_draft_cannot_move(
    rule: str, temperature: float, deterministic: bool, trees: bool, expected: str
) -> None:
    params = SamplingParams(temperature=temperature)
    assert select_rule(rule, params, deterministic, trees, invariant_only=True).name == expected


def test_drafts_that_are_ranked_under_shared_noise_are_judged_by_the_rule_that_has_it() -> None:
    """It is not refused to draw: a rule that was asked for stays."""
    warm = SamplingParams(temperature=1.0)
    assert select_rule("auto", warm, False, ranked=True).name == "gumbel"
    assert select_rule("block", warm, False, ranked=True).name == "block"
    assert select_rule("auto", SamplingParams(), False, ranked=True).name == "greedy"


@pytest.mark.parametrize("name", [name for name in LOSSLESS if not RULES.get(name).draft_invariant])
@pytest.mark.parametrize("deterministic", [True, False])
def test_other_lossless_rules_are_refused_for_them(name: str, deterministic: bool) -> None:
    with pytest.raises(ConfigError, match=f"rule='{name}' gives a text that depends on the draft.*rule='gumbel'"):
        select_rule(name, SamplingParams(temperature=1.0), deterministic, invariant_only=True)


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("drafted", [True, False], ids=["drawn", "deterministic"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_rows_below_an_impossible_draft_token_are_not_needed(
    name: str, drafted: bool, data: st.DataObject, seed: int
) -> None:
    """Their logits may be anything finite: what cannot be emitted has no continuation."""
    rule, forbidden = RULES.create(name), data.draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))
    fork = rule.trees and (drafted or rule.deterministic_trees) and data.draw(st.booleans())
    q_scores = random_scores(seed, 4, 4)
    tree = drawn_fork(rule, q_scores, key(seed)) if fork else drawn_chain(rule, q_scores, key(seed))
    tree = tree if drafted else DraftTree(tree.tokens, tree.parents)
    rows = random_scores(seed + 1, len(tree) + 1, 4)
    rows[:, sorted(forbidden)] = -torch.inf
    poisoned = rows.clone()
    for node in range(len(tree)):
        if forbidden & set(tree.prefix(node)):
            poisoned[node + 1] = 30 * random_scores(seed + 2 + node, 4)
    assert rule.accept([tree], [rows], [key(seed)]) == rule.accept([tree], [poisoned], [key(seed)])


def test_rules_of_one_name_are_shared_and_a_rule_of_ones_own_is_used_as_it_is() -> None:
    params, mine = SamplingParams(temperature=1.0), RULES.create("token")
    assert select_rule("token", params, False) is select_rule("token", params, True)
    assert select_rule(mine, params, False) is mine
