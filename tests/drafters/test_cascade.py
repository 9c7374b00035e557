"""One drafter goes on where another one stops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from specdec import SamplingParams
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.errors import ConfigError
from specdec.testing import OracleDrafter, RecordingDrafter
from specdec.verify.tree import KINDS, ROOT, DraftTree
from tests.engines import DRAFTERS, outputs, run, small_engine

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [5], [7, 8, 7, 8, 7]]


class Successors(Drafter):
    """Adds below every leaf, and beside the root's children, the token after its own."""

    name = "successors"
    extends = True

    def __init__(self, depth: int = 6, chance: float = 0.5) -> None:
        super().__init__(depth, 3)
        self._chance = chance

    def max_nodes(self, max_depth: int) -> int:
        return 2 * max_depth

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return self.extend(requests, [DraftTree()] * len(requests))

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        return [self._extended(request, tree) for request, tree in zip(requests, trees, strict=True)]

    def _extended(self, request: DraftRequest, tree: DraftTree) -> DraftTree:
        tokens, parents, depths = list(tree.tokens), list(tree.parents), list(tree.depths)
        kinds, chances = list(tree.node_kinds), list(tree.chances)
        for node in [ROOT, *(n for n in range(len(tree)) if n not in tree.parents)]:
            depth = 0 if node == ROOT else depths[node] + 1
            token = (request.tokens[-1] if node == ROOT else tokens[node]) + 1
            if depth < request.max_depth and token not in (tree.tokens[child] for child in tree.children(node)):
                tokens.append(token % request.transform.vocab_size)
                parents.append(node)
                kinds.append(7)
                chances.append(self._chance)
        return DraftTree(tuple(tokens), tuple(parents), None, tuple(kinds), tuple(chances))


class Forgetful(NgramDrafter):
    """Loses track of what it is told of."""

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        raise ValueError("lost")


def asked(tokens: Sequence[int], depth: int = 8) -> DraftRequest:
    engine = small_engine(NoDrafter())
    request = engine.make_request(tokens, SamplingParams())
    return DraftRequest(0, tuple(tokens), depth, request.transform, request.rule, request.key())


def drafted(drafter: CascadeDrafter, tokens: Sequence[int], depth: int = 8) -> DraftTree:
    drafter.bind(TargetHandle(small_engine(NoDrafter()).model))
    [tree] = drafter.propose([asked(tokens, depth)])
    return tree


def test_the_second_adds_below_and_beside_what_the_first_drafted() -> None:
    tree = drafted(CascadeDrafter([NgramDrafter(3), Successors()]), [1, 9, 5, 1])
    assert list(zip(tree.tokens, tree.parents, strict=True)) == [(9, ROOT), (5, 0), (1, 1), (2, ROOT), (2, 2)]


def test_where_the_first_has_nothing_the_second_drafts_alone() -> None:
    tree = drafted(CascadeDrafter([NgramDrafter(3), Successors()]), [4])
    assert tree.tokens == (5,)


def test_kinds_of_the_stages_are_told_apart_and_are_the_same_at_the_next_draft() -> None:
    drafter = CascadeDrafter([NgramDrafter(3), Successors(), Successors()])
    first, second = drafted(drafter, [1, 9, 5, 1]), drafted(drafter, [1, 9, 5, 1])
    assert first.kinds == second.kinds
    assert len(set(first.kinds)) == 3 + 1 + 1
    assert max(first.kinds) < KINDS


def test_the_nodes_of_largest_survival_stay_with_their_parents() -> None:
    """The n-gram's nodes give no chance and count as .5 each; the second's have .4: beside the root that is worth more
    than the second node of the chain, below the chain it is worth less."""
    tree = drafted(CascadeDrafter([NgramDrafter(3), Successors(chance=0.4)], max_nodes=3), [1, 9, 5, 1])
    assert list(zip(tree.tokens, tree.parents, strict=True)) == [(9, ROOT), (5, 0), (2, ROOT)]


def test_no_branch_is_deeper_than_was_asked_for() -> None:
    tree = drafted(CascadeDrafter([NgramDrafter(3), Successors()]), [1, 9, 5, 1], depth=3)
    assert tree.depth == 3
    assert tree.tokens == (9, 5, 1, 2)


def test_a_drawn_draft_keeps_its_nodes() -> None:
    """Greedily the model's chain needs no q, and the table goes on below it, with all nodes of the chain in place."""
    params = SamplingParams(max_tokens=24)
    plain = outputs(run(small_engine(NoDrafter()), PROMPTS, [params] * 3))
    drafter = CascadeDrafter([OracleDrafter(2), Successors()])
    requests = run(small_engine(drafter), PROMPTS, [params] * 3)
    assert outputs(requests) == plain
    assert not drafter.deterministic
    for request in requests:
        assert request.stats.mean_accepted_length > 2.5  # both of the oracle's, and now and then the table's
        assert request.stats.drafted_tokens > 2 * request.stats.passes


