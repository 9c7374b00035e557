"""Self-speculation in four bits: what is drafted, and that the target never reads it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from specdec import Drafter, Engine, EngineConfig, SamplingParams, TargetHandle, UnsupportedModelError
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.quantized_self import QuantizedSelfDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.kernels.linear.blocks import decoded
from specdec.kernels.linear.rounding import in_blocks
from specdec.models.native import NativeModel
from specdec.policy.curve import CostCurve
from specdec.policy.select import SelectPolicy
from specdec.verify.tree import ROOT
from tests.drafters.test_model_drafters import Desk
from tests.drafting import draft_request
from tests.engines import outputs, run
from tests.tiny import llama, llama_module

PROMPTS = [[5, 17, 3, 40, 40, 9], [1], [2, 3] * 9, [60, 0, 33], [7, 7, 7]]
GREEDY, WARM = SamplingParams(max_tokens=20), SamplingParams(temperature=0.7)
HELD = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
SIZES = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128, max_num_seqs=4)


@torch.inference_mode()
def logits_after(text: Sequence[int], drafted: Sequence[int]) -> Tensor:
    """[V], after text and draft: the module reads the text but for its last token, and one of rounded weights goes on
    from there."""
    whole, part = llama_module(1), llama_module(1)
    for name, each in part.named_modules():
        if isinstance(each, torch.nn.Linear):
            each.weight.data = decoded(in_blocks(each.weight.data, "Q8_0" if name == "lm_head" else "Q4_1")).float()
    held = whole(input_ids=torch.tensor([text[:-1]]), use_cache=True).past_key_values if len(text) > 1 else None
    rest = torch.tensor([[text[-1], *drafted]])
    logits: Tensor = part(input_ids=rest, past_key_values=held, use_cache=True).logits[0, -1]
    return logits


@pytest.mark.parametrize("runs", ["native", "transformers"])
@pytest.mark.parametrize(("rule", "branches"), [("token", 1), ("traversal", 2)])
def test_a_draft_is_what_the_form_says_after_what_the_target_has_read(runs: str, rule: str, branches: int) -> None:
    """Up to the rounding of activations to 8 bits, about 1 % of a product's size; a form that reads its own keys and
    values of committed tokens, or the target's weights, says something else."""
    target = NativeModel(llama_module(1)) if runs == "native" else llama(1)
    desk = Desk(QuantizedSelfDrafter(3, branches), target, read=True)
    requests = [draft_request(prompt, request_id=i, rule=rule, params=WARM) for i, prompt in enumerate(PROMPTS)]
    for prompt, tree in zip(PROMPTS, desk.propose(requests), strict=True):
        assert len(tree) == 3 * branches
        for node in sorted({*tree.parents}):
            wanted = logits_after(prompt, tree.prefix(node) if node != ROOT else ()) / 0.7
            said = tree.q_below(node).log()
            assert ((said - said.mean()) - (wanted - wanted.mean())).norm() < 0.05 * (wanted - wanted.mean()).norm()


@pytest.mark.parametrize("kind", HELD)
def test_texts_are_plain_decodings_and_most_of_a_draft_is_right(kind: str) -> None:
    """In a batch, with few blocks, and drawn with the same noise."""
    target = NativeModel(llama_module(0), "tiny", kind, HELD[kind])
    plain = outputs(run(Engine(target, NoDrafter(), config=SIZES), PROMPTS, GREEDY))
    for drafter in (QuantizedSelfDrafter(3), QuantizedSelfDrafter(4, stop="survival"), QuantizedSelfDrafter(2, 2)):
        requests = run(Engine(target, drafter, config=SIZES), PROMPTS, GREEDY)
        assert outputs(requests) == plain
        assert sum(one.stats.accepted_tokens for one in requests) > 0.5 * sum(one.stats.passes for one in requests)
    warm = SamplingParams(max_tokens=20, temperature=0.8, seed=3)
    said = [outputs(run(Engine(target, each, "gumbel", SIZES), PROMPTS, warm)) for each in (NoDrafter(), drafter)]
    assert said[0] == said[1]


def test_it_is_an_arm_of_select_and_tables_go_on_below_it() -> None:
    target, flat = NativeModel(llama_module(0)), CostCurve((1, 64), (1.0, 1.0))
    plain = outputs(run(Engine(target, NoDrafter(), config=SIZES), PROMPTS, GREEDY))
    arms: list[Drafter] = [QuantizedSelfDrafter(3), SuffixDrafter()]
    requests = run(Engine(target, arms, config=SIZES, policy=SelectPolicy(curve=flat)), PROMPTS * 3, GREEDY)
    assert outputs(requests) == plain * 3
    assert {each.name for one in requests for each in one.stats.by_drafter} >= {"quantized_self"}
    both = CascadeDrafter([QuantizedSelfDrafter(2), SuffixDrafter(floor=0.0)])
    requests = run(Engine(target, both, config=SIZES), PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert max(one.stats.drafted_tokens / one.stats.passes for one in requests) > 2


def test_a_target_of_four_bits_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="another drafter"):
        QuantizedSelfDrafter().bind(TargetHandle(NativeModel(llama_module(0), "tiny", "int4")))
