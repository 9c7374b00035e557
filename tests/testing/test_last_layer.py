"""A head that is the target's last layer agrees with the target at every row: taps, positions, norms, masks, slots."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec import Engine, EngineConfig, Needs, Outcome, SamplingParams, TargetHandle
from specdec.cache import PagedCache, Pool
from specdec.cache.moving import Moving
from specdec.engine.request import Request
from specdec.kernels.cpu.library import library
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.testing import check_drafter
from specdec.verify.tree import TreeShape
from tests.engines import add, drain, run
from tests.testing.last_layer import LastLayerHead
from tests.tiny import llama, llama_module

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [7, 7, 7, 7], [60, 3, 9, 60, 3, 9, 60, 3]]
LENGTH = 20
CHAIN, TREE = TreeShape.chain(4), TreeShape.choices([[0, 0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0], [2]])
PARAMS = SamplingParams(max_tokens=25)
SIZES = {
    "together": {},
    "prompts in chunks": {"max_num_seqs": 1, "max_batch_tokens": 16},
    "preempted": {"num_blocks": 19},
}


def engine(target: CausalLM, module: PreTrainedModel, shape: TreeShape, **sizes: int) -> tuple[Engine, LastLayerHead]:
    head = LastLayerHead(module, shape)
    config = EngineConfig(**{"block_size": 4, "num_blocks": 256, "max_batch_tokens": 256, "max_num_seqs": 5, **sizes})
    return Engine(target, head, config=config), head


def largest(head: LastLayerHead) -> float:
    """Difference of logits over all rows that were compared."""
    return max(float((ours - target).abs().max()) for ours, target, _ in head.pairs)


@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("backend", ["transformers", "native"])
def test_in_float32_its_logits_are_the_targets_at_every_row(backend: str, sizes: str, shape: TreeShape) -> None:
    module = llama_module(3, num_layers=3)
    target: CausalLM = (
        llama(3, num_layers=3) if backend == "transformers" else NativeModel(llama_module(3, num_layers=3))
    )
    under_test, head = engine(target, module, shape, **SIZES[sizes])
    requests = run(under_test, PROMPTS, PARAMS)
    assert under_test.drafting.faults == {}
    assert [request.stats.mean_accepted_length for request in requests] == [5.0] * 5  # γ + 1
    assert largest(head) <= 1e-4
    rows = sum(len(ours) for ours, _, _ in head.pairs)
    assert rows > sum(len(request.tokens) for request in requests)
    assert (sum(request.stats.preemptions for request in requests) > 0) == (sizes == "preempted")


def wrong_boundary(head: LastLayerHead) -> None:
    bind = head.bind

    def bound(target: TargetHandle) -> Needs:
        needs = bind(target)
        head.before -= 1
        return replace(needs, hidden=(head.before,))

    head.bind = bound


def late_by_one(head: LastLayerHead) -> None:
    forward = head.base.rotary_emb.forward
    head.base.rotary_emb.forward = lambda x, positions: forward(x, positions * 2)


def without_a_norm(head: LastLayerHead) -> None:
    head.layer.post_attention_layernorm = torch.nn.Identity()


def other_slots(head: LastLayerHead) -> None:
    attach = head.attach

    def attached(cache: PagedCache, pools: Sequence[Pool]) -> None:
        attach(cache, pools)
        cache.moving = Moving([pool for pool in cache.pools if pool is not head.pool])

    head.attach = attached


@pytest.mark.parametrize("broken", [wrong_boundary, late_by_one, without_a_norm, other_slots])
def test_what_is_off_shows(broken: Callable[[LastLayerHead], None]) -> None:
    head = LastLayerHead(llama_module(3, num_layers=3), TREE)
    broken(head)
    # Accepted nodes are written once more by `observe`; here only their first entries are to be looked at.
    engine = Engine(llama(3, num_layers=3), head, config=EngineConfig(block_size=4, num_blocks=256))
    if broken is other_slots:
        keep = head.observe

        def observe(outcomes: Sequence[Outcome]) -> None:
            before = [tensor.clone() for tensor in head.pool.tensors]
            keep(outcomes)
            verified = all(outcome.tokens for outcome in outcomes)
            for tensor, old in zip(head.pool.tensors, before, strict=True):
                if verified and len(outcomes[0].tree):
                    tensor.copy_(old)

        head.observe = observe
    [request] = run(engine, [PROMPTS[1]], PARAMS)
    assert engine.drafting.faults == {}
    assert largest(head) > 1e-2
    assert request.stats.mean_accepted_length < 5.0


@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
def test_a_forked_prefix_brings_the_heads_entries_with_it(shape: TreeShape) -> None:
    under_test, head = engine(llama(3, num_layers=3), llama_module(3, num_layers=3), shape)
    parent = add(under_test, PROMPTS[2], PARAMS)
    while len(parent.output) < 10:
        under_test.step()
    child: Request = under_test.make_request(list(parent.tokens), PARAMS)
    under_test.cache.fork(parent.id, child.id)
    under_test.scheduler.join(child)
    drain(under_test)
    assert under_test.drafting.faults == {}
    assert child.stats.mean_accepted_length == 5.0
    assert child.stats.prefill_seconds == 0.0  # not one row of the prefix was run again
    assert largest(head) <= 1e-4


@pytest.mark.skipif(library() is None, reason="no native kernels")
@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
def test_in_bfloat16_they_differ_by_no_more_than_rounding(shape: TreeShape) -> None:
    """The target rounds what it multiplies to bfloat16, the head does not; its weights are the same rounded numbers."""
    module = llama_module(3, num_layers=3)
    rounded = copy.deepcopy(module).to(torch.bfloat16).float()
    under_test, head = engine(NativeModel(module, kind="bfloat16"), rounded, shape)
    run(under_test, PROMPTS, PARAMS)
    assert under_test.drafting.faults == {}
    for ours, target, stream in head.pairs:
        assert bool(((ours - target).abs() <= budget(head, stream, ours)).all())


def budget(head: LastLayerHead, stream: Tensor, logits: Tensor) -> Tensor:
    """[T, V]: what roundings to bfloat16 may add up to, to first order.

    Every operand of a product is off by u = 2⁻⁹ of its size: the normed row, the attended values, the gated row and the
    row that the head reads; keys and values in the cache by u as well, and queries by as much as the keys through the
    products that make them. A product W·x is then off by at most |W|·|δx|, and a norm divides δ by the row's RMS.
    Softmax weights change by at most twice the largest change of a score.
    """
    u, layer, a = 2.0**-9, head.layer, head.attention
    rms = stream.pow(2).mean(-1, keepdim=True).sqrt()
    x = layer.input_layernorm(stream).abs()
    scale = {name: getattr(a, name).weight.abs() for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    values = x @ scale["v_proj"].T
    scores = (x @ scale["q_proj"].T).amax() * (x @ scale["k_proj"].T).amax() * a.head_dim * a.scaling
    attended = values.amax() * (4 * u + 2 * 4 * u * scores)
    delta = attended * scale["o_proj"].sum(1) + u * (values.amax() * scale["o_proj"].sum(1))
    after = rms.amin()
    y = layer.post_attention_layernorm(stream).abs().amax() + delta.amax() / after
    gate, up, down = (getattr(layer.mlp, name).weight.abs() for name in ("gate_proj", "up_proj", "down_proj"))
    normed = u * y + delta.amax() / after
    gated = 2 * (gate.sum(1) * y) * (up.sum(1) * normed) + 2 * (up.sum(1) * y) * (gate.sum(1) * normed)
    delta = delta.amax() + (down @ gated).amax()
    final = u * head.base.norm(stream).abs().amax() + delta / after
    return head.lm_head.weight.abs().sum(1) * final + torch.zeros_like(logits)


@pytest.mark.slow
def test_it_keeps_to_the_contract_of_drafters(capsys: pytest.CaptureFixture[str]) -> None:
    def make(target: CausalLM) -> LastLayerHead:
        head = LastLayerHead(target.module, TREE)  # type: ignore[attr-defined]
        head.pairs = deque(maxlen=1)  # what it compares is for the tests above
        return head

    check_drafter(make, seeds=(0,), quick=True)
    assert "passed  an adopted prefix" in capsys.readouterr().out
