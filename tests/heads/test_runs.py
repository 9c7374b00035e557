"""A block head at work, token by token over a pool, against its modules over the whole text at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool, PagedCache
from specdec.errors import ConfigError
from specdec.heads.base import predecessors
from specdec.heads.block import BlockHead
from specdec.heads.runs import block_run
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from specdec.testing.tiny import llama, llama_module
from tests.heads import toys

DSPARK = {"block_size": 4, "markov_rank": 6, "confidence": True, "causal": True}
CASES: dict[str, dict[str, Any]] = {
    "causal": {**DSPARK, "fc_norm": True},
    "Qwen3": {**DSPARK, "qk_norm": True, "qkv_bias": True},
    "own rows": {**DSPARK, "own_embedding": True, "own_output": True, "hidden_size": 20, "head_dim": 10},
    "masks predict": {**DSPARK, "anchor_predicts": False, "confidence_with_markov": False},
    "all tokens": {**DSPARK, "draft_vocab_size": 64, "num_layers": 1, "confidence": False},
    "W1 of all tokens": {**DSPARK, "markov_all": True},
    "not causal": {**DSPARK, "causal": False},
}
TARGETS: dict[str, Callable[[], CausalLM]] = {
    "native": lambda: NativeModel(llama_module(0)),
    "transformers": lambda: llama(0),
    "triton": toys.on_triton,
}
slow_on_triton = [pytest.param(name, marks=[pytest.mark.slow] * (name == "triton")) for name in TARGETS]
every_target = pytest.mark.parametrize("target", slow_on_triton)
every_case = pytest.mark.parametrize("case", CASES)


def made(**options: Any) -> BlockHead:
    """A random head for the tiny target."""
    sizes = {"hidden_size": 32, "target_hidden_size": 32, "vocab_size": 64, "target_layers": 2, "taps": (0, 1, 2)}
    config = toys.config("block", **(sizes | options))
    head = BlockHead(config, toys.draft_ids(config))
    for name, weight in toys.drawn(head).named_parameters():
        if "fc" in name:
            weight.data.mul_(2)
    return head


class Bench:
    """Texts in a cache, the head's pool beside it, filled with NaN where nothing was written."""

    def __init__(self, head: BlockHead, target: CausalLM, texts: int = 1, length: int = 24) -> None:
        self.target = target
        whole = range(self.target.vocab_size)
        head.bind(self.target.embed(whole).double().cpu(), self.target.unembed(whole).double().cpu())
        self.head, self.run = head, block_run(head, self.target)
        self.taps, self.tokens = toys.text(head.config, texts, length)
        self.cache = PagedCache(KVLayout(1, 1, 2), 1 + texts * (length + 8), 1, [self.run.layout])
        [self.pool] = self.cache.pools[1:]
        for tensor in self.pool.tensors:
            tensor.fill_(float("nan"))
        for seq in range(texts):
            self.cache.add(seq)

    def remember(self, counts: list[int]) -> None:
        """So many more tokens of each text, all in one call."""
        parts = []
        for seq, count in enumerate(counts):
            start = self.cache.length(seq)
            self.cache.reserve(seq, count)
            self.cache.commit(seq, count)
            at = torch.arange(start, start + count)
            parts.append((self.taps[seq, at], at, self.cache.slots(seq)[at]))
        taps, positions, slots = (torch.cat(column) for column in zip(*parts, strict=True))
        self.run.remember(self.pool, taps.float(), positions, slots)

    def draft(self) -> tuple[Tensor, Tensor | None]:
        """Of each text a block behind all that is cached: with the terms of the true tokens before each row, logits
        [B, n, Vd], and confidences [B, n]."""
        config, rows = self.head.config, []
        for seq in range(len(self.tokens)):
            committed = self.cache.length(seq)
            self.cache.reserve(seq, config.block_size)
            block = [int(self.tokens[seq, committed]), *[config.mask_token_id] * (config.block_size - 1)]
            wanted = range(config.block_size - config.num_drafted, config.block_size)
            rows.append(SequenceRows(block, self.cache.slots(seq), committed, logit_rows=wanted))
        given = self.run.draft(self.pool, rows)
        previous = [self.run.places[token] for token in self.previous().flatten().tolist()]
        logits = torch.stack([self.run.term.corrected(row, at) for row, at in zip(given.logits, previous, strict=True)])
        confidences = given.confidences
        if confidences is not None and self.run.term.weights is not None and self.run.term.before is not None:
            confidences = confidences + self.run.term.before[previous] @ self.run.term.weights
        shape = (len(self.tokens), config.num_drafted)
        return logits.view(*shape, -1).cpu(), None if confidences is None else confidences.view(shape).cpu()

    def anchors(self) -> Tensor:
        return torch.tensor([[self.cache.length(seq)] for seq in range(len(self.tokens))])

    def previous(self) -> Tensor:
        anchors, drafted = self.anchors(), self.head.config.num_drafted
        return predecessors(self.tokens, anchors, torch.ones_like(anchors, dtype=torch.bool), drafted)

    def same(self, tolerance: float) -> None:
        """The block is that of the modules in float64, which see the whole text at once."""
        logits, confidences = self.draft()
        anchors = self.anchors()
        with torch.no_grad():
            wanted = self.head(self.taps, self.tokens, anchors, torch.ones_like(anchors, dtype=torch.bool))
        scale = float(wanted.logits.abs().max())
        assert float((logits - wanted.logits[:, 0]).abs().max()) <= tolerance * scale
        assert (confidences is None) == (wanted.confidence is None)
        if confidences is not None and wanted.confidence is not None:
            assert float((confidences.sigmoid() - wanted.confidence[:, 0]).abs().max()) <= tolerance


