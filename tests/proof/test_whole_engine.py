"""Drafter, verifier, next step and cache together: the text follows the target's joint law.

The law is the plain module's, in float64, over all texts. Each text of the engine, one per seed, is a sample; the
sequential tests of the text's beginnings reject together, if the law is true, with probability at most 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from specdec import Drafter, DraftRequest, DraftTree, Engine, EngineConfig, SamplingParams
from specdec.cache.paged import PagedCache
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.proof.evidence import Evidence
from specdec.verify.base import Rule
from tests.engines import run
from tests.fewer import every
from tests.mutants import BonusFromTheWrongRow, ResidualFromTarget
from tests.tiny import llama, llama_module

pytestmark = pytest.mark.fewer(3)

Text = tuple[int, ...]
V, LENGTH, SAMPLES = 4, 4, 1500
ERROR_RATE = 1e-6
SIZES = {"vocab_size": V, "hidden_size": 16, "max_context": 64, "scale": 0.5}
PROMPT = [1, 2, 0, 1, 2]
PLAIN = SamplingParams(temperature=1.0, max_tokens=LENGTH)
STOPS = {"entropy": 0.7024, "survival": 0.65}
"""Bounds that some branches of the draft model below fall under, and others do not."""
COLD_TOP_3 = replace(PLAIN, temperature=0.7, top_k=3)


class LyingDrafter(ModelDrafter):
    """Says that its tokens came from the uniform distribution."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        return [replace(tree, q=None if tree.q is None else torch.full_like(tree.q, 1 / V)) for tree in trees]


def chain() -> Drafter:
    return ModelDrafter(llama(25, num_layers=1, **SIZES), num_draft_tokens=2)


def tree(branches: int = 2) -> Drafter:
    return ModelDrafter(llama(25, num_layers=1, **SIZES), num_draft_tokens=2, branches=branches)


def padded(width: int, branches: int) -> Drafter:
    """A draft whose head has another width than the target's."""
    sizes = SIZES | {"vocab_size": width}
    return ModelDrafter(llama(25, num_layers=1, **sizes), num_draft_tokens=2, branches=branches)


def ngram() -> Drafter:
    return NgramDrafter(num_draft_tokens=2, min_match=1)


def early_exit() -> Drafter:
    return EarlyExitDrafter(num_draft_tokens=2, num_layers=1)


def lying() -> Drafter:
    return LyingDrafter(llama(25, num_layers=1, **SIZES), num_draft_tokens=2)


def stopping(stop: str, branches: int = 1) -> Callable[[], Drafter]:
    """A draft that ends early about half of the time."""

    def make() -> Drafter:
        return ModelDrafter(llama(25, num_layers=1, **SIZES), 3, branches, stop=stop, stop_below=STOPS[stop])

    make.__name__ = f"stops by {stop}"
    return make


class DropsTheDoubtful(ModelDrafter):
    """Stops before the token that was just drawn is kept, since it is doubtful itself."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        return [
            tree.truncated(next((node for node, x in enumerate(tree.tokens) if tree.q[node, x] < 0.3), len(tree)))
            for tree in trees
            if tree.q is not None
        ]


def doubtful() -> Drafter:
    return DropsTheDoubtful(llama(25, num_layers=1, **SIZES), num_draft_tokens=2)


def transformed(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Temperature, then top-k, on one row."""
    logits = logits / params.temperature
    if params.top_k:
        logits = np.where(logits >= np.sort(logits)[-params.top_k], logits, -np.inf)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


@cache
def exact_law(params: SamplingParams) -> dict[Text, float]:
    """Every text → its probability, from the whole text's logits in one plain pass."""
    texts = list(product(range(V), repeat=LENGTH))
    module = llama_module(2, **SIZES).double()
    with torch.no_grad():
        logits = module(torch.tensor([[*PROMPT, *text] for text in texts])).logits.numpy()[:, len(PROMPT) - 1 :]
    assert logits.dtype == np.float64
    return {
        text: float(np.prod([transformed(row, params)[token] for row, token in zip(rows[:-1], text, strict=True)]))
        for text, rows in zip(texts, logits, strict=True)
    }