def test_a_draft_whose_rule_needs_a_q_is_not_extended() -> None:
    params = [SamplingParams(max_tokens=16, temperature=1.0, seed=seed) for seed in range(3)]
    with_table = run(small_engine(CascadeDrafter([DRAFTERS["model"](), Successors()]), "traversal"), PROMPTS, params)
    alone = run(small_engine(DRAFTERS["model"](), "traversal"), PROMPTS, params)
    assert outputs(with_table) == outputs(alone)


def test_every_stage_hears_what_it_asked_for_and_no_more() -> None:
    first = RecordingDrafter(NgramDrafter(3), Needs(hidden=(1,)))
    second = Successors()
    heard: list[Outcome] = []
    second.bind = lambda target: Needs(hidden=(0, 2), logits="verified")  # type: ignore[method-assign]
    second.observe = heard.extend  # type: ignore[method-assign]
    [request] = run(small_engine(CascadeDrafter([first, second])), PROMPTS[:1], [SamplingParams(max_tokens=8)])
    mine = first.outcomes[request.id]
    assert len(mine) == len(heard) > 2
    for one, other in zip(mine, heard, strict=True):
        assert one.hidden is not None
        assert other.hidden is not None
        assert (one.hidden.shape[1], other.hidden.shape[1]) == (1, 2)
        assert one.logits is None
        assert (other.logits is not None) == bool(other.tokens)
    assert "recording" in {one.drafter for one in mine}
    assert first.ended[request.id] == request.tokens


def test_a_stage_that_is_a_drafter_of_the_engine_is_that_drafter() -> None:
    """By its name, or as it was given; one of another make stays the cascade's own."""
    suffix, recycling, given = SuffixDrafter(), RecyclingDrafter(max_nodes=5), Successors()
    named, mixed = CascadeDrafter(["suffix", "recycling"]), CascadeDrafter([SuffixDrafter(), "recycling", given])
    mixed.name = "mixed"  # type: ignore[misc]
    engine = small_engine([suffix, recycling, named, mixed, given], max_batch_tokens=256)
    assert named.stages == [suffix, recycling]
    assert mixed.stages[1:] == [recycling, given]
    assert mixed.stages[0] is not suffix
    params = [SamplingParams(max_tokens=12, drafter=name) for name in ("cascade", "mixed", "cascade")]
    plain = [SamplingParams(max_tokens=12)] * 3
    assert outputs(run(engine, PROMPTS, params)) == outputs(run(small_engine(NoDrafter()), PROMPTS, plain))
    assert named.memory() == 0
    assert recycling.memory() > 0


def test_a_cascade_may_go_from_engine_to_engine() -> None:
    cascade, params = CascadeDrafter(["ngram", Successors()]), [SamplingParams(max_tokens=8, drafter="cascade")]
    texts = []
    for others in ([NgramDrafter(3)], [], [NgramDrafter(3), RecyclingDrafter()]):
        texts.append(outputs(run(small_engine([*others, cascade], max_batch_tokens=256), PROMPTS[:1], params)))
        assert (cascade.stages[0] in others) == bool(others)
        assert cascade.parts == ("ngram",) * bool(others)
    assert texts[0] == texts[1] == texts[2]


def test_a_stage_of_the_engine_hears_of_each_pass_once_and_counts_the_drafts_as_its_own() -> None:
    first = RecordingDrafter(NgramDrafter(3))
    engine = small_engine([first, CascadeDrafter([first, Successors()])])
    assert engine.drafting.drafters["cascade"].lead == first.name
    [request] = run(engine, PROMPTS[:1], [SamplingParams(max_tokens=8, drafter="cascade")])
    mine = first.outcomes[request.id]
    assert sum(len(one.tokens) for one in mine) == 8
    assert {one.drafter for one in mine if len(one.tree)} == {first.name}
    assert first.ended[request.id] == request.tokens


@pytest.mark.parametrize("stage", [NgramDrafter, Forgetful])
def test_a_cascade_is_not_asked_where_its_stage_lost_track(stage: type[NgramDrafter]) -> None:
    """It does so in the first step."""
    cascade, asked_for = CascadeDrafter(["ngram", Successors()]), list[int]()
    propose = cascade.propose
    cascade.propose = lambda requests: [asked_for.append(1), propose(requests)][1]  # type: ignore[method-assign]
    run(small_engine([stage(3), cascade]), PROMPTS[:1], [SamplingParams(max_tokens=8, drafter="cascade")])
    assert (len(asked_for) == 1) == (stage is Forgetful)


@pytest.mark.parametrize(
    "stages", [["ngram", "early_exit"], ["ngram", "none"], ["ngram"], "ngram", [1, 2], ["ngram", "who"]]
)
def test_what_cannot_go_on_is_refused(stages: object) -> None:
    with pytest.raises(ConfigError):
        CascadeDrafter(stages)  # type: ignore[arg-type]
