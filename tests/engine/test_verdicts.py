"""A rule, a constraint or a tokenizer that goes wrong ends its own request, with an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec import BatchError, ConfigError, NumericalError, SamplingParams, SpecdecError, SpeculativeGenerator
from specdec.engine import verdicts
from specdec.engine.drafting import Proposal
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.verdicts import Decoded, checked, decide
from specdec.models.base import PassOutput, RowMaxima
from specdec.models.loading import LoadedModel
from specdec.randomness import RandomSource
from specdec.sampling import Constraint, LogitsTransform
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.device import kernel_of
from specdec.verify.greedy import GreedyRule
from specdec.verify.gumbel import GumbelRule
from specdec.verify.tree import ROOT, DraftTree
from tests.engines import DRAFTERS, add, drain, outputs, run, small_engine
from tests.tiny import VOCAB_SIZE as V
from tests.tiny import llama

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], [60, 3, 9, 60, 3, 9, 60, 3]]
WARM = [SamplingParams(max_tokens=16, temperature=1.0, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return outputs(run(small_engine(DRAFTERS["none"](), "gumbel"), PROMPTS, WARM))


class OddRule(GumbelRule):
    """Says something else in the fourth step of the request whose seed is 2."""

    name = "odd"

    def __init__(self, says: Callable[[DraftTree, Verdict], Any]) -> None:
        self.says = says
        self.asked = 0

    def accept(self, trees: Sequence[DraftTree], scores: Sequence[Tensor], keys: Sequence[StepKey]) -> list[Verdict]:
        verdicts = super().accept(trees, scores, keys)
        self.asked += keys[0].random.seed == 2
        if keys[0].random.seed == 2 and self.asked == 4:
            said: list[Verdict] = self.says(trees[0], verdicts[0])
            return said
        return verdicts


def raises(tree: DraftTree, verdict: Verdict) -> None:
    raise IndexError("beyond the tree")


class Panic(BaseException):
    """As a panic in Rust code reaches Python."""


def panics(tree: DraftTree, verdict: Verdict) -> None:
    raise Panic("a bug below")


SAYINGS: dict[str, Callable[[DraftTree, Verdict], Any]] = {
    "no path of the tree": lambda tree, verdict: [Verdict((1, 0), 3)],
    "not from the root": lambda tree, verdict: [Verdict((1,), 3)],
    "a node that is not there": lambda tree, verdict: [Verdict((0, 1, 2, 3, 4, 5, 6), 3)],
    "a node twice": lambda tree, verdict: [Verdict((0, 0), 3)],
    "a node from the end": lambda tree, verdict: [Verdict((-1,), 3)],
    "a node that is a float": lambda tree, verdict: [Verdict((0.0,), 3)],  # type: ignore[arg-type]
    "no path at all": lambda tree, verdict: [Verdict(None, 3)],  # type: ignore[arg-type]
    "a token beyond the vocabulary": lambda tree, verdict: [Verdict((), V)],
    "a token below it": lambda tree, verdict: [Verdict((), -1)],
    "a token that is a float": lambda tree, verdict: [Verdict((), 3.0)],  # type: ignore[arg-type]
    "a token that is a bool": lambda tree, verdict: [Verdict((), True)],
    "no token": lambda tree, verdict: [Verdict((), None)],  # type: ignore[arg-type]
    "two verdicts": lambda tree, verdict: [verdict, verdict],
    "no verdict": lambda tree, verdict: [],
    "None": lambda tree, verdict: None,
    "a pair": lambda tree, verdict: [((), 3)],
    "an error": raises,
    "a panic": panics,
}


TOKEN, LIST = f"which is not a token id below {V}", "for one draft; give a list of one Verdict"
SAID_OF = {
    "a token beyond the vocabulary": TOKEN,
    "a token below it": TOKEN,
    "a token that is a float": TOKEN,
    "a token that is a bool": TOKEN,
    "no token": TOKEN,
    "two verdicts": LIST,
    "no verdict": LIST,
    "None": LIST,
    "a pair": "gives ((), 3); give a Verdict",
    "no path at all": "TypeError",
    "an error": "IndexError: beyond the tree",
    "a panic": "Panic: a bug below",
}


@pytest.mark.parametrize("saying", SAYINGS)
def test_a_rule_that_is_wrong_ends_its_request(saying: str, plain: list[list[int]]) -> None:
    rule = OddRule(SAYINGS[saying])
    requests = run(small_engine(DRAFTERS["ngram"](), rule), PROMPTS, WARM)  # type: ignore[arg-type]
    assert rule.asked == 4
    assert outputs(requests)[:2] == plain[:2]
    bad = requests[2]
    assert (bad.finish_reason, type(bad.error)) == ("error", SpecdecError)
    assert SAID_OF.get(saying, "which is not a path from the root of a draft") in str(bad.error)
    assert "rule 'odd'" in str(bad.error).lower()
    assert bad.output == plain[2][: len(bad.output)]
    assert 3 <= len(bad.output) < 16


def test_a_token_of_another_integer_type_is_understood(plain: list[list[int]]) -> None:
    rule = OddRule(lambda tree, verdict: [Verdict(verdict.path, torch.tensor(verdict.next_token))])  # type: ignore[arg-type]
    requests = run(small_engine(DRAFTERS["ngram"](), rule), PROMPTS, WARM)  # type: ignore[arg-type]
    assert outputs(requests) == plain
    assert {type(token) for request in requests for token in request.tokens} == {int}


class OddConstraint(Constraint):
    """Allows everything, and raises in one of its methods after some tokens."""

    def __init__(self, method: str, after: int, error: type[BaseException] = LookupError, written: int = 0) -> None:
        self.method, self.after, self.error, self.written = method, after, error, written

    def _maybe(self, method: str) -> None:
        if method == self.method and self.written >= self.after:
            raise self.error("no such state")

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        self._maybe("masks")
        return torch.ones(len(tokens) + 1, V, dtype=torch.bool)

    def advance(self, token: int) -> None:
        self._maybe("advance")
        self.written += 1

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        return []

    def fork(self) -> OddConstraint:
        return OddConstraint(self.method, self.after, self.error, self.written)


@pytest.mark.parametrize("error", [LookupError, Panic])
@pytest.mark.parametrize("drafter", ["none", "ngram", "model"])
@pytest.mark.parametrize("method", ["masks", "advance"])
def test_a_constraint_that_raises_ends_its_request(
    method: str, drafter: str, error: type[BaseException], plain: list[list[int]]
) -> None:
    constraint = OddConstraint(method, 5, error)
    params = [*WARM[:2], SamplingParams(max_tokens=16, temperature=1.0, seed=2, constraint=constraint)]
    requests = run(small_engine(DRAFTERS[drafter](), "gumbel"), PROMPTS, params)
    assert outputs(requests)[:2] == plain[:2]
    bad = requests[2]
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, SpecdecError)
    assert "no such state" in str(bad.error)
    assert isinstance(bad.error.__cause__, error)
    assert bad.output == plain[2][: len(bad.output)]
    assert 0 < len(bad.output) < 16


class Letters:
    """A tokenizer that cannot decode one token."""

    chat_template = None

    def __init__(self, bad: int, error: type[BaseException] = RuntimeError) -> None:
        self.bad, self.error = bad, error

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        if self.bad in ids:
            raise self.error("no letter")
        return "".join(chr(97 + token) for token in ids)


@pytest.mark.parametrize("error", [RuntimeError, Panic])
@pytest.mark.parametrize("drafter", ["none", "ngram", "ngram tree"])
def test_a_tokenizer_that_raises_ends_its_request(
    drafter: str, error: type[BaseException], plain: list[list[int]]
) -> None:
    """A token that one text alone has, in its middle."""
    others = {token for text in plain[:2] for token in text}
    place, bad = next((place, token) for place, token in enumerate(plain[2]) if place > 2 and token not in others)
    generator = SpeculativeGenerator(LoadedModel(llama(0), Letters(bad, error), ()), DRAFTERS[drafter](), "gumbel")
    generations = generator.generate(PROMPTS, WARM, on_error="return")
    assert [one.token_ids for one in generations[:2]] == plain[:2]
    assert [one.text for one in generations[:2]] == ["".join(chr(97 + t) for t in text) for text in plain[:2]]
    failed = generations[2]
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, SpecdecError)
    assert f"{error.__name__}: no letter" in str(failed.error)
    assert failed.token_ids == plain[2][: len(failed.token_ids)]
    assert len(failed.token_ids) <= place
    assert "".join(chr(97 + token) for token in plain[2]).startswith(failed.text)
    with pytest.raises(BatchError):
        generator.generate(PROMPTS, WARM)
    assert [one.token_ids for one in generator.generate(PROMPTS[:2], WARM[:2])] == plain[:2]
    generator.engine.cache.check_integrity()
    assert generator.engine.cache.num_free_blocks == generator.engine.cache.num_blocks


def test_a_request_whose_text_cannot_be_finished_can_still_be_aborted() -> None:
    engine = small_engine(DRAFTERS["none"]())
    request = add(engine, PROMPTS[0], WARM[0])
    engine.step()

    class Broken:
        stopped = False

        def append(self, token: int) -> str:
            return ""

        def finish(self) -> str:
            raise RuntimeError("no text")

    request.text = Broken()  # type: ignore[assignment]
    output = engine.abort(request)
    assert output is not None
    assert output.finish_reason == "aborted"
    drain(engine)


def test_a_text_that_cannot_be_finished_ends_with_an_error() -> None:
    """The limit is met, and the last piece of text cannot be told."""

    class AtTheEnd(Letters):
        calls = 0

        def decode(self, ids: Sequence[int], **_: bool) -> str:
            self.calls += 1
            if self.calls > 4:
                raise RuntimeError("no more")
            return super().decode(ids)

    engine = small_engine(DRAFTERS["none"]())
    engine._intake._tokenizer = AtTheEnd(-1)
    request = add(engine, PROMPTS[0], SamplingParams(max_tokens=2))
    drain(engine)
    assert (request.finish_reason, str(request.error)[:24]) == ("error", "The request ends here, s")


def test_errors_of_our_own_keep_their_words() -> None:
    banned = SamplingParams(max_tokens=4, bad_words=[[a, b] for a in range(V) for b in range(V) if a != 5])
    [request] = run(small_engine(DRAFTERS["none"]()), PROMPTS[:1], banned)
    assert "every token is banned" in str(request.error)


def test_what_a_constraint_says_in_our_own_words_is_said_once() -> None:
    """As the grammars do, which raise errors of ours."""

    class Grammar(OddConstraint):
        def advance(self, token: int) -> None:
            raise ConfigError("The grammar ends here.")

        def fork(self) -> Grammar:
            return Grammar(self.method, self.after, self.written)

    params = SamplingParams(max_tokens=4, constraint=Grammar("advance", 0))
    [request] = run(small_engine(DRAFTERS["none"]()), PROMPTS[:1], params)
    assert (type(request.error), str(request.error)) == (ConfigError, "The grammar ends here.")


TREE = DraftTree((4, 5, 6), (ROOT, ROOT, 1))


@pytest.mark.parametrize("path", [(), (0,), (1,), (1, 2)])
@pytest.mark.parametrize("token", [0, V - 1])
def test_a_verdict_that_can_be_is_taken_as_it_is(path: tuple[int, ...], token: int) -> None:
    verdict = Verdict(path, token)
    assert checked(verdict, TREE, V, GumbelRule()) is verdict


@pytest.mark.parametrize("path", [(2,), (0, 2), (0, 1), (1, 1), (3,), (1, 2, 3), (-1,), (1, -1), (True,), (1.0,)])
def test_a_path_that_the_tree_does_not_have_is_refused_by_name(path: tuple[int, ...]) -> None:
    with pytest.raises(SpecdecError, match=r"Rule 'gumbel' accepts the path .*with parents \(-1, -1, 1\)"):
        checked(Verdict(path, 3), TREE, V, GumbelRule())


@pytest.mark.parametrize("said", [((), 3), None, 3, [Verdict((), 3)]])
def test_what_is_no_verdict_is_refused_by_name(said: Any) -> None:
    with pytest.raises(SpecdecError, match=r"Rule 'gumbel' gives .*; give a Verdict"):
        checked(said, TREE, V, GumbelRule())


def decoded(rule: Rule, seed: int, rows: Tensor | PassOutput, tree: DraftTree = TREE, **settings: Any) -> Decoded:
    """A request of two tokens between its pass and its verdict."""
    params = SamplingParams(**settings)
    transform = LogitsTransform(params, [1, 2], V)
    request = Request(seed, [1, 2], params, rule, transform, RandomSource(seed), None, frozenset(), 20)
    output = PassOutput(rows) if isinstance(rows, Tensor) else rows
    return Decoded(Scheduled(request, [2], 2, True), Proposal(tree, "by hand"), output, output)


def noise(seed: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def only_maxima(rows: Tensor) -> PassOutput:
    return PassOutput(None, RowMaxima.of(rows))


def test_a_row_without_a_number_ends_its_request_alone_also_where_the_argmax_is_enough() -> None:
    """Greedy requests are judged by the maxima of their rows."""
    broken = noise(1)
    broken[2, 5] = torch.nan
    rule = GreedyRule()
    right, wrong = decoded(rule, 0, only_maxima(noise(0))), decoded(rule, 1, only_maxima(broken))
    assert right.request.by_argmax
    found = dict(decide([wrong, right], on_device=False))
    assert isinstance(found[wrong], NumericalError)
    best = noise(0).argmax(-1).tolist()
    assert found[right] == rule.accept_argmax(TREE, best)


class Device:
    """In the place of the kernels: what the rule says on the host, and which requests were asked for together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        monkeypatch.setattr(verdicts, "judge_batch", self.judge)

    def judge(
        self,
        rule: Rule,
        trees: Sequence[DraftTree],
        logits: Sequence[Tensor],
        transforms: Sequence[LogitsTransform],
        keys: Sequence[StepKey],
    ) -> list[Verdict]:
        self.asked.append([key.random.seed for key in keys])
        scores = [
            transform.scores(rows, [(), *map(tree.prefix, range(len(tree)))])
            for transform, rows, tree in zip(transforms, logits, trees, strict=True)
        ]
        return list(rule.accept(trees, scores, keys))


