"""The conformance suite passes every drafter of the package, and fails those that break a promise, naming it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from specdec import Drafter, DraftRequest, DraftTree, Outcome
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.layer_skip import LayerSkipDrafter
from specdec.drafters.lookahead import LookaheadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.quantized_self import QuantizedSelfDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.retrieval import RetrievalDrafter
from specdec.drafters.slem import SlemDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.drafters.tli import TliDrafter
from specdec.models.base import CausalLM
from specdec.registry import DRAFTERS
from specdec.stores import Store, Vocabulary
from specdec.testing import OracleDrafter, PoisonDrafter, check_drafter
from specdec.testing.checks import CHECKS
from specdec.testing.conformance import Scene
from specdec.testing.tiny import llama
from tests.blockheads import random_head
from tests.engines import ForetoldDrafter
from tests.medusaheads import random_medusa
from tests.othertokenizers import other_tokenizer
from tests.pairheads import random_pairs

pytestmark = pytest.mark.fewer(2)

MAKERS: dict[str, Callable[[CausalLM], Drafter]] = {
    "none": lambda target: NoDrafter(),
    "ngram": lambda target: NgramDrafter(num_draft_tokens=4),
    "ngram, tree": lambda target: NgramDrafter(num_draft_tokens=3, branches=3),
    "model": lambda target: ModelDrafter(llama(7, vocab_size=target.vocab_size), num_draft_tokens=3),
    "model, tree": lambda target: ModelDrafter(
        llama(7, vocab_size=target.vocab_size), choices=[[0, 0, 0], [0, 1], [1, 0]]
    ),
    "tli": lambda target: other_tokenizer(TliDrafter, target, num_draft_tokens=3),
    "tli, tree": lambda target: other_tokenizer(TliDrafter, target, choices=[[0, 0, 0], [0, 1], [1, 0]]),
    "slem": lambda target: other_tokenizer(SlemDrafter, target, num_draft_tokens=4),
    "early_exit": lambda target: EarlyExitDrafter(num_draft_tokens=3, num_layers=1),
    "early_exit, tree": lambda target: EarlyExitDrafter(num_layers=1, choices=[[0, 0], [1]]),
    "model, stops": lambda target: ModelDrafter(
        llama(7, vocab_size=target.vocab_size), num_draft_tokens=3, stop="survival"
    ),
    "early_exit, tree that stops": lambda target: EarlyExitDrafter(
        num_layers=1, choices=[[0, 0], [1, 0]], stop="entropy", stop_below=0.1
    ),
    "prediction": ForetoldDrafter,
    "lookahead": lambda target: LookaheadDrafter(),
    "layer_skip": lambda target: LayerSkipDrafter(skip_attention=[1], skip_mlp=[0]),
    "head": lambda target: HeadDrafter(random_head(target)),
    "head, draws a tree": lambda target: HeadDrafter(random_head(target), choices=[[0, 0, 0], [0, 1], [1, 0]]),
    # Equal products of the table's chances, below a head in torch, are ordered by that head's last bits.
    # With this floor no such pair is drafted.
    "head, extended by a table": lambda target: CascadeDrafter(
        [HeadDrafter(random_head(target), floor=0.03), SuffixDrafter(shared=False, floor=0.0)]
    ),
    "head, token by token": lambda target: HeadDrafter(random_pairs(target), 4, deepen=0.0),
    "head, token by token, draws a tree": lambda target: HeadDrafter(
        random_pairs(target, "mtp"), choices=[[0, 0, 0], [0, 1], [1, 0]]
    ),
    "head, Medusa": lambda target: HeadDrafter(random_medusa(target)),
    "head, Medusa, draws a tree": lambda target: HeadDrafter(random_medusa(target), choices=[[0, 0, 0], [0, 1], [1]]),
    "suffix": lambda target: SuffixDrafter(),
    "suffix, tree of its own text": lambda target: SuffixDrafter(shared=False, floor=0.0),
    "recycling": lambda target: RecyclingDrafter(contexts=1 << 8, first=False),
    "recycling, tree of its own text": lambda target: RecyclingDrafter(contexts=1 << 8, first=False, shared=False),
    "retrieval": lambda target: RetrievalDrafter(
        Store.of([[1, 2, 3, 1, 2, 4]], Vocabulary.of(target.vocab_size, None))
    ),
    "cascade": lambda target: CascadeDrafter(
        [SuffixDrafter(floor=0.0), RecyclingDrafter(contexts=1 << 8, first=False)], max_nodes=8
    ),
    "cascade, tree of a model's": lambda target: CascadeDrafter(
        [EarlyExitDrafter(num_draft_tokens=2, num_layers=1), SuffixDrafter(shared=False, floor=0.0)]
    ),
    "early_exit, tree that follows it": lambda target: EarlyExitDrafter(3, 1, branches=2, dynamic=True),
    "quantized_self": lambda target: QuantizedSelfDrafter(3),
    "quantized_self, tree that stops": lambda target: QuantizedSelfDrafter(
        choices=[[0, 0], [1, 0]], stop="survival", stop_below=0.2
    ),
    "oracle": lambda target: OracleDrafter(),
    "poison": lambda target: PoisonDrafter(),
}


def test_every_drafter_of_the_package_is_here() -> None:
    assert set(DRAFTERS.names()) <= {name.partition(",")[0] for name in MAKERS}


WHOLE = ("ngram", "head")
"""These are checked with all samples and steps: one without a model, and one over the target."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_it_keeps_to_its_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_drafter(MAKERS[name], seeds=(1,), quick=name not in WHOLE)
    assert capsys.readouterr().out.count("passed") == len(CHECKS)


