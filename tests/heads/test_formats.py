"""Published layouts: files with the names, shapes and settings of their authors give the logits of plain float64 loops,
and what we write has the same names, shapes and meaning."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig, TargetSizes
from specdec.heads.files import load_head, save_head
from specdec.heads.medusa import MedusaHead
from specdec.heads.pairs import PairHead
from tests.heads import published, reference, toys
from tests.heads.test_block import TOLERANCE

pytestmark = pytest.mark.fewer(3)

TARGET, NARROW = TargetSizes(5, 24, 50), TargetSizes(5, 18, 50)
LISTED = "eagle_aux_hidden_state_layer_ids"
EMBEDDED = {"embed_tokens.weight": (50, 24)}
ROWS = {**EMBEDDED, "lm_head.weight": (50, 24)}


def nested(settings: dict[str, Any], key: str = "dflash_config", **more: Any) -> dict[str, Any]:
    return {**settings, key: {**settings[key], **more}}


def speculators(kind: str, **more: Any) -> dict[str, Any]:
    return {**published.SPECULATORS, "speculators_model_type": kind, "architectures": [kind], **more}


BLOCK_IDS = {"aux_hidden_state_layer_ids": [1, 3, 4], "block_size": 4, "mask_token_id": 3}
CASES: dict[str, tuple[str, dict[str, Any], published.Shapes, dict[str, Any]]] = {
    "DFlash": ("dflash", published.DFLASH, published.block(), {"anchor_predicts": False, "taps": (1, 3, 4)}),
    "DFlash, anchor said to predict": (
        "dflash", nested(published.DFLASH, sample_from_anchor=True), published.block(), {"anchor_predicts": True}),
    "DFlash, bias": ("dflash", {**published.DFLASH, "attention_bias": True}, published.block(bias=True),
                     {"qkv_bias": True}),
    "JetSpec, other width": ("dflash", nested(published.DFLASH, causal_head=True, target_hidden_size=18),
                             published.block(18), {"causal": True, "target_hidden_size": 18}),
    "SpecForge DSpark": ("dflash", published.SPECFORGE_DSPARK, published.block() | published.spark(),
                         {"anchor_predicts": True, "markov_rank": 6}),
    "DSpark": ("dspark", published.DSPARK, published.block() | published.spark() | ROWS,
               {"anchor_predicts": True, "confidence": True, "own_output": True}),
    "EAGLE-3": ("eagle3", {**published.EAGLE3, "draft_vocab_size": 20,
                           "eagle_config": {LISTED: [1, 2, 4]}},
                published.eagle3(), {"taps": (1, 2, 4)}),
    "EAGLE-3, all tokens": ("eagle3", {**published.EAGLE3, "draft_vocab_size": 50, "target_hidden_size": 18,
                                       "eagle_config": {LISTED: [0, 3, 5]}},
                            published.eagle3(50, 18) | EMBEDDED, {"taps": (0, 3, 5), "target_hidden_size": 18}),
    "EAGLE-3.1": ("specforge", {**published.SPECFORGE, "draft_vocab_size": 20, "fc_norm": True, "norm_output": True,
                                "eagle_aux_hidden_state_layer_ids": [1, 2, 3]},
                  published.eagle3() | {f"fc_norm.{i}.weight": (24,) for i in range(3)},
                  {"fc_norm": True, "norm_output": True}),
    "speculators, EAGLE-3": ("speculators", speculators(
        "eagle3", draft_vocab_size=20, norm_before_residual=True, norm_before_fc=True,
        eagle_aux_hidden_state_layer_ids=[1, 3, 4], transformer_layer_config={
            **published.SPECULATORS["transformer_layer_config"], "num_hidden_layers": 1, "layer_types": None}),
        published.eagle3(first="layers.0.", qk_norm=True) | EMBEDDED | {"input_norm.weight": (72,)},
        {"norm_before_residual": True, "norm_before_fc": True, "taps": (1, 3, 4)}),
    "speculators, DFlash": ("speculators", speculators("dflash", draft_vocab_size=50, **BLOCK_IDS),
                            published.block() | ROWS, {"anchor_predicts": False, "taps": (1, 3, 4)}),
    "speculators, DSpark": ("speculators", speculators("dspark", draft_vocab_size=20, markov_rank=6, **BLOCK_IDS),
                            {**published.block(), **published.spark(20), **EMBEDDED, "lm_head.weight": (20, 24),
                             "d2t": (20,), "t2d": (50,)}, {"anchor_predicts": True, "markov_all": True}),
    "speculators, MTP": ("speculators", speculators("mtp", num_nextn_predict_layers=1), published.mtp(),
                         {"architecture": "mtp", "taps": (5,)}),
    "EAGLE-1": ("eagle", published.EAGLE3 | {"bias": True}, published.eagle1(), {"fc_bias": True, "taps": (5,)}),
    "EAGLE-1, no bias": ("eagle", published.EAGLE3 | {"bias": False}, published.eagle1(bias=False),
                         {"architecture": "eagle1", "fc_bias": False}),
    "Medusa": ("medusa", published.MEDUSA, published.medusa(), {"medusa_heads": 3, "fc_bias": True}),
    "Medusa, no bias": ("medusa", published.MEDUSA, published.medusa(2, bias=False), {"medusa_heads": 2}),
}  # fmt: skip
"""Name → layout, settings, tensors, and what must be understood of them."""


def loaded(folder: Path, case: str) -> tuple[Head, dict[str, Tensor]]:
    """The head of a case in float64, and the tensors of its file."""
    layout, settings, shapes, _ = CASES[case]
    tensors = published.drawn(shapes)
    published.write(
        folder, settings, tensors, "medusa_lm_head.safetensors" if layout == "medusa" else "model.safetensors"
    )
    narrow = 18 in (settings.get("target_hidden_size"), settings.get("dflash_config", {}).get("target_hidden_size"))
    return load_head(folder, NARROW if narrow else TARGET).double(), tensors


def shared(head: Head) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    embedding, output = (torch.randn(50, 24, generator=generator, dtype=torch.float64) for _ in range(2))
    head.bind(embedding, output)
    return embedding, output


def expected(head: Head, tensors: dict[str, Tensor], embedding: Tensor, output: Tensor) -> tuple[Tensor, np.ndarray]:
    """Logits of the head and of the loops, which see the file's tensors and nothing of ours."""
    w = {name.replace("layers.0.", "midlayer.") if head.config.architecture == "eagle3" else name:
         tensor.double().numpy() for name, tensor in tensors.items()}  # fmt: skip
    ids = np.arange(len(w["d2t"])) + w["d2t"].astype(int) if "d2t" in w else np.arange(50)
    rows = {"ids": np.arange(len(ids)), "rows": w["lm_head.weight"]} if "lm_head.weight" in w else {
        "ids": ids, "rows": output.numpy()}  # fmt: skip
    embedding = w.get("embed_tokens.weight", embedding.numpy())
    taps, tokens = toys.text(head.config, 1, 7)
    if isinstance(head, PairHead):
        loops = getattr(reference, head.config.architecture)
        hidden = loops(w, head.config, embedding, taps[0].numpy(), tokens[0].numpy(), 2)
        return head(taps, tokens, 2).logits[:, 0], hidden @ rows["rows"][rows["ids"]].T
    if isinstance(head, MedusaHead):
        x = taps[0, :, 0].numpy()
        hidden = [x + reference.silu(x @ w[f"{i}.0.linear.weight"].T + w.get(f"{i}.0.linear.bias", 0.0))
                  for i in range(head.config.medusa_heads)]  # fmt: skip
        return head(taps)[0], np.stack([h @ w[f"{i}.1.weight"].T for i, h in enumerate(hidden)], 1)
    assert isinstance(head, BlockHead)
    got = head(taps, tokens, torch.tensor([[4]]), torch.tensor([[True]])).logits[0, 0]
    if (
        head.config.markov_rank
    ):  # the loops find W1's row in the draft vocabulary: give them those rows, and the others'
        before = [int(tokens[0, min(4 + k, 6)]) for k in range(4)]
        w1 = w["markov_head.markov_w1.weight"]
        wanted = []
        for k, token in enumerate(before):
            w["markov_head.markov_w1.weight"] = np.repeat(w1[token][None], 51, 0)
            wanted.append(reference.block(w, head.config, embedding, rows, taps[0].numpy(), tokens[0].numpy(), 4)[1][k])
        return got, np.stack(wanted)
    return got, reference.block(w, head.config, embedding, rows, taps[0].numpy(), tokens[0].numpy(), 4)[1]