def test_the_device_judges_together_those_who_share_a_rule_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    warm, greedy = GumbelRule(), GreedyRule()
    items = [
        decoded(warm, 0, noise(0), temperature=1.0),
        decoded(greedy, 1, noise(1)),
        decoded(warm, 2, noise(2), temperature=0.7, top_k=9),
        decoded(greedy, 3, noise(3)),
    ]
    assert all(kernel_of(rule) for rule in (warm, greedy))
    host = dict(decide(items, on_device=False))
    assert device.asked == []
    assert dict(decide(items, on_device=True)) == host
    assert device.asked == [[0, 2], [1, 3]]


@pytest.mark.parametrize("why", ["a penalty", "only maxima", "no kernel", "a host"])
def test_the_host_judges_what_the_device_cannot(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    rule = OddRule(lambda tree, verdict: [verdict]) if why == "no kernel" else GreedyRule()
    other = {"presence_penalty": 1.0} if why == "a penalty" else {}
    rows = [only_maxima(noise(0)) if why == "only maxima" else noise(0), noise(1)]
    items = [decoded(rule, 0, rows[0]), decoded(rule, 1, rows[1], **other)]
    found = decide(items, on_device=why != "a host")
    assert device.asked == []
    assert [item for item, _ in found] == items
    assert all(isinstance(verdict, Verdict) for _, verdict in found)


class Only(Constraint):
    """Some tokens may come next, wherever; how often it was asked for whole masks is counted."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.asked = tuple(tokens), list[int]()

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        self.asked.append(len(tokens) + 1)
        rows = torch.zeros(len(tokens) + 1, V, dtype=torch.bool)
        rows[:, list(self.tokens)] = True
        return rows

    def allows(self, path: Sequence[int], token: int) -> bool:
        return token in self.tokens

    def advance(self, token: int) -> None: ...

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        return []

    def fork(self) -> Only:
        return self


def constrained(rule: Rule, rows: Tensor, tree: DraftTree, tokens: Sequence[int], **settings: Any) -> tuple[Any, Only]:
    """The decision where some tokens may come next, and the constraint."""
    only = Only(tokens)
    [(_, decision)] = decide([decoded(rule, 3, rows, tree, constraint=only, **settings)], on_device=False)
    return decision, only


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (GreedyRule(), {}),
        (GumbelRule(), {"temperature": 1.0}),
        (GumbelRule(), {"temperature": 0.7, "logit_bias": {3: 1.5}}),
        (GumbelRule(), {"temperature": 1.5, "top_k": 5}),
        (GumbelRule(), {"temperature": 1.0, "top_p": 0.6}),
        (GumbelRule(), {"temperature": 1.0, "min_p": 0.3}),
    ],
    ids=["greedy", "warm", "biased", "top-k", "top-p", "min-p"],
)
def test_a_verdict_under_a_constraint_is_that_over_masked_logits(
    rule: Rule, settings: dict[str, Any], seed: int
) -> None:
    """Rows of numbers drawn at random, of which a half may come next; drafts of any tokens, also forbidden ones."""
    rows, draw = noise(seed) * 2, torch.Generator().manual_seed(seed)
    tokens = torch.randperm(V, generator=draw)[: V // 2].tolist()
    winners = rows.argmax(1).tolist()
    tree = DraftTree((winners[0], tokens[0], winners[1]), (ROOT, ROOT, 0))
    masked = rows.clone()
    masked[:, [token for token in range(V) if token not in tokens]] = -torch.inf
    got, only = constrained(rule, rows, tree, tokens, **settings)
    [(_, wanted)] = decide([decoded(rule, 3, masked, tree, **settings)], on_device=False)
    assert got == wanted
    assert got.next_token in tokens
    if rows[0].argmax() in tokens and rule.by_argmax and not got.path:
        assert not only.asked


def test_only_rows_whose_winner_is_forbidden_get_a_mask() -> None:
    rows, tree = torch.zeros(4, V), DraftTree((7, 8, 9), (ROOT, 0, 1))
    rows[0, 7], rows[1, 8], rows[2, 5], rows[2, 6] = 9.0, 9.0, 9.0, 8.0
    decision, only = constrained(GreedyRule(), rows, tree, [6, 7, 8])
    assert decision == Verdict((0, 1), 6)
    assert only.asked == [3]  # one path of two tokens
    decision, only = constrained(GreedyRule(), rows, tree, [5, 6, 7, 8])
    assert decision == Verdict((0, 1), 5)
    assert not only.asked
