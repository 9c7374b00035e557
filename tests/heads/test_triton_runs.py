"""Heads on the Triton kernels: right, row-invariant, with the drafts of their modules in torch; broken copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.head import HeadDrafter
from specdec.drafters.none import NoDrafter
from specdec.errors import SpecdecError
from specdec.heads.base import Head
from specdec.heads.medusa import MedusaHead
from specdec.heads.pairrun import PairRows
from specdec.heads.runs import medusa_run
from specdec.heads.tritonmedusa import TritonMedusa
from specdec.heads.tritonpairs import TritonPairs
from specdec.kernels.linear.triton import LinearTable
from specdec.kernels.rows import reference
from specdec.kernels.rows.triton import tops
from specdec.models import tritonpairs as pair_module
from specdec.models.base import CausalLM
from specdec.models.batch import SequenceRows
from specdec.models.native import NativeModel
from specdec.testing.tiny import llama_module
from tests.blockheads import random_head
from tests.drafters.headchecks import PROMPTS, drafts_of, engine
from tests.engines import outputs, run
from tests.heads import test_runs as blocks
from tests.heads import toys
from tests.heads.test_pair_runs import CASES, Bench, close, made
from tests.kernels.gpu import DEVICE, assert_caught
from tests.medusaheads import random_medusa
from tests.models.test_triton_model import captured  # noqa: F401 - a fixture
from tests.pairheads import random_pairs

TREE = [-1, -1, 0, 0, 2], [5, 9, 11, 5, 7]


def bench(case: str = "EAGLE-3.1", kind: str = "float32", texts: int = 1) -> Bench:
    name, options = CASES[case]
    return Bench(made(name, **options), toys.on_triton(kind), texts)


def some_slow(names: Iterable[str], fast: int) -> list[Any]:
    """All of them, those behind the first ones among the slow tests: the interpreter is slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (number >= fast)) for number, name in enumerate(names)]


def check_steps(module: ModuleType = pair_module, case: str = "EAGLE-3.1") -> None:
    """Pairs of a text, then a draft fed with the head's own states: the modules' own logits, in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specdec.heads.tritonpairs.TritonPairModel", module.TritonPairModel)
        one = bench(case)
    with torch.no_grad():
        wanted = one.head(one.taps, one.tokens, 3).logits[:, 0]
    given = one.read([4])
    close(given.output.logits[0], wanted[0, 3], 2e-5)
    close(one.draft(given, 0, [-1, 0], one.tokens[0, 5:7].tolist()), wanted[1:, 3], 2e-5)


def test_a_causal_block_is_that_of_the_modules() -> None:
    """The other ones are in test_runs.py."""
    one = blocks.Bench(blocks.made(**blocks.CASES["Qwen3"]), toys.on_triton())
    one.remember([3])
    one.same(2e-5)


@pytest.mark.parametrize("kind", some_slow(["float32", "bfloat16", "int8"], 1))
@pytest.mark.parametrize("case", some_slow(["EAGLE-3.1", *(name for name in CASES if name != "EAGLE-3.1")], 1))
def test_rows_have_the_same_bits_whatever_shares_their_pass(case: str, kind: str) -> None:
    """Alone and in a batch; in one piece and in several; as nodes of a tree and as those of a chain."""
    together, alone = bench(case, kind, 2), bench(case, kind)
    alone.taps, alone.tokens = together.taps[:1], together.tokens[:1]
    one = together.read([6, 3])
    for count in (1, 5):
        other = alone.read([count])
    assert one.output.logits is not None
    assert other.output.logits is not None
    assert torch.equal(one.output.logits[0], other.output.logits[0])
    assert torch.equal(one.states[0], other.states[0])
    assert torch.equal(one.output.chances(2)[0], other.output.chances(2)[0])
    parents, tokens = TREE
    tree = together.draft(one, 0, parents, tokens)
    assert torch.equal(alone.draft(other, 0, [-1, 0, 1], [5, 11, 7]), tree[[0, 2, 4]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_rows_of_blocks_have_the_same_bits_whatever_shares_their_pass(kind: str) -> None:
    made = blocks.made(**blocks.CASES["causal"])
    together, alone = (blocks.Bench(made, toys.on_triton(kind), texts=2) for _ in range(2))
    together.remember([5, 3])
    for count in (1, 4):
        alone.remember([count, 0])
    (logits, sure), (own, own_sure) = together.draft(), alone.draft()
    assert torch.equal(logits[0], own[0])
    assert sure is not None
    assert own_sure is not None
    assert torch.equal(sure[0], own_sure[0])


def check_medusa(**options: Any) -> None:
    """Heads are their modules in float64, and a row alone has the bits that it has beside others."""
    target = toys.on_triton()
    head = random_medusa(target, **options).double()
    assert isinstance(head, MedusaHead)
    whole = range(target.vocab_size)
    head.bind(target.embed(whole).double().cpu(), target.unembed(whole).double().cpu())
    taps, _ = toys.text(head.config, 1, 5)
    made = medusa_run(head, target)
    assert isinstance(made, TritonMedusa)
    states = taps[0, :, 0].float().to(DEVICE)
    logits = made.logits(states)
    with torch.no_grad():
        close(logits, head(taps)[0], 2e-5)
    assert torch.equal(made.logits(states[3:4])[0], logits[3])


def test_medusa_heads_are_their_modules_and_row_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which kernels that go by the number of rows are not."""
    check_medusa(fc_bias=True)
    check_medusa(own_output=True)
    monkeypatch.setattr("specdec.heads.triton.LinearTable", lambda: LinearTable(row_invariant=False))
    with pytest.raises(AssertionError):
        check_medusa()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "bfloat16", "int8_weight"])
