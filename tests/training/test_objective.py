"""The loss and the simulated τ of a batch, against one block after another in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from specdec.heads.base import ChainHead
from specdec.heads.block import BlockHead
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.medusa import MedusaHead
from specdec.training import objective
from specdec.training.batches import Batch, Batching, Texts, batch_of
from specdec.training.losses import LossConfig
from specdec.training.objective import Objective
from specdec.training.simulate import simulate, walked
from tests.tiny import VOCAB_SIZE
from tests.training import scenes

KNOWN = [token for token in range(VOCAB_SIZE) if token % 3]
SIZES = Batching(texts=4, anchors=5, max_length=64)


def one_draft(
    head: ChainHead, module: PreTrainedModel, text: list[int], anchor: int
) -> tuple[torch.Tensor, list[float]]:
    """Logits [n, Vd] and confidences of the draft behind one token, from a text that ends with that draft."""
    end = anchor + 1 + head.config.num_drafted
    tokens = torch.tensor([text[:end]])
    states = module(tokens, output_hidden_states=True).hidden_states
    taps = torch.stack([states[boundary] for boundary in head.config.taps], 2)
    if isinstance(head, Eagle3Head):
        return head(taps, tokens, head.config.num_drafted).logits[:, 0, anchor - 1].double(), []
    if isinstance(head, MedusaHead):
        return head(taps)[0, anchor - 1].double(), []
    found = head(taps, tokens, torch.tensor([[anchor]]), torch.tensor([[True]]))
    assert found.confidence is not None
    return found.logits[0, 0].double(), found.confidence[0, 0].tolist()


def by_hand(head: ChainHead, module: PreTrainedModel, batch: Batch, loss: LossConfig, depth: int = 3) -> float:
    """Every row of every draft by itself, in float64."""
    total = weight = 0.0
    for row in range(len(batch.tokens)):
        text = batch.tokens[row, : batch.lengths[row]].tolist()
        laws = module(torch.tensor([text])).logits[0].double().softmax(-1)
        for anchor in batch.anchors[row][batch.mask[row]].tolist():
            logits, confidences = one_draft(head, module, text, anchor)
            for k in range(min(depth, len(text) - anchor - 1)):
                q, p, token = logits[k].softmax(-1), laws[anchor + k], text[anchor + 1 + k]
                full = torch.zeros(VOCAB_SIZE, dtype=torch.float64)
                full[head.draft_ids] = q
                accepted = float(torch.minimum(full, p).sum())
                entropy = -math.log(full[token]) if token in head.draft_ids.tolist() else 0.0
                sure = confidences[k] if confidences else 1.0
                right = -accepted * math.log(sure) - (1 - accepted) * math.log(1 - sure) if confidences else 0.0
                each = loss.ce * entropy + loss.tv * (1 - accepted) + loss.confidence * right
                total += each * math.exp(-k / loss.decay)
                weight += math.exp(-k / loss.decay)
    return total / weight


@pytest.mark.parametrize("ids", [None, KNOWN], ids=["all", "two thirds"])
@pytest.mark.parametrize("cells", [1 << 28, 100], ids=["at once", "in parts"])
@torch.no_grad()
def test_the_loss_is_that_of_one_row_after_another(
    ids: list[int] | None, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "CELLS", cells)
    module = scenes.target(1)
    head = scenes.head(module, ids, start=False)
    batch = batch_of(scenes.texts(module, 4, drawn=True), [0, 1, 2, 3], SIZES, draw=3)
    loss = LossConfig(ce=0.1, tv=0.9, confidence=0.5, decay=3)
    judge = Objective(head, scenes.teacher(module, head), loss)
    judged = judge(batch, judge.weight(batch))
    assert float(judged.loss) == pytest.approx(by_hand(head, module, batch, loss), rel=2e-5)
    assert judged.rows.tolist() == batch.rows(3).sum((0, 1)).tolist()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("make", [scenes.pairs, scenes.medusa])
@torch.no_grad()
def test_the_loss_of_heads_that_are_no_block(depth: int, make: Callable[..., ChainHead]) -> None:
    """All their rows, or the first alone; counts of rows that are not judged stay 0."""
    module = scenes.target(1)
    head = make(module, KNOWN, start=False)
    batch = batch_of(scenes.texts(module, 4, drawn=True), [0, 1, 2, 3], SIZES, draw=3)
    loss = LossConfig(ce=0.1, tv=0.9, decay=3)
    judge = Objective(head, scenes.teacher(module, head), loss)
    judged = judge(batch, judge.weight(batch, depth), depth)
    assert float(judged.loss) == pytest.approx(by_hand(head, module, batch, loss, depth), rel=2e-5)
    assert judged.rows.tolist() == [*batch.rows(depth).sum((0, 1)).tolist(), *[0] * (3 - depth)]


def test_the_first_row_alone_is_learnt_at_first() -> None:
    loss = LossConfig(first_row=0.5)
    assert [loss.depth(progress, 4) for progress in (0.0, 0.49, 0.5, 1.0)] == [1, 1, 4, 4]
    assert [LossConfig(first_row=0.5, rows=2).depth(progress, 4) for progress in (0.0, 0.5)] == [1, 2]
    assert LossConfig(rows=9).depth(0.0, 4) == 4


@torch.no_grad()
def test_nothing_is_learnt_from_prompts_nor_from_behind_the_end() -> None:
    module = scenes.target(2)
    head = scenes.head(module, start=False)
    batch = batch_of(scenes.texts(module, 4), [0, 1, 2, 3], SIZES, draw=1)
    judge = Objective(head, scenes.teacher(module, head), LossConfig())
    before = judge(batch, judge.weight(batch))
    for row in range(4):
        batch.tokens[row, batch.lengths[row] :] = 7
    after = judge(batch, judge.weight(batch))
    assert torch.equal(before.loss, after.loss)
    assert (batch.anchors[batch.mask] >= batch.starts[:, None].expand_as(batch.anchors)[batch.mask]).all()


def test_parts_of_a_batch_have_the_gradient_of_the_whole() -> None:
    module = scenes.target(3)
    head = scenes.head(module, KNOWN, start=False)
    batch = batch_of(scenes.texts(module, 4), [0, 1, 2, 3], SIZES, draw=1)
    judge = Objective(head, scenes.teacher(module, head), LossConfig())
    gradients = []
    for count in (1, 2):
        head.zero_grad()
        for number in range(count):
            judge(batch.part(number, count), judge.weight(batch)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in head.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().max() > 1e-3


@pytest.mark.parametrize("make", [scenes.head, scenes.pairs, scenes.medusa])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_simulated_tau_is_that_of_decoding_with_own_drafts(seed: int, make: Callable[..., ChainHead]) -> None:
    """Drafts are made one token after another, each from the one before, and compared with the target's greedy text."""
    module = scenes.target(seed)
    head, texts = make(module, KNOWN), scenes.texts(module, 5, seed=seed)
    passes = tokens = 0
    for index in range(len(texts)):
        text, place = texts[index].tolist(), int(texts.starts[index])
        while place < len(text) - 1:
            draft = own_draft(head, module, text[: place + 1])
            hits = 0
            while place + 1 + hits < len(text) and hits < len(draft) and draft[hits] == text[place + 1 + hits]:
                hits += 1
            said = min(hits + 1, len(text) - 1 - place)
            place, tokens, passes = place + said, tokens + said, passes + 1
    found = simulate(head, scenes.teacher(module, head), texts, SIZES)
    assert found.tau == pytest.approx(tokens / passes)
    assert found.tau > 1
    assert found.survival[0] == found.accuracy[0]


