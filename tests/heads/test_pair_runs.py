"""Heads that draft token by token at work, over a pool, against their modules over the whole text at once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec.cache import KVLayout, PagedCache
from specdec.errors import ConfigError, SpecdecError
from specdec.heads.files import ARCHITECTURES
from specdec.heads.nativepairs import NativePairs
from specdec.heads.pairrun import PairRows
from specdec.heads.pairs import PairHead
from specdec.heads.plainpairs import PlainPairs
from specdec.heads.runs import pair_run
from specdec.models.base import CausalLM
from specdec.models.batch import SequenceRows
from specdec.models.chains import ChainDraw
from specdec.models.native import NativeModel
from specdec.models.pairs import TreeLimits
from specdec.randomness import RandomSource
from specdec.sampling.noise import Noise
from specdec.testing.tiny import llama, llama_module
from tests.heads import toys

LAST = {"taps": (2,)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "EAGLE-3": ("eagle3", {}),
    "EAGLE-3.1": ("eagle3", {"fc_norm": True, "norm_output": True, "qk_norm": True}),
    "one norm before fc": (
        "eagle3", {"norm_before_fc": True, "norm_before_residual": True, "fc_bias": True, "qkv_bias": True}),
    "own rows": (
        "eagle3", {"hidden_size": 20, "head_dim": 10, "own_embedding": True, "own_output": True}),
    "EAGLE-1": ("eagle1", LAST | {"fc_bias": True}),
    "MTP": ("mtp", LAST | {"qk_norm": True, "draft_vocab_size": 64}),
}  # fmt: skip
TARGETS: dict[str, Callable[[], CausalLM]] = {
    "native": lambda: NativeModel(llama_module(0)),
    "transformers": lambda: llama(0),
    "triton": toys.on_triton,
}
slow_on_triton = [pytest.param(name, marks=[pytest.mark.slow] * (name == "triton")) for name in TARGETS]
every_target = pytest.mark.parametrize("target", slow_on_triton)
every_case = pytest.mark.parametrize("case", CASES)
LENGTH = 20


def made(kind: str, **options: Any) -> PairHead:
    """A random head for the tiny target."""
    sizes = {"hidden_size": 32, "target_hidden_size": 32, "vocab_size": 64, "target_layers": 2, "taps": (0, 1, 2)}
    config = toys.config(kind, **(sizes | {"num_layers": 1} | options))
    head = toys.drawn(ARCHITECTURES[kind](config, toys.draft_ids(config)))
    assert isinstance(head, PairHead)
    return head


class Bench:
    """A text of pairs in the head's pool, which is NaN where nothing was written."""

    def __init__(self, head: PairHead, target: CausalLM, texts: int = 1, length: int = LENGTH) -> None:
        whole = range(target.vocab_size)
        head.bind(target.embed(whole).double().cpu(), target.unembed(whole).double().cpu())
        self.head, self.run = head, pair_run(head, target)
        self.taps, self.tokens = toys.text(head.config, texts, length)
        self.cache = PagedCache(KVLayout(1, 1, 2), 1 + texts * (length + 8), 1, [self.run.layout])
        [self.pool] = self.cache.pools[1:]
        for tensor in self.pool.tensors:
            tensor.fill_(float("nan"))
        for seq in range(texts):
            self.cache.add(seq)

    def read(self, counts: list[int]) -> PairRows:
        """So many more pairs of each text, all in one call: what their last rows give."""
        parts, states = [], []
        for seq, count in enumerate(counts):
            start = self.cache.length(seq)
            self.cache.reserve(seq, count)
            tokens = self.tokens[seq, start + 1 : start + count + 1].tolist()
            parts.append(SequenceRows(tokens, self.cache.slots(seq), start, logit_rows=[count - 1]))
            states.append(self.run.fuse(self.taps[seq, start : start + count].float()))
        given = self.run.step(self.pool, parts, torch.cat(states), 2)
        for seq, count in enumerate(counts):
            self.cache.commit(seq, count)
        return given

    def draft(self, given: PairRows, seq: int, parents: list[int], tokens: list[int]) -> Tensor:
        """Logits of a tree's nodes, level by level, behind what `read` gave: [nodes, Vd]."""
        at, wanted = self.cache.length(seq), SequenceRows(tokens, torch.empty(0), 0, parents).depths
        self.cache.reserve(seq, len(tokens))
        states, logits = {-1: given.states[seq]}, dict[int, Tensor]()
        for depth in range(max(wanted) + 1):
            level = [node for node, its in enumerate(wanted) if its == depth]
            rows = SequenceRows(
                tokens[level[0] : level[-1] + 1], self.cache.slots(seq), at, parents, level[0], range(len(level))
            )
            done = self.run.step(self.pool, [rows], torch.stack([states[parents[node]] for node in level]), 2)
            states.update(zip(level, done.states, strict=True))
            logits.update(zip(level, done.output.logits, strict=True))
        self.cache.commit(seq, 0)
        return torch.stack([logits[node].cpu() for node in range(len(tokens))])


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert float((got.cpu() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@every_target
@every_case
def test_steps_over_a_pool_are_the_training_time_test(case: str, target: str) -> None:
    """At many lengths: pairs in pieces of one to five, then a draft of three, fed with the text's own tokens. What a
    draft has written is never read again, and nothing that was not written."""
    kind, options = CASES[case]
    bench = Bench(made(kind, **options), TARGETS[target]())
    assert type(bench.run).__name__ == {"native": "NativePairs", "triton": "TritonPairs"}.get(target, "PlainPairs")
    with torch.no_grad():
        wanted = bench.head(bench.taps, bench.tokens, 4).logits[:, 0]
    for count in (1, 1, 3, 5, 2):
        given = bench.read([count])
        last = bench.cache.length(0) - 1
        close(given.output.logits[0], wanted[0, last], 2e-5)
        true = bench.tokens[0, last + 2 : last + 5].tolist()
        close(bench.draft(given, 0, [-1, 0, 1], true), wanted[1:, last], 2e-5)


@every_target
@pytest.mark.parametrize("case", ["EAGLE-3.1", "EAGLE-1"])
def test_a_node_sees_its_own_ancestors(case: str, target: str) -> None:
    """Every path of a tree is what it is as a chain of its own, in a text that ends with it."""
    kind, options = CASES[case]
    bench = Bench(made(kind, **options), TARGETS[target]())
    given = bench.read([6])
    tokens, parents = [5, 9, 11, 5, 7, 2], [-1, -1, 0, 0, 1, 3]
    logits = bench.draft(given, 0, parents, tokens)
    for node in range(len(tokens)):
        path, at = list[int](), node
        while at >= 0:
            path, at = [tokens[at], *path], parents[at]
        text = torch.cat([bench.tokens[:, :7], torch.tensor([[*path]])], 1)
        taps = torch.cat([bench.taps[:, :6], torch.zeros_like(bench.taps[:, : 1 + len(path)])], 1)
        with torch.no_grad():
            close(logits[node], bench.head(taps, text, 1 + len(path)).logits[-1, 0, 5], 2e-5)


@every_target
def test_texts_of_a_batch_do_not_see_each_other(target: str) -> None:
    kind, options = CASES["EAGLE-3.1"]
    bench = Bench(made(kind, **options), TARGETS[target](), texts=3)
    with torch.no_grad():
        wanted = bench.head(bench.taps, bench.tokens, 1).logits[0]
    for counts in ([5, 1, 9], [1, 4, 2], [3, 1, 1]):
        given = bench.read(counts)
        for seq in range(3):
            close(given.output.logits[seq], wanted[seq, bench.cache.length(seq) - 1], 2e-5)


@pytest.mark.parametrize("kind", ["float32", "int8"])
@every_case
def test_rows_have_the_same_bits_whatever_shares_their_pass(case: str, kind: str) -> None:
    """Of a native head: in a batch, and when a text is read again in other pieces."""
    name, options = CASES[case]
    together, alone = (
        Bench(made(name, **options), NativeModel(llama_module(0), kind=kind), texts=count) for count in (3, 1)
    )
    alone.taps, alone.tokens = together.taps[:1], together.tokens[:1]
    one = together.read([9, 4, 6])
    for count in (2, 5, 2):
        other = alone.read([count])
    assert torch.equal(one.output.logits[0], other.output.logits[0])
    assert torch.equal(one.states[0], other.states[0])
    tree = [-1, 0, 0], [1, 2, 3]
    assert torch.equal(together.draft(one, 0, *tree)[2], alone.draft(other, 0, *tree)[2])


@every_target
def test_the_largest_logits_and_their_chances_are_told(target: str) -> None:
    kind, options = CASES["EAGLE-3.1"]
    output = Bench(made(kind, **options), TARGETS[target](), texts=3).read([7, 2, 1]).output
    assert output.logits is not None
    wanted = output.logits.cpu().double().softmax(1).sort(descending=True)
    assert output.top(2).tolist() == wanted.indices[:, :2].tolist()
    torch.testing.assert_close(output.chances(2).double(), wanted.values[:, :2], rtol=1e-5, atol=0)


def cramped() -> tuple[Bench, SequenceRows]:
    """A text of which one pair is still to be run, with five slots behind it."""
    kind, options = CASES["EAGLE-3.1"]
    bench = Bench(made(kind, **options), TARGETS["native"]())
    bench.read([6])
    bench.cache.reserve(0, 8)
    return bench, SequenceRows([3], bench.cache.slots(0)[:-2], 6, logit_rows=[0])


def noise(**changed: float) -> Noise:
    """Of parameters that nobody has checked."""
    params: Any = SimpleNamespace(**{"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, **changed})
    return Noise(params, RandomSource(0), 7)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (TreeLimits(9, 3, 2, 0.0, 0.0), "no slots for its draft"),
        (TreeLimits(0, 1, 2, 0.0, 0.0), "nodes = 0"),
        (TreeLimits(4, 5, 2, 0.0, 0.0), "depth of draft 0 is 5"),
        (TreeLimits(4, 0, 2, 0.0, 0.0), "depth of draft 0 is 0"),
        (TreeLimits(4, 2, 0, 0.0, 0.0), "0 candidates"),
        (TreeLimits(4, 2, 2, 0.0, 0.0, noise(temperature=-1.0)), "draw 0 has a temperature or filters"),
        (TreeLimits(4, 2, 2, 0.0, 0.0, noise(top_p=0.0)), "draw 0 has a temperature or filters"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(limits: TreeLimits, words: str) -> None:
    bench, part = cramped()
    with pytest.raises(SpecdecError, match=words):
        bench.run.grow(bench.pool, [part], torch.zeros(1, 32), [limits])


@pytest.mark.parametrize(
    ("draw", "size", "words"),
    [
        (ChainDraw([0.5] * 9, 1.0), 64, "no slots for its draft"),
        (ChainDraw([0.5], -1.0), 64, "temperature 0 is below 0"),
        (ChainDraw([0.5], float("nan")), 64, "temperature 0 is below 0"),
        (ChainDraw([0.5], 1.0), 20, "token that the head knows"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(draw: ChainDraw, size: int, words: str) -> None:
    bench, part = cramped()
    with pytest.raises(SpecdecError, match=words):
        bench.run.draw(bench.pool, [part], torch.zeros(1, 32), [draw], size)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int8_weight"])
def test_weights_take_the_form_of_the_targets(kind: str) -> None:
    """Sums of rounded numbers: within an eighth of the largest logit, where another text's are far off."""
    name, options = CASES["EAGLE-3.1"]
    bench = Bench(made(name, **options), NativeModel(llama_module(0), kind=kind))
    with torch.no_grad():
        wanted = bench.head(bench.taps, bench.tokens, 1).logits[0, 0]
    close(bench.read([11]).output.logits[0], wanted[10], 0.125)
    assert float((wanted[3] - wanted[10]).abs().max()) > 0.25 * float(wanted[10].abs().max())


def test_a_head_that_the_kernels_cannot_run_is_run_in_torch() -> None:
    bench = Bench(made("eagle3", o_bias=True), TARGETS["native"]())
    assert isinstance(bench.run, PlainPairs)
    with torch.no_grad():
        wanted = bench.head(bench.taps, bench.tokens, 1).logits[0, 0]
    close(bench.read([11]).output.logits[0], wanted[10], 2e-5)


def test_states_that_do_not_fit_the_rows_are_refused() -> None:
    bench = Bench(made("eagle3"), TARGETS["native"]())
    assert isinstance(bench.run, NativePairs)
    bench.cache.reserve(0, 2)
    rows = [SequenceRows([1, 2], bench.cache.slots(0), 0, logit_rows=[1])]
    for states in (torch.zeros(1, 32), torch.zeros(2, 31), torch.zeros(0, 32)):
        with pytest.raises(SpecdecError, match=r"need dense torch.float32 \[2, 32\]"):
            bench.run.step(bench.pool, rows, states, 1)
    with pytest.raises(SpecdecError, match="no memory for states"):
        bench.run._model.run_rows(rows, bench.pool)


def test_a_head_of_another_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="layers 3, not 2"):
        pair_run(made("eagle3", target_layers=3), llama(0))
