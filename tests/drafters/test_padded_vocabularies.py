"""A draft model whose head is narrower or wider than the target's: same tokens, padded to sizes of their own.

What it has no row for has no mass, what the target has no row for is never drafted, and every rule stays exact.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from specdec import ConfigError, SamplingParams, TargetHandle
from specdec.cache import PagedCache
from specdec.drafters.model import ModelDrafter
from specdec.models import loading
from specdec.models.transformers import TransformersModel
from specdec.proof.cases import table
from specdec.proof.exact import Setting, joint_law, target_law
from specdec.registry import RULES
from specdec.verify.rational import ZERO, Row, normalized
from specdec.verify.tree import DraftTree, TreeShape
from tests.drafting import draft_request
from tests.engines import outputs, run, small_engine
from tests.tiny import VOCAB_SIZE, llama, llama_module

NARROW, WIDE = VOCAB_SIZE - 16, VOCAB_SIZE + 16
WIDTHS = [NARROW, VOCAB_SIZE, WIDE]
PROMPTS = [[5, 17, 3, 40, 40, 9], [1], [2, 3] * 9, [60, 0, 63, 33]]
WARM = SamplingParams(temperature=0.7)
COUPLED = [name for name in RULES.names() if RULES.create(name).draft_invariant and name != "greedy"]
SAMPLING = [name for name in RULES.names() if RULES.create(name).needs_q and RULES.create(name).lossless]


def drafted(draft: ModelDrafter, tokens: list[int], params: SamplingParams, rule: str) -> DraftTree:
    """One draft, in a cache as an engine has it."""
    target = llama(seed=0)
    cache = PagedCache(target.kv_layout, 64, 4, draft.bind(TargetHandle(target)).pools)
    draft.attach(cache, cache.pools[1:])
    cache.add(0)
    cache.reserve(0, len(tokens) + draft.max_nodes(8))
    [tree] = draft.propose([draft_request(tokens, rule=rule, params=params)])
    return tree


def own_q(width: int, tokens: list[int], temperature: float) -> torch.Tensor:
    """The plain module's probabilities over the target's tokens: its own rows of those, and zeros."""
    with torch.no_grad():
        logits = llama_module(1, vocab_size=width)(torch.tensor([tokens])).logits[0, -1]
    shared = min(width, VOCAB_SIZE)
    q = torch.zeros(VOCAB_SIZE)
    q[:shared] = torch.softmax(logits[:shared] / temperature, -1)
    return q


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rule", ["token", "rrs"])
def test_q_is_the_drafts_own_over_the_tokens_that_both_have(width: int, rule: str) -> None:
    drafter, prompt = ModelDrafter(llama(seed=1, vocab_size=width), 3, branches=2), PROMPTS[0]
    tree = drafted(drafter, prompt, WARM, rule)
    assert tree.q is not None
    assert tree.q.shape[1] == VOCAB_SIZE
    torch.testing.assert_close(tree.q[0], own_q(width, prompt, 0.7), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tree.q.sum(-1), torch.ones(len(tree.q)))
    assert max(tree.tokens) < min(width, VOCAB_SIZE)


@pytest.mark.parametrize("branches", [1, 3])
def test_rows_that_only_the_draft_has_are_never_drafted(branches: int) -> None:
    """They are the most probable ones here."""
    module = llama_module(1, vocab_size=WIDE)
    with torch.no_grad():
        module.lm_head.weight[VOCAB_SIZE:] += 100 * module.lm_head.weight[VOCAB_SIZE:].sign()
    model = TransformersModel(module, "wide")
    greedy = drafted(ModelDrafter(model, 3, branches), PROMPTS[0], SamplingParams(), "greedy")
    warm = drafted(ModelDrafter(model, 3, branches), PROMPTS[0], WARM, "rrs")
    assert all(token < VOCAB_SIZE for token in (*greedy.tokens, *warm.tokens))
    assert len(warm) == 3 * branches


@pytest.mark.parametrize("rule", SAMPLING)
@pytest.mark.parametrize("draft", ["has all", "lacks one", "lacks two"])
def test_every_rule_that_takes_q_is_exact_where_q_ends_early(rule: str, draft: str) -> None:
    """By enumeration: four tokens, of which the draft may not know the last ones; in every prefix, those too."""
    known = {"has all": 4, "lacks one": 3, "lacks two": 2}[draft]
    inner = table(32, 4)

    def q(prefix: tuple[int, ...]) -> Row:
        read = tuple(token if token < known else 0 for token in prefix)
        return normalized((*inner(read)[:known], *[ZERO] * (4 - known)))

    made = RULES.create(rule)
    shape = TreeShape((-1, -1, 0)) if made.trees else TreeShape.chain(2)
    setting = Setting(draft, table(31, 4), q, shape, max_tokens=3)
    assert joint_law(made, setting) == target_law(setting)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("branches", [1, 3])
def test_greedy_text_is_the_targets_whatever_the_width(width: int, branches: int) -> None:
    params = SamplingParams(max_tokens=24)
    plain = outputs(run(small_engine(ModelDrafter(llama(seed=2), 3)), PROMPTS, replace(params, num_draft_tokens=0)))
    requests = run(small_engine(ModelDrafter(llama(seed=0, vocab_size=width), 3, branches)), PROMPTS, params)
    assert outputs(requests) == plain
    assert sum(request.stats.drafted_tokens for request in requests) > 24


@pytest.mark.parametrize("rule", COUPLED)
@pytest.mark.parametrize("width", WIDTHS)
def test_coupled_text_is_the_targets_whatever_the_width(rule: str, width: int) -> None:
    params = SamplingParams(max_tokens=24, temperature=0.9, seed=4)
    plain = outputs(
        run(small_engine(ModelDrafter(llama(seed=2), 3), rule), PROMPTS, replace(params, num_draft_tokens=0))
    )
    made = run(small_engine(ModelDrafter(llama(seed=1, vocab_size=width), 3), rule), PROMPTS, params)
    assert outputs(made) == plain


def test_what_the_draft_has_no_row_for_is_read_as_its_first_token() -> None:
    """A text with such tokens still gets drafts, and those are a function of it."""
    drafter = ModelDrafter(llama(seed=1, vocab_size=NARROW), 3)
    strange, plain = [5, 60, 3, 40, NARROW, 9], [5, 0, 3, 40, 0, 9]
    assert drafted(drafter, strange, SamplingParams(), "greedy").tokens == drafted(
        ModelDrafter(llama(seed=1, vocab_size=NARROW), 3), plain, SamplingParams(), "greedy"
    ).tokens  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_where_all_that_may_follow_is_unknown_to_the_draft_there_is_none(temperature: float) -> None:
    """No warning, no error: the request decodes plainly, and the others keep their drafts."""
    allowed = SamplingParams(max_tokens=8, temperature=temperature, seed=1, allowed_token_ids=range(NARROW, VOCAB_SIZE))
    free = SamplingParams(max_tokens=8, temperature=temperature, seed=2)
    engine = small_engine(ModelDrafter(llama(seed=0, vocab_size=NARROW), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound, other = run(engine, PROMPTS[:2], [allowed, free])
    assert all(token >= NARROW for token in bound.output)
    assert bound.stats.drafted_tokens == 0
    assert other.stats.drafted_tokens > 0


def vocabulary(**changes: int) -> SimpleNamespace:
    return SimpleNamespace(get_vocab=lambda: {f"w{number}": number for number in range(NARROW)} | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"<|tool|>": NARROW}, None),
        ({"w7": 8, "w8": 7}, "'w7' is 7 in the target and 8 in the draft"),
        ({"<|im_end|>": NARROW + 1}, "'<|im_end|>' is 48 in the target and 49 in the draft"),
    ],
)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_same_tokens_need_the_same_ids(
    width: int, changes: dict[str, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(model=llama(seed=1, vocab_size=width), tokenizer=vocabulary(**changes))
    monkeypatch.setattr(loading, "load", lambda source, **options: made)
    target = TargetHandle(llama(seed=0), vocabulary(**{"<|im_end|>": NARROW}))
    if reason is None:
        ModelDrafter("some/draft").bind(target)
        return
    with pytest.raises(ConfigError) as caught:
        ModelDrafter("some/draft").bind(target)
    assert reason in str(caught.value)
    assert "drafter='tli' or 'slem'" in str(caught.value)


def test_some_rules_take_q() -> None:
    """Guards the lists above."""
    assert len(SAMPLING) >= 6
    assert "gumbel" in COUPLED