def test_weights_take_the_form_of_the_targets(kind: str) -> None:
    """Sums of rounded numbers: within an eighth of the largest logit, where another text's are far off."""
    one = bench(kind=kind)
    with torch.no_grad():
        wanted = one.head(one.taps, one.tokens, 1).logits[0, 0]
    logits = one.read([5]).output.logits
    assert logits is not None
    close(logits[0], wanted[4], 0.125)
    assert float((logits[0].cpu() - wanted[4]).abs().max()) > 1e-4 * float(wanted[4].abs().max())
    assert float((wanted[3] - wanted[4]).abs().max()) > 0.25 * float(wanted[4].abs().max())


@pytest.mark.parametrize("size", [1, 5, 16, 41])
def test_the_largest_scores_and_their_softmax_are_those_of_a_row_alone(size: int) -> None:
    """Blocks of 16 over some scores, with ties, both zeros, infinities and a NaN: its row has no softmax."""
    rows = torch.randint(-3, 4, (6, size), generator=torch.Generator().manual_seed(size)) * 0.5
    rows[0] = torch.randn(size, generator=torch.Generator().manual_seed(1)) * 20
    rows[1, ::2] *= -1  # zeros of both signs
    rows[2, size // 2 :] = float("-inf")
    rows[3, -1] = float("nan")
    rows[4] -= 7
    for count in (1, 4, 50):
        ids, chances = (each.cpu() for each in tops(rows.to(DEVICE), count, block=16))
        wanted = reference.largest(rows, count).long()
        assert torch.equal(ids, wanted)
        softmax = rows.double().softmax(1).gather(1, wanted)
        torch.testing.assert_close(chances.double(), softmax, rtol=1e-6, atol=0, equal_nan=True)
        assert torch.equal(tops(rows[1:2].to(DEVICE), count, block=16)[1].cpu(), chances[1:2])
    assert tops(rows[:0].to(DEVICE), 3)[0].shape == (0, min(3, size))


def test_states_that_do_not_fit_the_rows_are_refused() -> None:
    one = bench()
    one.cache.reserve(0, 2)
    rows = [SequenceRows([1, 2], one.cache.slots(0), 0, logit_rows=[1])]
    for states in (torch.zeros(1, 32), torch.zeros(2, 31), torch.zeros(0, 32)):
        with pytest.raises(SpecdecError, match=r"need dense torch.float32 \[2, 32\]"):
            one.run.step(one.pool, rows, states.to(DEVICE), 1)


@pytest.mark.usefixtures("captured")
def test_a_captured_step_reads_the_states_of_its_call() -> None:
    """Levels of the same shape share a graph; none gives what another one left."""
    one = bench()
    given = one.read([2])
    found = [one.draft(PairRows(given.output, factor * given.states), 0, [-1], [7]) for factor in (1, 2)]
    assert isinstance(one.run, TritonPairs)
    assert len(one.run._model._graphs.captured[one.pool]) == 2
    one.run._model._graphs.captured.clear()
    for factor, wanted in ((2, found[1]), (1, found[0])):
        again = one.draft(PairRows(given.output, factor * given.states), 0, [-1], [7])
        assert torch.equal(again, wanted)
    assert not torch.equal(*found)


BROKEN = {
    "next states": ("EAGLE-3.1", "hidden if self._pairs.gives_normed else stream", "stream"),
    "stream": ("EAGLE-1", "stream.add_(delta)", "stream"),
    "first norm": ("MTP", "None if pairs.bare else", "None if not pairs.bare else"),
    "norm of states": ("EAGLE-3.1", "self._side(states, pairs.state_norm)", "self._side(states, pairs.token_norm)"),
    "rows": ("EAGLE-3.1", "inputs.wanted(stream), inputs", "inputs.wanted(stream.flip(0)), inputs"),
    "no norms": ("one norm before fc", "if pairs.starts_normed and", "if not pairs.starts_normed and"),
    "bias": ("EAGLE-1", "[pairs.mix_bias]", "None"),
}


@pytest.mark.parametrize("what", some_slow(BROKEN, 2))
def test_a_step_is_that_of_the_modules_and_a_broken_copy_is_caught(what: str, tmp_path: Path) -> None:
    """All kinds, and longer texts, are in test_pair_runs.py."""
    case, right, wrong = BROKEN[what]
    assert_caught(pair_module, lambda module: check_steps(module, case), [(right, wrong)], tmp_path)


DRAFTED: dict[str, Callable[[CausalLM], Head]] = {
    "EAGLE-3.1": lambda target: random_pairs(target, "eagle3", fc_norm=True, norm_output=True),
    "EAGLE-1": lambda target: random_pairs(target, "eagle1"),
    "MTP": lambda target: random_pairs(target, "mtp"),
    "block": random_head,
    "Medusa": random_medusa,
}


def test_an_engine_whose_head_is_on_triton_says_what_plain_decoding_says() -> None:
    params, target = SamplingParams(max_tokens=3), toys.on_triton()
    drafter = HeadDrafter(DRAFTED["EAGLE-3.1"](target), 2, 2)
    drafts = drafts_of(drafter)
    texts = outputs(run(engine(target, drafter), PROMPTS[:1], params))
    assert texts == outputs(run(engine(NativeModel(llama_module(0)), NoDrafter()), PROMPTS[:1], params))
    assert any(map(len, drafts))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("kind", DRAFTED)
def test_drafts_are_those_of_the_plain_run_and_the_text_that_of_plain_decoding(
    kind: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, rule = SamplingParams(max_tokens=3, temperature=temperature, seed=5), "gumbel" if temperature else "auto"
    target = toys.on_triton()
    drafted = []
    texts = [outputs(run(engine(target, NoDrafter(), rule), PROMPTS[:2], params))]
    for _ in range(2):
        drafter = HeadDrafter(DRAFTED[kind](target), 3, 4, drawn=2)
        drafts = drafts_of(drafter)
        texts.append(outputs(run(engine(target, drafter, rule), PROMPTS[:2], params)))
        drafted.append([(tree.tokens, tree.parents) for tree in drafts])
        monkeypatch.setattr("specdec.heads.runs._on_triton", lambda target, weights: None)
    assert texts[0] == texts[1] == texts[2]
    assert drafted[0] == drafted[1]
    assert any(tokens for tokens, _ in drafted[0])