@every_target
@every_case
def test_token_by_token_over_a_pool_is_the_whole_text_at_once(case: str, target: str) -> None:
    """At every length; in pieces of one to seven tokens; nothing is read that was not written."""
    bench = Bench(made(**CASES[case]), TARGETS[target]())
    kernels = {"native": "NativeBlock", "triton": "TritonBlock"} if case != "not causal" else {}
    assert type(bench.run).__name__ == kernels.get(target, "PlainBlock")
    bench.same(2e-5)
    for count in (1, 1, 3, 7, 1, 2):
        bench.remember([count])
        bench.same(2e-5)


@every_target
@pytest.mark.parametrize("case", ["causal", "not causal"])
def test_texts_of_a_batch_do_not_see_each_other(case: str, target: str) -> None:
    bench = Bench(made(**CASES[case]), TARGETS[target](), texts=3)
    for counts in ([5, 1, 9], [1, 4, 2], [3, 1, 1]):
        bench.remember(counts)
        bench.same(2e-5)


@pytest.mark.parametrize("target", ["native", "transformers"])
def test_far_positions_have_their_own_phase(target: str) -> None:
    """A block that begins one position early or late is right only at the start of a text. Angles are float32, as the
    target's are: at position 4100 the last bit of one turns it by 5e-4 / 2."""
    bench = Bench(made(**CASES["causal"]), TARGETS[target](), length=4110)
    for count in (1000, 3000, 90, 7):
        bench.remember([count])
    bench.same(2e-3)
    logits, _ = bench.draft()
    bench.run.remember(bench.pool, bench.taps[0, :4097].float(), torch.arange(1, 4098), bench.cache.slots(0)[:4097])
    assert float((bench.draft()[0] - logits).abs().max()) > 2e-2 * float(logits.abs().max())


def test_rows_have_the_same_bits_whatever_shares_their_pass() -> None:
    """Rows of a native head: drafts stay what they are in a batch, and when a text is read again in other pieces."""
    together, alone = (Bench(made(**CASES["causal"]), TARGETS["native"](), texts=3) for _ in range(2))
    together.remember([9, 4, 6])
    for count in (2, 5, 2):
        alone.remember([count, 0, 0])
    assert torch.equal(together.draft()[0][0], alone.draft()[0][0])


def test_rows_of_chains_and_trees_have_the_bits_that_a_general_pass_gives() -> None:
    """Three texts in one pass: a chain, and two trees whose last level is run in another one."""
    model = NativeModel(llama_module(0))
    texts = ((2, 9, None), (0, 5, [-1, 0, 0, 1, 2]), (1, 0, [-1, -1, 0, 2, 2]))
    wanted = (range(1, 3), [2], range(3))

    def logits(run: Callable[[list[SequenceRows], KVPool], Tensor | None]) -> list[Tensor | None]:
        cache = PagedCache(model.kv_layout, 40, 4)
        for seq, length, _ in texts:
            cache.add(seq)
            cache.reserve(seq, length + 5)
            if length:
                prompt = SequenceRows(list(range(length)), cache.slots(seq)[:length], 0)
                model.run(RaggedBatch.build([prompt]), cache.target)
        first = [
            SequenceRows([7, 8, 9], cache.slots(seq), length, family and family[:3], logit_rows=rows)
            for (seq, length, family), rows in zip(texts, wanted, strict=True)
        ]
        last = [
            SequenceRows([4, 5], cache.slots(seq), length, family, 3, logit_rows=range(2))
            for seq, length, family in texts
        ]
        return [run(parts, cache.target) for parts in (first, last)]

    general = logits(lambda parts, pool: model.run(RaggedBatch.build(parts), pool).logits)
    for got, its in zip(logits(model.run_rows), general, strict=True):
        assert got is not None
        assert its is not None
        assert torch.equal(got, its)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int8_weight"])
def test_weights_take_the_form_of_the_targets(kind: str) -> None:
    """Sums of rounded numbers: within an eighth of the largest logit, where another text's are far off."""
    bench = Bench(made(**CASES["causal"]), NativeModel(llama_module(0), kind=kind))
    bench.remember([11])
    bench.same(0.125)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_hidden_size": 16}, "a stream of width 16, not 32"),
        ({"target_layers": 3}, "layers 3, not 2"),
        ({"vocab_size": 65}, "a vocabulary of 65, not 64"),
        ({"hidden_size": 16}, "own_embedding"),
    ],
)
def test_a_head_of_another_target_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        block_run(made(**(CASES["causal"] | options)), llama(0))
