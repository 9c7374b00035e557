"""Every architecture of transformers by the users' path: saved to a folder, loaded by its name, and decoded.

It gives what `generate` gives, with drafts on, or it is refused in words. There is nothing in between.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from specdec import SamplingParams, SpeculativeGenerator
from specdec.errors import SpecdecError, UnsupportedModelError
from specdec.models.loading import load
from specdec.testing.drafters import PoisonDrafter
from tests.engines import ProphetDrafter
from tests.models.zoo import MAX_CONTEXT, NAMES, VOCAB_SIZE, WINDOW, generated, save, tiny_config, tokenizer

pytestmark = pytest.mark.fewer(3)

PROMPTS = [
    [5, 9, 14, 33, 7, 5, 9, 14, 33, 50, 61, 5, 9, 71, 72, 5, 9, 14, 33, 80, 81, 82, 5, 9],
    [17, 18, 19, 20, 60, 3, 97, 41, 17, 18, 19],
]
"""The first is longer than every window, and so is the text of the second."""
TOKENS = 30

RUN = {
    *("afmoe", "apertus", "arcee", "aria_text", "axk1", "beam", "biogpt", "bitnet", "cohere", "cohere2"),
    *("cohere2_moe", "cohere_compass_text", "ctrl", "cwm", "dbrx", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5"),
    *("ernie4_5_moe", "exaone4", "exaone_moe", "flex_olmo", "fuyu", "gemma", "gemma2", "gemma3", "gemma3_text"),
    *("gemma3n_text", "gemma4", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "got_ocr2", "gpt-sw3"),
    *("gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense"),
    *("hunyuan_v1_moe", "hy_v3", "hyperclovax", "internlm3", "iquestcoder", "jais2", "jetmoe", "kolibri1", "laguna"),
    *("lfm2", "llama", "longcat_flash", "mellum", "minicpm3", "minimax_m2", "minimax_m3_vl_text", "ministral"),
    *("ministral3", "mistral", "mixtral", "modernbert-decoder", "moss_transcribe_diarize", "nanochat", "nemotron"),
    *("olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phi4_multimodal", "qwen2", "qwen2_moe"),
    *("qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "youtu"),
}
"""Those that must decode; of the others each may, or is refused."""
QUICK = [
    *("cohere2", "deepseek_v3", "gemma2", "gemma3", "gpt2", "gpt_neox", "granite", "llama", "ministral3", "mixtral"),
    *("nemotron", "olmo3", "opt", "phi3", "qwen3", "stablelm", "starcoder2"),
    *("bert", "bloom", "falcon_mamba", "gpt_oss", "llama4", "mamba", "moshi", "phimoe", "qwen3_next", "rwkv", "t5"),
]
"""Of the most used ones, and of every reason to refuse one."""

ROPE = {"rope_theta": 1e4, "factor": 4.0}
SHARING = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
VARIANTS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "a window that only the configuration has": ("llama", {"sliding_window": WINDOW}, "keeps the last 16 tokens"),
    "windows that the layers do not know": (
        "llama",
        {"layer_types": ["sliding_attention"] * 3, "sliding_window": WINDOW},
        "keeps the last 16 tokens",
    ),
    "chunks that only the configuration has": ("llama", {"attention_chunk_size": WINDOW}, "keeps the last 16 tokens"),
    "a llama that sees both ways": ("llama", {"is_causal": False}, "attention to later tokens"),
    "a qwen that sees both ways": ("qwen2", {"is_causal": False}, "attention to later tokens"),
    "a gemma that sees both ways": ("gemma3_text", {"use_bidirectional_attention": True}, "masks its attention in a"),
    "layers that leave attention out": ("llama", {"per_layer_config": {1: {"skip": ["attention"]}}}, ""),
    "one window for some layers": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, None),
    "a window longer than the texts": ("starcoder2", {"sliding_window": 100}, None),
    "a window as long as the context": ("phimoe", {"sliding_window": MAX_CONTEXT}, None),
    "keys that layers share": (
        "gemma3n_text",
        {"num_hidden_layers": 5, "num_kv_shared_layers": 2, "layer_types": SHARING},
        None,
    ),
    "keys that layers of gemma 4 share": (
        "gemma4_text",
        {"num_hidden_layers": 5, "num_kv_shared_layers": 2, "layer_types": SHARING},
        None,
    ),
    "heads of two sizes": ("gemma4_text", {"global_head_dim": 16}, "different key/value shapes"),
    "values of another size": ("deepseek_v3", {"v_head_dim": 6}, None),
    "projections of another width": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}, None),
    "a bert that decodes": ("bert", {"is_decoder": True}, None),
    "rotations stretched as a whole": (
        "llama",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", **ROPE}},
        None,
    ),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}, None),
    "one table for both ends": ("llama", {"tie_word_embeddings": True}, None),
}
"""What a configuration may say besides: architecture, its fields, and words of the refusal; None where it must decode,
nothing where it may do either."""


def decodes_as_generate(folder: Path) -> bool:
    """Whether the folder is served; then both prompts' texts are those of `generate`.

    The drafts: one that knows the text, one that is wrong in every way, in a batch.
    """
    try:
        load(str(folder))
    except SpecdecError as error:
        refusal: SpecdecError | None = error
    else:
        refusal = None
    if refusal is not None:
        assert type(refusal) is UnsupportedModelError
        assert "\n" not in str(refusal)
        assert str(refusal).endswith(".")
        return False
    texts = [generated(folder, prompt, TOKENS) for prompt in PROMPTS]
    assert all(len(text) >= 8 for text in texts)
    known = [[*prompt, *text] for prompt, text in zip(PROMPTS, texts, strict=True)]
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    with SpeculativeGenerator.from_pretrained(str(folder), ProphetDrafter(known)) as generator:
        right = generator.generate(PROMPTS, params)
        wrong = generator.with_drafter(PoisonDrafter()).generate(PROMPTS, params)
    assert [each.token_ids for each in right] == texts
    assert [each.token_ids for each in wrong] == texts
    assert all(each.stats.mean_accepted_length > 2 for each in right)  # drafts were accepted
    assert len({token for text in texts for token in text}) > 2  # a model that says one word would agree with anything
    return True


def check(name: str, folder: Path) -> None:
    try:
        config = tiny_config(name)
        save(config, folder)
    except Exception:  # transformers cannot make a tiny one; its files alone must be refused, too
        assert name not in RUN
        (folder / "config.json").write_text(f'{{"model_type": "{name}", "num_hidden_layers": 1}}')
        save_file({"none": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer(VOCAB_SIZE).save_pretrained(folder)
        with pytest.raises(UnsupportedModelError):
            load(str(folder))
        return
    assert decodes_as_generate(folder) or name not in RUN


@pytest.mark.parametrize("name", QUICK)
def test_an_architecture_decodes_as_generate_or_is_refused(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_every_other_architecture_decodes_as_generate_or_is_refused(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_configuration_says_besides_is_understood_or_refused(name: str, tmp_path: Path) -> None:
    kind, options, reason = VARIANTS[name]
    save(tiny_config(kind, **options), tmp_path)
    assert decodes_as_generate(tmp_path) or reason is not None
    if reason:
        with pytest.raises(UnsupportedModelError, match=reason):
            load(str(tmp_path))


def test_the_page_lists_the_architectures_that_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    listed = page[page.index("the same text as `generate`") : page.index("| not run |")]
    assert {name for name in re.findall(r"`([\w-]+)`", listed) if name in NAMES} == RUN