def sampled_texts(drafter: Drafter, rule: str | Rule, params: SamplingParams) -> tuple[list[Text], float]:
    """One text per seed, and the share of drafted tokens that were accepted."""
    config = EngineConfig(block_size=4, num_blocks=1024, max_batch_tokens=1024, max_num_seqs=64)
    engine = Engine(llama(2, **SIZES), drafter, rule, config)
    requests = run(engine, [PROMPT] * SAMPLES, [replace(params, seed=seed) for seed in range(SAMPLES)])
    drafted = sum(request.stats.drafted_tokens for request in requests)
    accepted = sum(request.stats.accepted_tokens for request in requests)
    return [tuple(request.output) for request in requests], accepted / max(drafted, 1)


def rejected(texts: list[Text], law: dict[Text, float]) -> bool:
    """Whether the first 1, 2, … tokens do not follow the law; each length has its share of the error rate."""
    found = False
    for length in range(1, LENGTH + 1):
        beginnings: dict[object, float] = {}
        for text, probability in law.items():
            beginnings[text[:length]] = beginnings.get(text[:length], 0.0) + probability
        evidence = Evidence(beginnings)
        for text in texts:
            evidence.add(text[:length])
        found |= evidence.rejects(ERROR_RATE / LENGTH)
    return found


@pytest.mark.parametrize(
    ("rule", "drafter", "params"),
    [
        ("auto", NoDrafter, PLAIN),
        *((rule, chain, PLAIN) for rule in ("token", "block", "gumbel")),
        *every(4, ((rule, tree, PLAIN) for rule in ("multiround", "kseq", "traversal", "hsd"))),
        pytest.param("rrs", tree, PLAIN, marks=pytest.mark.slow),
        *((rule, ngram, PLAIN) for rule in ("gumbel", "token")),
        ("block", early_exit, PLAIN),
        *((rule, tree, COLD_TOP_3) for rule in ("rrs", "gumbel")),
        pytest.param("token", ngram, COLD_TOP_3, marks=pytest.mark.slow),
        pytest.param("token", stopping("entropy"), PLAIN, marks=pytest.mark.slow),
        pytest.param("block", stopping("survival"), PLAIN, marks=pytest.mark.slow),
        ("traversal", stopping("survival", branches=2), PLAIN),
    ],
    ids=lambda value: (
        f"top-k {value.top_k}" if isinstance(value, SamplingParams) else getattr(value, "__name__", value)
    ),
)
def test_texts_follow_the_targets_joint_law(rule: str, drafter: Callable[[], Drafter], params: SamplingParams) -> None:
    law = exact_law(params)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    texts, acceptance_rate = sampled_texts(drafter(), rule, params)
    assert not rejected(texts, law)
    assert drafter is NoDrafter or 0.1 < acceptance_rate < 0.95  # the rule had something to decide, either way


@pytest.mark.parametrize("width", every(2, [V - 1, V + 2]), ids=["a narrower head", "a wider head"])
@pytest.mark.parametrize(
    "rule",
    [
        *("token", "rrs"),
        *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("block", "gumbel", "multiround", "kseq")),
        *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("traversal", "hsd")),
    ],
)
def test_a_draft_of_another_width_changes_no_law(rule: str, width: int) -> None:
    """Texts hold tokens that the narrower draft has no row for, and the wider one has rows that no text holds."""
    chains = ("token", "block", "gumbel")
    texts, acceptance_rate = sampled_texts(padded(width, 1 if rule in chains else 2), rule, PLAIN)
    assert not rejected(texts, exact_law(PLAIN))
    assert any(V - 1 in text for text in texts)
    assert 0.04 < acceptance_rate < 0.95


@pytest.mark.parametrize(
    ("rule", "drafter"),
    [
        ("token", lying),
        ("token", doubtful),
        (ResidualFromTarget(), chain),
        (BonusFromTheWrongRow(), tree),
    ],
    ids=["lies about q", "drops the doubtful", "residual from p", "bonus from the wrong row"],
)
def test_texts_of_a_broken_part_are_rejected(rule: str | Rule, drafter: Callable[[], Drafter]) -> None:
    texts, _ = sampled_texts(drafter(), rule, PLAIN)
    assert rejected(texts, exact_law(PLAIN))


def test_texts_of_a_cache_that_keeps_the_wrong_rows_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = PagedCache.commit_path
    monkeypatch.setattr(PagedCache, "commit_path", lambda self, seq, path: keep(self, seq, range(len(path))))
    texts, _ = sampled_texts(tree(branches=3), "traversal", PLAIN)
    assert rejected(texts, exact_law(PLAIN))