def own_draft(head: ChainHead, module: PreTrainedModel, text: list[int]) -> list[int]:
    """Greedy, from the committed text alone."""
    if isinstance(head, Eagle3Head):
        return own_steps(head, module, text)
    padded = torch.tensor([[*text, *[0] * head.config.num_drafted]])
    states = module(torch.tensor([text]), output_hidden_states=True).hidden_states
    taps = torch.stack([states[boundary] for boundary in head.config.taps], 2)
    if isinstance(head, MedusaHead):  # the state before the last token has given that one
        return [int(head.draft_ids[row.argmax()]) for row in head(taps)[0, -2]]
    taps = torch.cat([taps, torch.full_like(taps[:, :1], 1e3).expand(-1, head.config.num_drafted, -1, -1)], 1)
    where = (padded, torch.tensor([[len(text) - 1]]), torch.tensor([[True]]), head.config.num_drafted)
    hidden = head.draft_states(taps, *where)[0, 0]
    draft: list[int] = []
    for row in hidden:
        logits = head.logits(row[None], torch.tensor([[text[-1], *draft][-1]]))
        draft.append(int(head.draft_ids[logits[0].argmax()]))
    return draft


def own_steps(head: Eagle3Head, module: PreTrainedModel, text: list[int]) -> list[int]:
    """Greedy, a step of the head after another: each reads the state and the token of the one before."""
    states = module(torch.tensor([text]), output_hidden_states=True).hidden_states
    taps = torch.stack([states[boundary] for boundary in head.config.taps], 2)
    state, tokens, first = head.fuse(taps[:, :-1]), torch.tensor([text[1:]]), 0
    past, draft = None, list[int]()
    for _ in range(head.config.num_drafted):
        found = head.step(state, tokens, first + torch.arange(tokens.shape[1])[None], past)
        past = found.held if past is None else tuple(torch.cat(both, 1) for both in zip(past, found.held, strict=True))
        first += tokens.shape[1]
        draft.append(int(head.draft_ids[head.vocabulary_logits(found.hidden[0, -1]).argmax()]))
        state, tokens = found.state[:, -1:], torch.tensor([draft[-1:]])
    return draft


class Oracle(BlockHead):
    """Says the token that the target says next: rows know their place, and the text is a circle."""

    def logits(self, hidden: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.nn.functional.one_hot((previous + 1) % VOCAB_SIZE, VOCAB_SIZE)


def test_an_oracle_gives_a_block_and_one_token_a_pass() -> None:
    module = scenes.target(0)
    head = scenes.head(module)
    head.__class__ = Oracle
    circle = Texts([([1, 2], [token % VOCAB_SIZE for token in range(3, 3 + 1 + 4 * 10)])])
    found = simulate(head, scenes.teacher(module, head), circle, Batching(max_length=64))
    assert found.tau == 4.0
    assert found.accuracy == [1.0] * 3


@pytest.mark.parametrize(
    ("accepted", "passes", "tokens"),
    [([0, 0, 0], 3, 3), ([2, 9, 9, 0], 2, 4), ([5], 1, 1), ([], 0, 0), ([1, 0, 3, 9, 9, 9], 2, 6)],
)
def test_a_walk_skips_what_was_accepted(accepted: list[int], passes: int, tokens: int) -> None:
    assert walked(accepted) == (passes, tokens)