@pytest.mark.parametrize("name", ["ngram", "head"])
def test_it_keeps_to_its_contract_in_short(name: str) -> None:
    check_drafter(MAKERS[name], seeds=(0,), quick=True)


class Lying(ModelDrafter):
    """Says that its tokens came from the uniform distribution."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        return [
            DraftTree(t.tokens, t.parents, None if t.q is None else torch.full_like(t.q, 1 / t.q.shape[-1]))
            for t in trees
        ]


class Raising(NgramDrafter):
    """Cannot draft for long texts."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        if any(len(request.tokens) > 20 for request in requests):
            raise IndexError("too long")
        return super().propose(requests)


class Crowding(PoisonDrafter):
    """Its drafts depend on who shares the batch."""

    deterministic = False  # so that a rule judges it whose text depends on the draft

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        size = requests[0].transform.vocab_size
        q = torch.full((1, size), 1 / size)
        return [DraftTree.chain([(len(requests) * 7 + len(r.tokens)) % size], q) for r in requests]


class Hoarding(NgramDrafter):
    """Never lets go of a text."""

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        pass


class Stale(ModelDrafter):
    """Believes that its entries outlive the place in the cache."""

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        super().observe(outcomes)
        cache, pool = self._cache, self._pool
        assert cache is not None
        assert pool is not None
        for outcome in outcomes:
            cache.fill(outcome.request_id, pool, cache.length(outcome.request_id))


class Unaware(ModelDrafter):
    """Draws from its own softmax, whatever the request bans."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = []
        for request in requests:
            q = torch.ones(1, request.transform.vocab_size) / request.transform.vocab_size
            trees.append(DraftTree.chain([len(request.tokens) % request.transform.vocab_size], q))
        return trees


BROKEN: dict[str, tuple[Callable[[CausalLM], Drafter], str]] = {
    "lies about q": (
        lambda t: Lying(llama(7, vocab_size=t.vocab_size), 2), "texts follow the target's law under every rule"),
    "raises": (lambda t: Raising(4), "greedy texts are plain decoding's"),
    "looks at its neighbours": (lambda t: Crowding(branches=1), "a batch gives what single requests give"),
    "hoards": (lambda t: Hoarding(4), "memory"),
    "trusts stale entries": (
        lambda t: Stale(llama(7, vocab_size=t.vocab_size), 3), "preemption and prompts in pieces"),
    "ignores bans": (lambda t: Unaware(llama(7, vocab_size=t.vocab_size), 1), "penalties, bias and bans"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found_and_named(name: str) -> None:
    make, check = BROKEN[name]
    with pytest.raises(AssertionError):
        CHECKS[check](Scene(make, llama(0), 0), True)


def test_what_failed_is_printed_with_its_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import specdec.testing.checks as checks

    chosen = ("greedy texts are plain decoding's", "memory")
    monkeypatch.setattr(checks, "CHECKS", {check: CHECKS[check] for check in chosen})
    with pytest.raises(AssertionError, match="1 of 2 checks failed"):
        check_drafter(lambda target: Hoarding(4), seeds=(3,))
    printed = capsys.readouterr().out
    assert "passed  greedy texts are plain decoding's" in printed
    assert "FAILED  memory (seed 3): AssertionError: things held after 6, 12 and 18 requests" in printed
