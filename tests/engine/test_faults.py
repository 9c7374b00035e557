"""Whatever a drafter or a policy hands in: it costs a draft and one warning, and no text changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from specdec import ConfigError, DraftRequest, DraftTree, Outcome, SamplingParams
from specdec.engine.request import Request
from specdec.policy.base import Ask, Choice, Draft, Drafted, Load, Pick, Policy
from specdec.sampling import Choices
from specdec.verify.tree import TreeShape
from tests.engines import NonsenseDrafter, outputs, run, small_engine
from tests.tiny import VOCAB_SIZE as V

pytestmark = pytest.mark.fewer(3)

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], [60, 3, 9, 60, 3, 9, 60, 3]]
WRONG = 2
"""The request that goes wrong: its prompt alone begins with 60."""
GREEDY = SamplingParams(max_tokens=16)
WARM = [SamplingParams(max_tokens=16, temperature=1.0, seed=seed) for seed in range(3)]
UNIFORM = torch.full((1, V), 1 / V)
Wrong = Callable[[DraftRequest], Any]


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return outputs(run(small_engine(NonsenseDrafter()), PROMPTS, replace(GREEDY, num_draft_tokens=0)))


class Odd(NonsenseDrafter):
    """Hands in something else for one request."""

    name = "odd"

    def __init__(self, wrong: Wrong, deterministic: bool = True) -> None:
        super().__init__()
        self.wrong, self.deterministic = wrong, deterministic
        self.asked = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        for index, request in enumerate(requests):
            if request.tokens[0] == 60:
                self.asked += 1
                trees[index] = self.wrong(request)
        return trees


def changed(tree: DraftTree, **fields: object) -> DraftTree:
    """Past its own checks."""
    for name, value in fields.items():
        object.__setattr__(tree, name, value)
    return tree


def halves(*rows: dict[int, float]) -> torch.Tensor:
    q = torch.zeros(len(rows), V)
    for row, masses in zip(q, rows, strict=True):
        for token, mass in masses.items():
            row[token] = mass
    return q


class Pretender:
    tokens, parents, q, kind, depth = (1,), (-1,), None, 0, 1

    def __len__(self) -> int:
        return 1


TREES: dict[str, Wrong] = {
    "None": lambda r: None,
    "a list of ids": lambda r: [1, 2],
    "a tensor": lambda r: torch.tensor([1, 2]),
    "something like a tree": lambda r: Pretender(),
    "an id beyond the vocabulary": lambda r: DraftTree.chain([V]),
    "an id far beyond": lambda r: DraftTree.chain([10**9]),
    "an id of 70 bits": lambda r: DraftTree.chain([2**70]),
    "an id below": lambda r: DraftTree.chain([3, -1]),
    "a float": lambda r: DraftTree.chain([1.0]),  # type: ignore[list-item]
    "NaN": lambda r: DraftTree.chain([float("nan")]),  # type: ignore[list-item]
    "a bool": lambda r: DraftTree.chain([True]),
    "text": lambda r: DraftTree.chain("ab"),  # type: ignore[arg-type]
    "an id that is None": lambda r: DraftTree.chain([None]),  # type: ignore[list-item]
    "a tensor of floats": lambda r: DraftTree.chain(torch.tensor([1.0, 2.0])),  # type: ignore[arg-type]
    "a tensor of two": lambda r: DraftTree((torch.tensor([1, 2]),), (-1,)),  # type: ignore[arg-type]
    "too deep": lambda r: DraftTree.chain(range(r.max_depth + 1)),
    "too many nodes": lambda r: DraftTree(tuple(range(9)), (-1,) * 9),
    "a cycle": lambda r: changed(DraftTree.chain([1, 2]), parents=(1, 0)),
    "a parent that comes later": lambda r: changed(DraftTree.chain([1, 2]), parents=(-1, 5)),
    "a parent below the root": lambda r: changed(DraftTree.chain([1, 2]), parents=(-1, -2)),
    "more tokens than parents": lambda r: changed(DraftTree.chain([1, 2]), tokens=(1, 2, 3)),
    "more parents than tokens": lambda r: changed(DraftTree.chain([1, 2]), tokens=(1,)),
    "parents but no tokens": lambda r: changed(DraftTree.chain([1, 2]), tokens=()),
    "a shape of another tree": lambda r: changed(DraftTree.chain([1, 2]), shape=TreeShape((-1, -1))),
    "no shape": lambda r: changed(object.__new__(DraftTree), tokens=(1,), parents=(-1,)),
    "a kind that is a list": lambda r: DraftTree((1,), (-1,), kinds=([],)),  # type: ignore[arg-type]
    "kinds that are a number": lambda r: changed(DraftTree.chain([1, 2]), kinds=3),
    "a kind too few": lambda r: changed(DraftTree.chain([1, 2]), kinds=(1,)),
    "a kind below 0": lambda r: DraftTree((1,), (-1,), kinds=(-1,)),
    "a kind that no table has": lambda r: DraftTree((1,), (-1,), kinds=(1024,)),
    "a chance too few": lambda r: changed(DraftTree.chain([1, 2]), chances=(0.5,)),
    "a chance above 1": lambda r: DraftTree((1,), (-1,), chances=(1.5,)),
    "a chance of NaN": lambda r: DraftTree((1,), (-1,), chances=(float("nan"),)),
    "a chance in words": lambda r: DraftTree((1,), (-1,), chances=("likely",)),  # type: ignore[arg-type]
    "a q after all": lambda r: DraftTree.chain([1], UNIFORM),
}
QS: dict[str, Wrong] = {
    "q is a list": lambda r: changed(DraftTree.chain([1]), q=[[1 / V] * V]),
    "q is an array": lambda r: DraftTree.chain([1], np.full((1, V), 1 / V)),  # type: ignore[arg-type]
    "q of integers": lambda r: DraftTree.chain([1], UNIFORM.int()),
    "q of half precision": lambda r: DraftTree.chain([1], UNIFORM.half()),
    "q of double precision": lambda r: DraftTree.chain([1], UNIFORM.double()),
    "q of complex numbers": lambda r: DraftTree.chain([1], UNIFORM.to(torch.complex64)),
    "q that is sparse": lambda r: DraftTree.chain([1], UNIFORM.to_sparse()),
    "q on another device": lambda r: DraftTree.chain([1], UNIFORM.to("meta")),
    "q too narrow": lambda r: DraftTree.chain([1], torch.full((1, V - 1), 1 / (V - 1))),
    "q too wide": lambda r: DraftTree.chain([1], torch.full((1, V + 1), 1 / (V + 1))),
    "q of one dimension": lambda r: DraftTree.chain([1], UNIFORM[0, :1]),
    "q of three dimensions": lambda r: DraftTree.chain([1], UNIFORM[None]),
    "q with a row too many": lambda r: changed(DraftTree.chain([1]), q=UNIFORM.repeat(2, 1)),
    "q with a row too few": lambda r: changed(DraftTree.chain([1, 2]), q=UNIFORM),
    "NaN in q": lambda r: DraftTree.chain([1], halves({1: 0.5, 2: float("nan")})),
    "infinity in q": lambda r: DraftTree.chain([1], halves({1: float("inf")})),
    "q of mass 0": lambda r: DraftTree.chain([1], halves({})),
    "q of mass 2": lambda r: DraftTree.chain([1], UNIFORM * 2),
    "q with a negative entry": lambda r: DraftTree.chain([1], halves({1: 1.5, 2: -0.5})),
    "q without mass at the token": lambda r: DraftTree.chain([1], halves({2: 1.0})),
    "q without mass at the second token": lambda r: DraftTree.chain([1, 3], halves({1: 1.0}, {2: 1.0})),
    "logits in place of q": lambda r: DraftTree.chain([1], UNIFORM.log()),
}


def only_one_lost_its_drafts(drafter: Odd, requests: list[Request], warnings: list[logging.LogRecord]) -> None:
    assert drafter.asked > 5
    drafted = [request.stats.drafted_tokens for request in requests]
    assert drafted[WRONG] == 0
    assert min(drafted[:WRONG]) > 0
    [warning] = warnings
    assert "'odd'" in warning.getMessage()


@pytest.mark.parametrize("wrong", TREES)
def test_a_wrong_tree_costs_its_request_the_draft(
    wrong: str, plain: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    drafter = Odd(TREES[wrong])
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(small_engine(drafter), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    only_one_lost_its_drafts(drafter, requests, caplog.records)


@pytest.mark.parametrize("wrong", QS)
def test_a_wrong_q_costs_its_request_the_draft(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    """The request without drafts is plain decoding under its rule; the others keep their text."""
    drafter = Odd(QS[wrong], deterministic=False)
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(small_engine(drafter, "token"), PROMPTS, WARM)
    same = run(small_engine(Odd(lambda r: DraftTree(), deterministic=False), "token"), PROMPTS, WARM)
    assert outputs(requests) == outputs(same)
    only_one_lost_its_drafts(drafter, requests, caplog.records)


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: DraftTree.chain(np.array(ids)),
        lambda ids: DraftTree.chain(torch.tensor(ids)),
        lambda ids: changed(DraftTree.chain(ids), tokens=list(ids), parents=[-1, 0]),
        lambda ids: DraftTree(tuple(ids), (np.int32(-1), np.uint8(0)), kinds=(np.int64(2), 1)),  # type: ignore[arg-type]
    ],
    ids=["numpy", "tensors", "lists", "numpy parents"],
)
def test_integers_of_other_types_are_understood(make: Callable[[list[int]], DraftTree], plain: list[list[int]]) -> None:
    text = PROMPTS[WRONG] + plain[WRONG]
    drafter = Odd(lambda r: make(text[len(r.tokens) : len(r.tokens) + 2]) if r.max_depth > 1 else DraftTree())
    engine = small_engine(drafter)
    requests = run(engine, PROMPTS, replace(GREEDY, max_tokens=15))
    assert outputs(requests) == [tokens[:15] for tokens in plain]
    assert engine.drafting.faults == {}
    assert requests[WRONG].stats.acceptance_rate == 1.0
    assert all(type(token) is int for token in requests[WRONG].tokens)


def test_a_q_that_wants_gradients_is_taken_without_them() -> None:
    q = UNIFORM.clone().requires_grad_()
    drafter = Odd(lambda r: DraftTree.chain([1], q), deterministic=False)
    engine = small_engine(drafter, "token")
    requests = run(engine, PROMPTS, WARM)
    assert engine.drafting.faults == {}
    assert requests[WRONG].stats.drafted_tokens > 0


class Panic(BaseException):
    """As a panic in Rust code reaches Python."""


class Whole(NonsenseDrafter):
    """Returns for all requests together what a function of the right trees says."""

    name = "odd"

    def __init__(self, returned: Callable[[list[DraftTree]], Any]) -> None:
        super().__init__()
        self.returned = returned

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        returned: list[DraftTree] = self.returned(super().propose(requests))
        return returned


def panics(trees: list[DraftTree]) -> None:
    raise Panic("a bug below")


@pytest.mark.parametrize(
    "returned",
    [
        lambda trees: None,
        lambda trees: iter(trees),
        lambda trees: (tree for tree in trees),
        lambda trees: dict(enumerate(trees)),
        lambda trees: trees[0],
        lambda trees: trees[:-1],
        lambda trees: [*trees, trees[0]],
        lambda trees: [],
        lambda trees: 10**9,
        panics,
    ],
    ids=["None", "iterator", "generator", "dict", "tree", "too few", "too many", "none", "number", "panic"],
)
def test_what_is_no_list_of_trees_costs_everyone_the_draft(
    returned: Callable[[list[DraftTree]], Any], plain: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(small_engine(Whole(returned)), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert len(caplog.records) == 1
    assert sum(request.stats.drafted_tokens for request in requests) == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_is_no_fault(stop: type[BaseException]) -> None:
    def raises(trees: list[DraftTree]) -> None:
        raise stop

    with pytest.raises(stop):
        run(small_engine(Whole(raises)), PROMPTS, GREEDY)


class Meddler(NonsenseDrafter):
    """Writes to whatever it is shown, and keeps it."""

    name = "meddler"

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.refused = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        for meddle in (
            lambda: requests.pop(),  # type: ignore[attr-defined]
            lambda: requests[0].tokens.append(1),  # type: ignore[attr-defined]
            lambda: requests[0].tokens.reverse(),  # type: ignore[attr-defined]
            lambda: requests[0].transform.append([1]),  # type: ignore[union-attr]
        ):
            self.attempt(meddle)
        if requests[0].transform.constraint is not None:
            requests[0].transform.constraint.advance(1)
        self.kept.extend(requests)
        return trees

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.attempt(lambda outcome=outcome: outcome.tokens.clear())
            self.attempt(lambda outcome=outcome: outcome.tail.clear())

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        self.attempt(lambda: tokens.clear())  # type: ignore[attr-defined]

    def attempt(self, meddle: Callable[[], object]) -> None:
        try:
            meddle()
        except (AttributeError, TypeError):
            self.refused += 1


@pytest.mark.parametrize("constraint", [None, Choices([[1, 2, 3, 4] * 6, [7, 8, 9, 7] * 6], [0], V)])
def test_a_drafter_reads_and_cannot_write(constraint: Choices | None) -> None:
    params = replace(GREEDY, repetition_penalty=1.4, presence_penalty=0.3, constraint=constraint)
    want = outputs(run(small_engine(NonsenseDrafter()), PROMPTS, replace(params, num_draft_tokens=0)))
    drafter = Meddler()
    requests = run(small_engine(drafter), PROMPTS, params)
    assert outputs(requests) == want
    assert drafter.refused > 50
    assert [len(request.prompt) for request in requests] == list(map(len, PROMPTS))


class Growing(NonsenseDrafter):
    """Says something else of its size once it runs."""

    name = "growing"

    def __init__(self, says: Callable[[Growing], None]) -> None:
        super().__init__(num_draft_tokens=3)
        self.says = says

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        self.says(self)
        return [
            DraftTree(tuple(range(20)), (-1,) * 20) if r.tokens[0] == 60 else DraftTree.chain([1]) for r in requests
        ]


def test_a_drafter_that_grows_after_the_start_gets_no_more_room(plain: list[list[int]]) -> None:
    def longer(drafter: Growing) -> None:
        drafter.shape = TreeShape.fork(30, 9)

    def raises(drafter: Growing) -> None:
        drafter.max_nodes = lambda depth: 1 / 0  # type: ignore[method-assign, assignment, return-value]

    for says in (longer, raises):
        engine = small_engine(Growing(says), max_batch_tokens=12, max_num_seqs=3)
        requests = run(engine, PROMPTS, GREEDY)
        assert outputs(requests) == plain
        assert "20 nodes of depth 1; asked for were at most 3" in engine.drafting.faults["growing"]
        assert [request.stats.drafted_tokens > 0 for request in requests] == [True, True, False]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"max_nodes": lambda depth: 1 / 0}, r"Cannot learn max_nodes\(0\) of drafter 'nonsense'.*division"),
        ({"max_nodes": lambda depth: -1}, r"max_nodes\(0\) of drafter 'nonsense' = -1 cannot work"),
        ({"max_nodes": lambda depth: 2.5}, r"max_nodes\(0\) of drafter 'nonsense' = 2.5 cannot work"),
        ({"max_nodes": lambda depth: 10**9}, r"from 0 to 65536"),
        ({"max_nodes": lambda depth: None}, r"= None cannot work"),
    ],
    ids=["raises", "negative", "float", "absurd", "None"],
)
def test_bounds_that_are_no_bounds_are_refused_at_the_start(stated: dict[str, Any], message: str) -> None:
    drafter = NonsenseDrafter()
    vars(drafter).update(stated)
    with pytest.raises(ConfigError, match=message):
        small_engine(drafter)


class OddPolicy(Policy):
    """Answers one of the questions as it is told, and the others as a policy should."""

    name = "odd"

    def __init__(self, **answers: Callable[[Any], Any]) -> None:
        self.answers = answers
        self.asked = 0

    def _answer(self, question: str, right: Any) -> Any:
        if question not in self.answers:
            return right
        self.asked += 1
        return self.answers[question](right)

    def prepare(self, model: object) -> None:
        self._answer("prepare", None)

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        right = [[Choice(ask.candidates[0].drafter, ask.candidates[0].depth)] for ask in asks]
        answer: list[list[Choice]] = self._answer("choose", right)
        return answer

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Choice | None]:
        answer: list[Pick | Choice | None] = self._answer("pick", super().pick(drafted, load))
        return answer

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        self._answer("observe", None)

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        self._answer("drafted", None)

    def timed(self, load: Load, seconds: float) -> None:
        self._answer("timed", None)

    def end(self, request_id: int) -> None:
        self._answer("end", None)


def broken(right: object) -> None:
    raise ZeroDivisionError("no answer")


def each(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Changes every request's answer, which stands alone in a list where the policy chooses."""
    return lambda right: [[change(one[0])] if isinstance(one, list) else change(one) for one in right]


ANSWERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "an unknown drafter": {"choose": each(lambda one: Choice("who", 1))},
    "deeper than there is": {"choose": each(lambda one: Choice(one.drafter, one.depth + 1))},
    "a negative depth": {"choose": each(lambda one: Choice(one.drafter, -1))},
    "NaN as depth": {"choose": each(lambda one: Choice(one.drafter, float("nan")))},  # type: ignore[arg-type]
    "a bool as depth": {"choose": each(lambda one: Choice(one.drafter, True))},
    "a larger shape": {"choose": each(lambda one: Choice(one.drafter, one.depth, TreeShape.fork(9, one.depth)))},
    "a deeper shape": {"choose": each(lambda one: Choice(one.drafter, 1, TreeShape.chain(2)))},
    "parents for a shape": {"choose": each(lambda one: Choice(one.drafter, one.depth, (-1, 0)))},  # type: ignore[arg-type]
    "no choice": {"choose": lambda right: None},
    "a choice too few": {"choose": lambda right: right[1:]},
    "a choice too many": {"choose": lambda right: [*right, right[0]]},
    "choices without lists": {"choose": lambda right: [one[0] for one in right]},
    "the same drafter twice": {"choose": lambda right: [one * 2 for one in right]},
    "pairs": {"choose": each(lambda one: (one.drafter, one.depth))},
    "choose raises": {"choose": broken},
    "NaN as node": {"pick": each(lambda one: Pick(one.drafter, (float("nan"),)))},  # type: ignore[arg-type]
    "a node below 0": {"pick": each(lambda one: Pick(one.drafter, (-1, 0)))},
    "a node that is not there": {"pick": each(lambda one: Pick(one.drafter, (*one.nodes, len(one.nodes))))},
    "a child without its parent": {"pick": each(lambda one: Pick(one.drafter, (99,)))},
    "a node twice": {"pick": each(lambda one: Pick(one.drafter, (0, 0)))},
    "a number of nodes": {"pick": each(lambda one: Pick(one.drafter, 2))},  # type: ignore[arg-type]
    "nodes of nobody": {"pick": each(lambda one: Pick("who", one.nodes))},
    "a draft that was there": {"pick": each(lambda one: Choice(one.drafter, 1))},
    "words": {"pick": each(lambda one: "all of it")},
    "a draft that nobody drafted": {"pick": each(lambda one: Draft(one.drafter, DraftTree.chain([V + 1])))},
    "a draft without nodes": {"pick": each(lambda one: Draft(one.drafter, DraftTree()))},
    "tokens for a draft": {"pick": each(lambda one: Draft(one.drafter, [1]))},  # type: ignore[arg-type]
    "a draft of nobody": {"pick": each(lambda one: Draft(None, DraftTree.chain([0])))},  # type: ignore[arg-type]
    "a pick too few": {"pick": lambda right: right[1:]},
    "pick raises": {"pick": broken},
}
TELLING = ("prepare", "observe", "timed", "end")


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_policy_that_is_wrong_costs_drafts(
    answer: str, plain: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    policy = OddPolicy(**ANSWERS[answer])
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(small_engine(NonsenseDrafter(), policy=policy), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert policy.asked > 5
    assert sum(request.stats.drafted_tokens for request in requests) == 0
    [warning] = caplog.records
    assert "Policy odd" in warning.getMessage()


@pytest.mark.parametrize("question", TELLING)
def test_a_policy_that_cannot_be_told_anything_harms_nobody(
    question: str, plain: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    policy = OddPolicy(**{question: broken})
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(small_engine(NonsenseDrafter(), policy=policy), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert policy.asked > 0
    assert len(caplog.records) == 1
    assert sum(request.stats.drafted_tokens for request in requests) > 0


def test_one_wrong_choice_costs_one_request_its_draft(plain: list[list[int]]) -> None:
    def last_is_wrong(right: list[list[Choice]]) -> list[object]:
        return [*right[:-1], "full depth"]

    requests = run(small_engine(NonsenseDrafter(), policy=OddPolicy(choose=last_is_wrong)), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert requests[0].stats.drafted_tokens > 0
    assert requests[2].stats.drafted_tokens == 0


def test_a_numpy_depth_is_a_depth(plain: list[list[int]]) -> None:
    policy = OddPolicy(choose=each(lambda one: Choice(one.drafter, np.int64(one.depth))))
    engine = small_engine(NonsenseDrafter(), policy=policy)
    requests = run(engine, PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert engine.drafting.faults == {}
    assert requests[0].stats.drafted_tokens > 0


def test_a_drafter_that_calls_its_engine_is_refused(plain: list[list[int]]) -> None:
    class Reentrant(NonsenseDrafter):
        name = "reentrant"
        engine: Any = None

        def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
            if len(requests) == 1:
                self.engine.abort(requests[0])
            self.engine.step()
            return []

    drafter = Reentrant()
    engine = drafter.engine = small_engine(drafter)
    requests = run(engine, PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert "in the middle of a step" in engine.drafting.faults["reentrant"]