@pytest.mark.parametrize("case", CASES)
def test_a_published_file_gives_the_logits_of_plain_loops(case: str, tmp_path: Path) -> None:
    head, tensors = loaded(tmp_path, case)
    assert {name: getattr(head.config, name) for name in CASES[case][3]} == CASES[case][3]
    with torch.no_grad():
        got, wanted = expected(head, tensors, *shared(head))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_has_the_names_and_shapes_of_the_published_file(case: str, tmp_path: Path) -> None:
    """And the same head is read from it, bit for bit."""
    head, tensors = loaded(tmp_path / "theirs", case)
    shared(head)
    save_head(head.float(), tmp_path / "ours", CASES[case][0])
    [file] = (tmp_path / "ours").glob("*.safetensors")
    again = load_file(file)
    assert {name: tuple(tensor.shape) for name, tensor in again.items()} == CASES[case][2]
    assert all(
        torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    ours = load_head(tmp_path / "ours", TargetSizes(5, head.config.target_hidden_size, 50))
    assert ours.config == head.config
    assert all(torch.equal(*pair) for pair in zip(ours.state_dict().values(), head.state_dict().values(), strict=True))


def test_we_write_no_setting_that_the_published_files_lack(tmp_path: Path) -> None:
    """But for those that say what is so without them."""
    beside = {"sample_from_anchor", "target_hidden_size", "causal_head", "attention_bias", "rope_scaling", "head_dim"}
    for case in ("DFlash", "SpecForge DSpark", "DSpark", "EAGLE-3.1", "Medusa"):
        head, _ = loaded(tmp_path / case, case)
        shared(head)
        save_head(head, tmp_path / f"{case}, ours", CASES[case][0])
        ours, theirs = json.loads((tmp_path / f"{case}, ours" / "config.json").read_text()), CASES[case][1]
        for mine, its in ((ours, theirs), (ours.get("dflash_config", {}), theirs.get("dflash_config", {}))):
            plain = {"markov_rank": 0, "markov_head_type": "vanilla", "enable_confidence_head": False,
                     "confidence_head_with_markov": False, "norm_before_residual": False, "norm_before_fc": False,
                     "base_model_name_or_path": None}  # fmt: skip
            strange = {
                key for key, value in mine.items() if key not in its and key not in beside and plain.get(key) != value
            }
            assert strange == set(), case


def spoilt(
    settings: dict[str, Any] | None = None, **tensors: Any
) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(given: dict[str, Any], stored: dict[str, Tensor]) -> None:
        given.update(settings or {})
        for name, tensor in tensors.items():
            stored[name.replace("__", ".")] = tensor(stored[name.replace("__", ".")])

    return change


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Tensor]], None], str]] = {
    "absolute ids as offsets": ("EAGLE-3", spoilt(d2t=lambda d2t: d2t + torch.arange(20)), "offsets that give no"),
    "ids beyond the vocabulary": ("EAGLE-3", spoilt(d2t=lambda d2t: d2t + 40), "below 50"),
    "maps that differ": ("EAGLE-3", spoilt(t2d=lambda t2d: ~t2d), "t2d marks 30"),
    "another vocabulary": ("EAGLE-3", spoilt({"draft_vocab_size": 21}), "draft_vocab_size is 21"),
    "a tap too high": ("EAGLE-3", spoilt({"eagle_config": {LISTED: [1, 2, 6]}}), "a target of 5 layers"),
    "another activation": ("EAGLE-3", spoilt({"hidden_act": "gelu"}), "'gelu', not 'silu'"),
    "another rotation": ("EAGLE-3", spoilt({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "'dynamic'"),
    "no width": ("EAGLE-3", spoilt({"hidden_size": None}), "nothing of 'hidden_size'"),
    "a width that is none": ("EAGLE-3", spoilt({"hidden_size": "wide"}), "Cannot read"),
    "a norm that is missing": ("EAGLE-3", spoilt({"norm_before_fc": True}), "'input_norm.weight' is missing"),
    "another Markov term": ("DSpark", spoilt({"markov_head_type": "rnn"}), "kind 'rnn'"),
    "a sliding window": ("DFlash", spoilt({"layer_types": ["sliding_attention"] * 2}), "sliding window"),
    "no mask": ("DSpark", spoilt({"mask_token_id": None}), "nothing of 'mask_token_id'"),
    "a residual that is not said": (
        "speculators, EAGLE-3", spoilt({"norm_before_residual": None}), "nothing of 'norm_before_residual'"),
    "no head at all": ("EAGLE-1", lambda settings, stored: stored.pop("fc.weight"), "a whole model, or no head"),
    "another type": ("speculators, DSpark", spoilt({"speculators_model_type": "peagle"}), "'peagle', not one of"),
    "a strange tensor": ("Medusa", lambda settings, stored: stored.update(extra=torch.zeros(1)), "'extra' is none of"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_true_are_refused(case: str, tmp_path: Path) -> None:
    base, change, words = REFUSED[case]
    _, settings, shapes, _ = CASES[base]
    settings, tensors = dict(settings), published.drawn(shapes)
    change(settings, tensors)
    published.write(tmp_path, settings, tensors)
    with pytest.raises(UnsupportedModelError, match=words) as refused:
        load_head(tmp_path, TARGET)
    assert str(tmp_path) in str(refused.value)


def test_the_same_list_of_layers_means_two_things(tmp_path: Path) -> None:
    """A reader that takes outputs for boundaries is one layer off, so either can be asked for."""
    loaded(tmp_path / "eagle3", "EAGLE-3")
    loaded(tmp_path / "dflash", "DFlash")
    assert load_head(tmp_path / "eagle3", TARGET).config.taps == (1, 2, 4)
    assert load_head(tmp_path / "eagle3", TARGET, numbering="output").config.taps == (2, 3, 5)
    assert load_head(tmp_path / "dflash", TARGET).config.taps == (1, 3, 4)
    assert load_head(tmp_path / "dflash", TARGET, numbering="boundary").config.taps == (0, 2, 3)


def test_layers_that_are_not_listed_are_the_papers(tmp_path: Path) -> None:
    """2, L // 2 and L - 3 of L."""
    settings = {**published.EAGLE3, "draft_vocab_size": 20}
    settings.pop("eagle_config", None)
    published.write(tmp_path, settings, published.drawn(published.eagle3()))
    assert load_head(tmp_path, TargetSizes(30, 24, 50)).config.taps == (2, 15, 27)
    with pytest.raises(UnsupportedModelError, match="Name the target"):
        load_head(tmp_path)


def test_output_rows_tied_to_the_files_own_embedding_are_taken_from_it(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in published.eagle3().items() if name != "lm_head.weight"} | EMBEDDED
    tensors = published.drawn(shapes)
    settings = {**CASES["EAGLE-3"][1], "tie_word_embeddings": True}
    published.write(tmp_path, settings, tensors)
    head = load_head(tmp_path, TARGET)
    assert torch.equal(head.lm_head.weight, tensors["embed_tokens.weight"][head.draft_ids])
    published.write(tmp_path, {**settings, "tie_word_embeddings": False}, tensors)
    assert not load_head(tmp_path, TARGET).config.own_output


def test_a_head_with_one_row_for_all_unknown_tokens_drafts_alike_with_a_row_for_each(tmp_path: Path) -> None:
    """speculators' W1 has a row for every token of the target; ours for those that the head knows, and one more."""
    config = toys.config("block", block_size=4, markov_rank=6, confidence=True, qk_norm=True)
    head = toys.drawn(BlockHead(config, toys.draft_ids(config))).float()
    embedding, output = shared(head)
    save_head(head, tmp_path, "speculators")
    again = load_head(tmp_path, TARGET)
    again.bind(embedding, output)
    assert again.config.markov_all
    taps, tokens = toys.text(config, 1, 40)
    assert 0 < int((head.draft_index[tokens] == 20).sum()) < 40
    anchors = torch.arange(40)[None]
    mine, its = (each.double()(taps, tokens, anchors, anchors >= 0) for each in (head, again))
    torch.testing.assert_close(its.logits, mine.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(its.confidence, mine.confidence, rtol=0, atol=1e-5)


def test_names_of_other_stacks_are_understood(tmp_path: Path) -> None:
    """vLLM's layers.0 and aux_norm_*, early files' logit_head, and tables of angles that can be computed."""
    head, tensors = loaded(tmp_path / "a", "EAGLE-3.1")
    old = {name.replace("midlayer.", "layers.0."): tensor for name, tensor in tensors.items()}
    for number, word in enumerate(("low", "mid", "high")):
        old[f"aux_norm_{word}.weight"] = old.pop(f"fc_norm.{number}.weight")
    old["layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    published.write(tmp_path / "b", CASES["EAGLE-3.1"][1], old)
    again = load_head(tmp_path / "b", TARGET)
    assert all(torch.equal(a.float(), b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    head, tensors = loaded(tmp_path / "c", "SpecForge DSpark")
    old = {f"logit_head.{name}" if "_head." in name else name: tensor for name, tensor in tensors.items()}
    published.write(tmp_path / "d", CASES["SpecForge DSpark"][1], old)
    assert torch.equal(load_head(tmp_path / "d", TARGET).fc.weight, head.fc.weight.float())


def test_a_layout_refuses_heads_that_its_readers_would_misread(tmp_path: Path) -> None:
    block = {"block_size": 4, "draft_vocab_size": 50, "qk_norm": True}
    for layout, options, words in (
        ("dflash", {"qk_norm": False}, "qk_norm=False"),
        ("dflash", {"fc_norm": True}, "fc_norm=True"),
        ("dflash", {"draft_vocab_size": 20}, "no place for a draft vocabulary"),
        ("dspark", {"causal": True}, "causal block"),
        ("speculators", {"causal": True}, "no causal blocks"),
        ("eagle3", {}, "EAGLE-3 heads"),
        ("medusa", {}, "Medusa heads"),
        ("eagle", {}, "EAGLE-1 heads"),
    ):
        config = toys.config("block", **(block | options))
        head = toys.drawn(BlockHead(config, toys.draft_ids(config)))
        with pytest.raises(ConfigError, match=words):
            save_head(head, tmp_path, layout)
    head = BlockHead(HeadConfig("block", **(toys.SIZES | block)))
    with pytest.raises(ConfigError, match="Bind it first"):
        save_head(head, tmp_path, "speculators")
    with pytest.raises(ConfigError, match="no int8"):
        save_head(head, tmp_path, "dflash", "int8")


JUNK = (None, -1, 0, 3, 2**40, 1.5, float("inf"), True, "x", [], [1, 2, 3], {}, {"a": 1})


def changed(case: str) -> Iterator[dict[str, Any]]:
    """The settings of a case with one of them, at any depth, replaced by something that it never is."""
    settings = CASES[case][1]
    inside = [(key,) for key in settings]
    inside += [(key, name) for key, value in settings.items() if isinstance(value, dict) for name in value]
    for (*outer, key), junk in product(inside, JUNK):
        copy = json.loads(json.dumps(settings))
        (copy[outer[0]] if outer else copy)[key] = junk
        yield copy


def read_or_refused(folder: Path, settings: dict[str, Any]) -> None:
    """Never another error, and never a size that a file made up."""
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    try:
        head = load_head(folder, TARGET)
    except UnsupportedModelError:
        return
    assert sum(weight.numel() for weight in head.parameters()) < 10**5


@pytest.mark.parametrize("case", CASES)
def test_settings_that_are_none_are_refused_or_read(case: str, tmp_path: Path) -> None:
    """A sample of those below."""
    published.write(tmp_path, CASES[case][1], published.drawn(CASES[case][2]))
    for settings in random.Random(case).sample(list(changed(case)), 4):
        read_or_refused(tmp_path, settings)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_settings_that_are_none_are_refused_or_read(case: str, tmp_path: Path) -> None:
    published.write(tmp_path, CASES[case][1], published.drawn(CASES[case][2]))
    for settings in changed(case):
        read_or_refused(tmp_path, settings)


@pytest.mark.parametrize("case", CASES)
def test_a_tensor_that_is_cut_or_broken_is_refused(case: str, tmp_path: Path) -> None:
    """Each of them, in turn by a row or by a number that is none."""
    _, settings, shapes, _ = CASES[case]
    head, tensors = loaded(tmp_path / "whole", case)
    target = TargetSizes(5, head.config.target_hidden_size, 50)
    for number, name in enumerate(shapes):
        broken = {key: tensor.clone() for key, tensor in tensors.items()}
        if number % 2 and broken[name].is_floating_point():
            broken[name].view(-1)[-1] = torch.inf
        else:
            broken[name] = broken[name][:-1]
        published.write(tmp_path / str(number), settings, {key: tensor.contiguous() for key, tensor in broken.items()})
        with pytest.raises(UnsupportedModelError):
            load_head(tmp_path / str(number), target)
