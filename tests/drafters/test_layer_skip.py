"""Layer skipping against transformers' own cache: a part of the model goes on where the whole of it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from specdec import ConfigError, SamplingParams, TargetHandle, UnsupportedModelError
from specdec.drafters.layer_skip import LayerSkipDrafter
from specdec.models.triton import TritonModel
from specdec.verify.tree import ROOT
from tests.drafters.test_model_drafters import Desk
from tests.drafting import draft_request
from tests.tiny import llama, llama_module

PROMPTS = [[5, 17, 3, 40, 40, 9], [1], [2, 3] * 9]
WARM = SamplingParams(temperature=0.7)


@torch.inference_mode()
def logits_after(
    skips: tuple[Sequence[int], Sequence[int]], text: Sequence[int], drafted: Sequence[int]
) -> torch.Tensor:
    """[V], after text and draft: the whole module reads the text but for its last token, and one whose left-out parts
    give zeros goes on from there."""
    whole = llama_module(1, num_layers=3)
    part = copy.deepcopy(whole)
    for index, layer in enumerate(part.model.layers):
        layer.self_attn.o_proj.weight *= index not in skips[0]
        layer.mlp.down_proj.weight *= index not in skips[1]
    held = whole(input_ids=torch.tensor([text[:-1]]), use_cache=True).past_key_values if len(text) > 1 else None
    rest = torch.tensor([[text[-1], *drafted]])
    logits: torch.Tensor = part(input_ids=rest, past_key_values=held, use_cache=True).logits[0, -1]
    return logits


@pytest.mark.parametrize("skips", [([1], []), ([], [2]), ([0, 1], [1]), ([2], [0, 1, 2])], ids=str)
def test_a_draft_is_what_the_part_says_after_what_the_whole_has_read(skips: tuple[list[int], list[int]]) -> None:
    desk = Desk(LayerSkipDrafter(3, *skips, branches=2), llama(seed=1, num_layers=3), read=True)
    requests = [draft_request(prompt, request_id=i, rule="traversal", params=WARM) for i, prompt in enumerate(PROMPTS)]
    for prompt, tree in zip(PROMPTS, desk.propose(requests), strict=True):
        assert len(tree) == 6
        assert tree.q is not None
        for node in (ROOT, *range(4)):
            want = torch.softmax(logits_after(skips, prompt, tree.prefix(node)) / 0.7, -1)
            torch.testing.assert_close(tree.q_below(node), want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("layers", "options", "left_out"),
    [
        (6, {}, ((1, 3), ())),
        (7, {}, ((1, 3, 5), ())),
        (6, {"skip_mlp": [2]}, ((), (2,))),
        (6, {"skip_attention": [4, 4]}, ((4,), ())),
    ],
)
def test_every_second_attention_is_skipped_unless_something_is_named(
    layers: int, options: dict[str, list[int]], left_out: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    model = LayerSkipDrafter(**options).part(llama(num_layers=layers))  # type: ignore[arg-type]
    parts = [(layer.self_attn, layer.mlp) for layer in model.module.model.layers]  # type: ignore[attr-defined]
    silent = [
        tuple(i for i, each in enumerate(kind) if type(each).__name__ == "_Nothing")
        for kind in zip(*parts, strict=True)
    ]
    assert tuple(silent) == left_out


def test_what_the_target_does_not_have_is_refused() -> None:
    target = TargetHandle(llama(num_layers=2))
    with pytest.raises(ConfigError, match=r"leaves out nothing of tiny-0, which has 2 layers\. Name some"):
        LayerSkipDrafter().bind(target)
    with pytest.raises(ConfigError, match="leaves out nothing"):
        LayerSkipDrafter(skip_attention=[], skip_mlp=[]).bind(target)
    with pytest.raises(UnsupportedModelError, match=r"has the layers 0 to 1; .* the mlp of layer 2"):
        LayerSkipDrafter(skip_mlp=[2]).bind(target)


def test_a_branch_ends_where_the_part_is_not_sure() -> None:
    """No token of a warm text is sure enough for a bound of 1: the first one is kept, and nothing is drawn below it."""
    for bound, depth in ((1.0, 1), (0.0, 3)):
        drafter = LayerSkipDrafter(3, skip_attention=[1], stop="entropy", stop_below=bound)
        desk = Desk(drafter, llama(seed=1, num_layers=3), read=True)
        [tree] = desk.propose([draft_request(PROMPTS[0], rule="block", params=WARM)])
        assert tree.depth == depth


def test_triton_says_what_to_do_instead() -> None:
    with pytest.raises(UnsupportedModelError, match=r"tiny cannot leave out sublayers on Triton\. Use backend="):
        TritonModel.without(SimpleNamespace(name="tiny"), [0], [])  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["skip_attention", "skip_mlp"])
@pytest.mark.parametrize("value", [3, "3", [-1], [1.5], [True], ["0"], {0: 1}, [[0]], [10**9]], ids=repr)
def test_layers_are_a_list_of_numbers(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option} = .* cannot work. Give layers"):
        LayerSkipDrafter(**{option: value})
