"""Real architectures with random weights: our attention over the paged cache against the model's own, run plainly.

The oracle is a deep copy of the module with transformers' eager attention. It sees one whole text at a time: no
cache, no batch, no tree.
"""

from __future__ import annotations

import copy
import math
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from specdec.errors import UnsupportedModelError
from specdec.models.transformers import TransformersModel
from tests.models.bench import (
    LLAMA,
    MAX_CONTEXT,
    TOLERANCE,
    TREE_PARENTS,
    TREE_PATHS,
    VOCAB_SIZE,
    WINDOW,
    Bench,
    Own,
    Tapped,
    assert_close,
    branches,
    make_module,
    prefixes,
    rope,
    text,
)

pytestmark = pytest.mark.fewer(4)

GPT2 = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": MAX_CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
WINDOWED = LLAMA | {"sliding_window": WINDOW}
GEMMA = WINDOWED | {"head_dim": 8, "query_pre_attn_scalar": 12}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}


WORKING: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "llama, one kv head": ("Llama", LLAMA | {"num_key_value_heads": 1}),
    "llama, llama3 rope": (
        "Llama",
        LLAMA
        | rope("llama3", factor=4.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "llama, yarn rope": ("Llama", LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen2": ("Qwen2", LLAMA),
    "qwen2, window in the upper layers": ("Qwen2", WINDOWED | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 16}),
    "mistral": ("Mistral", WINDOWED),
    "gemma": ("Gemma", LLAMA | {"head_dim": 16}),
    "gemma2": (
        "Gemma2",
        GEMMA | {"num_hidden_layers": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("Gemma3Text", GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "gpt2": ("GPT2", GPT2),
    "gpt2, scaled by layer": ("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "phi3": ("Phi3", WINDOWED),
    "gpt-neox": ("GPTNeoX", LLAMA),
    "olmo2": ("Olmo2", LLAMA),
    "olmo3": ("Olmo3", WINDOWED | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "opt": (
        "OPT",
        BERT
        | {
            "ffn_dim": 48,
            "max_position_embeddings": MAX_CONTEXT,
            "word_embed_proj_dim": 32,
            "tie_word_embeddings": False,
        },
    ),
    "mixtral": ("Mixtral", WINDOWED | EXPERTS),
    "qwen3-moe": ("Qwen3Moe", LLAMA | EXPERTS | {"head_dim": 8}),
    "starcoder2": ("Starcoder2", WINDOWED),
    "cohere2": (
        "Cohere2",
        WINDOWED
        | {
            "head_dim": 8,
            "logit_scale": 1.0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "granite": ("Granite", LLAMA),
    "smollm3": ("SmolLM3", LLAMA | {"no_rope_layers": [1, 0, 1]}),
    "glm4": ("Glm4", LLAMA | {"head_dim": 8}),
    "deepseek-v3": ("DeepseekV3", LLAMA | EXPERTS | DEEPSEEK),
    "deepseek-v2, smaller values": ("DeepseekV2", LLAMA | EXPERTS | DEEPSEEK | {"v_head_dim": 6}),
    "deepseek-v3, larger values": ("DeepseekV3", LLAMA | EXPERTS | DEEPSEEK | {"v_head_dim": 12}),
    "stablelm, drops keyword arguments": ("StableLm", LLAMA),
    "nemotron, drops keyword arguments": ("Nemotron", LLAMA),
    "phimoe, a window as long as its context": ("Phimoe", LLAMA | EXPERTS | {"sliding_window": MAX_CONTEXT}),
}
"""transformers' config class without its ending, and the arguments of a tiny one."""

NO_EARLY_EXIT = {"opt"}
"""Their layers do not lie directly below the base model."""
NO_SUBLAYERS = {"opt"}
FEEDS = re.compile(r"MLP|Mlp|MoE|Moe(Block)?$|FeedForward")
"""Classes of feed-forward parts."""
MORE_IN_THE_STREAM = {"gpt2", "gpt2, scaled by layer", "opt"}
"""They add positions to the embeddings, or scale them, before the first layer."""
HAVE_WINDOW = [
    "qwen2, window in the upper layers",
    *("mistral", "gemma2", "gemma3", "phi3", "olmo3", "mixtral", "starcoder2", "cohere2"),
]

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("Bloom", {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 3, "n_head": 4}, "bypasses"),
    "gpt-j": ("GPTJ", GPT2 | {"rotary_dim": 4}, "bypasses"),
    "gpt-neo": (
        "GPTNeo",
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
        },
        "bypasses",
    ),
    "falcon": (
        "Falcon",
        {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
        "bypasses",
    ),
    "mpt": ("Mpt", {"vocab_size": VOCAB_SIZE, "d_model": 32, "n_layers": 2, "n_heads": 4}, "bypasses"),
    "codegen": ("CodeGen", GPT2 | {"rotary_dim": 4}, "bypasses"),
    "mamba": ("Mamba", {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2}, "bypasses"),
    "lfm2, convolutions between": (
        "Lfm2",
        LLAMA | {"layer_types": ["conv", "full_attention", "conv"]},
        r"bypasses .*conv",
    ),
    "gpt-oss, attention sinks": (
        "GptOss",
        WINDOWED | EXPERTS | {"head_dim": 8},
        "hands its attention 's_aux' .attention sinks",
    ),
    "bert, sees both ways": ("Bert", BERT, "masks its attention in a way that ours does not"),
    "phimoe, a window that attention is not told of": (
        "Phimoe",
        LLAMA | EXPERTS | {"sliding_window": 64},
        "masks its attention to the last 64 tokens but tells it all tokens",
    ),
    "moshi, a window that only its cache has": (
        "Moshi",
        LLAMA | {"sliding_window": 64, "ffn_dim": 48},
        "keeps the last 64 tokens in its own cache but lets its attention see all tokens",
    ),
    "gemma4, layers of several sizes": (
        "Gemma4Text",
        WINDOWED | {"head_dim": 8, "vocab_size_per_layer_input": VOCAB_SIZE},
        "different key/value shapes",
    ),
}

BEYOND_THE_PROBE: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-h1, a recurrent state beside attention": (
        "FalconH1",
        LLAMA
        | {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
        },
    ),
    "llama4, attention in chunks": (
        "Llama4Text",
        LLAMA | EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
    ),
    "phi3, long rope": (
        "Phi3",
        LLAMA
        | {"original_max_position_embeddings": 32}
        | rope("longrope", short_factor=[1.0] * 4, long_factor=[4.0, 3.0, 2.0, 5.0]),
    ),
    "gemma3, dynamic rope in some layers": (
        "Gemma3Text",
        LLAMA
        | {
            "head_dim": 8,
            "sliding_window": WINDOW,
            "max_position_embeddings": 32,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3, long rope in some layers": (
        "Gemma3Text",
        LLAMA
        | {
            "head_dim": 8,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0, 3.0, 2.0, 5.0],
                    "original_max_position_embeddings": 32,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "llama, dynamic rope": ("Llama", LLAMA | {"max_position_embeddings": 32} | rope("dynamic", factor=4.0)),
}
"""A dozen tokens in one go look right in all of these; longer texts, cached tokens or a batch do not."""


Pair = tuple[TransformersModel, Own]


@pytest.fixture(scope="module", params=WORKING)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A model under our attention, and a separate copy under its own."""
    module = make_module(*WORKING[request.param])
    own = Own(copy.deepcopy(module))
    return TransformersModel(module, request.param), own


PROMPT = text(19, seed=1)


def test_what_the_model_says_of_itself(pair: Pair) -> None:
    model, own = pair
    assert model.vocab_size == VOCAB_SIZE
    assert model.max_context == MAX_CONTEXT
    assert model.kv_layout.num_layers == own.module.config.num_hidden_layers
    assert model.kv_layout.dtype == torch.float32


def test_the_prompt_in_one_chunk(pair: Pair) -> None:
    model, own = pair
    assert_close(Bench(model).append(0, PROMPT), own.all(PROMPT))


@pytest.mark.parametrize("sizes", [[5, 1, 9, 4], [1, 18], [7, 7, 5]], ids=str)
def test_the_prompt_in_several_chunks(pair: Pair, sizes: list[int]) -> None:
    model, own = pair
    bench, logits, rest = Bench(model), [], PROMPT
    for size in sizes:
        logits.append(bench.append(0, rest[:size]))
        rest = rest[size:]
    assert rest == []
    assert_close(torch.cat(logits), own.all(PROMPT))


@pytest.mark.parametrize("block_size", [1, 3, 16], ids="blocks of {}".format)
def test_decoding_one_token_after_another(pair: Pair, block_size: int) -> None:
    model, own = pair
    bench = Bench(model, block_size)
    bench.append(0, PROMPT[:7])
    logits = [bench.append(0, [token]) for token in PROMPT[7:]]
    assert_close(torch.cat(logits), own.last(prefixes(PROMPT[:7], PROMPT[7:])))


@pytest.mark.parametrize("with_parents", [False, True], ids=["", "as a tree"])
def test_verifying_a_chain(pair: Pair, with_parents: bool) -> None:
    """The last sampled token, not yet cached, and four drafted ones; some are then kept and decoding goes on."""
    model, own = pair
    bench, chain = Bench(model), text(5, seed=2)
    bench.append(0, PROMPT)
    parents = [-1, 0, 1, 2, 3] if with_parents else None
    assert_close(bench.run(bench.part(0, chain, parents)), own.last(prefixes(PROMPT, chain)))
    bench.keep(0, chain, [0, 1])
    after = text(3, seed=3)
    assert_close(bench.run(bench.part(0, after)), own.last(prefixes([*PROMPT, *chain[:2]], after)))


@pytest.mark.parametrize("length", [1, 5, 19], ids="{} tokens before".format)
def test_verifying_a_tree(pair: Pair, length: int) -> None:
    model, own = pair
    bench, tree, before = Bench(model), text(7, seed=4), PROMPT[:length]
    bench.append(0, before)
    assert_close(bench.run(bench.part(0, tree, TREE_PARENTS)), own.last(branches(before, tree)))


def test_a_tree_that_is_run_level_by_level(pair: Pair) -> None:
    """The way a drafter grows one: rows that were run earlier in the step are only attended to."""
    model, own = pair
    bench, tree = Bench(model), text(7, seed=4)
    bench.append(0, PROMPT)
    logits = [
        bench.run(bench.part(0, tree[first:stop], TREE_PARENTS, first))
        for first, stop in [(0, 1), (1, 3), (3, 5), (5, 7)]
    ]
    assert_close(torch.cat(logits), own.last(branches(PROMPT, tree)))


@pytest.mark.parametrize("leaf", [3, 5, 6], ids="down to node {}".format)
def test_decoding_on_after_a_path_was_moved_together(pair: Pair, leaf: int) -> None:
    model, own = pair
    bench, tree, path = Bench(model), text(7, seed=4), TREE_PATHS[leaf]
    bench.append(0, PROMPT)
    bench.run(bench.part(0, tree, TREE_PARENTS))
    bench.keep(0, tree, path)
    kept = bench.texts[0]
    assert kept == [*PROMPT, *(tree[row] for row in path)]
    step, again = text(1, seed=5), text(7, seed=6)
    assert_close(bench.append(0, step), own.last([[*kept[: 19 + len(path)], *step]]))
    assert_close(bench.run(bench.part(0, again, TREE_PARENTS)), own.last(branches(bench.texts[0], again)))


def test_a_mixture_of_everything_in_one_pass(pair: Pair) -> None:
    """Twice: what the first pass left in the cache is what the second one reads."""
    model, own = pair
    bench = Bench(model, num_blocks=60)
    texts = {seq: text(length, seed=10 + seq) for seq, length in enumerate([0, 5, 13, 8, 19, 11, 2])}
    bench.run(*(bench.part(seq, texts[seq], logit_rows=[]) for seq in texts if seq > 0))
    for seq in texts:
        if seq > 0:
            bench.cache.commit(seq, len(texts[seq]))
            bench.texts[seq] += texts[seq]

    prompt, chunk, last, chain = text(9, 20), text(7, 21), text(1, 22), text(5, 23)
    tree, late, lone = text(7, 24), text(7, 25), text(7, 26)
    # Of this tree the first three rows are run ahead of the pass.
    bench.run(bench.part(5, late[:3], TREE_PARENTS))
    logits = bench.run(
        bench.part(0, prompt, logit_rows=[8]),
        bench.part(1, chunk, logit_rows=[]),
        bench.part(2, last),
        bench.part(3, chain),
        bench.part(4, tree, TREE_PARENTS),
        bench.part(5, late[3:], TREE_PARENTS, first=3, logit_rows=[3, 0]),
        bench.part(6, lone, TREE_PARENTS, logit_rows=[0, 4, 6]),
    )
    expected = [
        prompt,
        [*texts[2], *last],
        *prefixes(texts[3], chain),
        *branches(texts[4], tree),
        *(branches(texts[5], late)[row] for row in (6, 3)),
        *(branches(texts[6], lone)[row] for row in (0, 4, 6)),
    ]
    assert_close(logits, own.last(expected))

    bench.keep(0, prompt, range(9))
    bench.keep(1, chunk, range(7))
    bench.keep(2, last, [])
    bench.keep(3, chain, [0, 1, 2])
    bench.keep(4, tree, TREE_PATHS[6])
    bench.keep(5, late, TREE_PATHS[3])
    bench.keep(6, lone, TREE_PATHS[1])
    bench.cache.check_integrity()
    before = [list(bench.texts[seq]) for seq in range(7)]
    logits = bench.run(*(bench.part(seq, [40 + seq]) for seq in range(7)))
    assert_close(logits, own.last([[*before[seq], 40 + seq] for seq in range(7)]))


def test_a_pass_without_logits_fills_the_cache_all_the_same(pair: Pair) -> None:
    model, own = pair
    bench = Bench(model)
    bench.run(bench.part(0, PROMPT[:18], logit_rows=[]))
    bench.cache.commit(0, 18)
    assert_close(bench.append(0, PROMPT[18:]), own.last([PROMPT]))


def test_hidden_states_are_the_models_own(pair: Pair) -> None:
    """A tree after a prompt; also of rows without logits."""
    model, own = pair
    boundaries = range(model.kv_layout.num_layers + 1)
    tree, expected = text(7, seed=4), own.hidden(branches(PROMPT, text(7, seed=4)), boundaries).flatten(1)
    for keeps in (0, 1):
        bench = Bench(Tapped(model, keeps=keeps))
        bench.append(0, PROMPT)
        states = bench.run(bench.part(0, tree, TREE_PARENTS))
        # Streams are as large as their module makes them, unlike logits.
        assert float((states - expected).abs().max()) <= TOLERANCE * max(1.0, float(expected.abs().max()))


def test_embeddings_are_what_the_models_own_embedding_gives(pair: Pair, request: pytest.FixtureRequest) -> None:
    model, own = pair
    embedded = model.embed(PROMPT)
    assert embedded.dtype == torch.float32
    assert embedded.shape[0] == len(PROMPT)
    if request.node.callspec.params["pair"] not in MORE_IN_THE_STREAM:
        assert torch.equal(embedded, own.hidden(prefixes([], PROMPT), [0])[:, 0])


def test_early_exit_equals_a_model_that_has_only_the_first_layers(pair: Pair, request: pytest.FixtureRequest) -> None:
    model, own = pair
    name = request.node.callspec.params["pair"]
    kind, options = WORKING[name]
    if name in NO_EARLY_EXIT:
        with pytest.raises(UnsupportedModelError, match=r"cannot exit early: .* Use another drafter"):
            model.truncated(2)
        return
    total = model.kv_layout.num_layers
    for num_layers in range(1, total):
        fewer = {"n_layer" if "n_layer" in options else "num_hidden_layers": num_layers}
        if "layer_types" in options:
            fewer["layer_types"] = options["layer_types"][:num_layers]
        small = make_module(kind, options | fewer, seed=9)
        weights = own.module.state_dict()
        small.load_state_dict({key: weights[key] for key in small.state_dict()})
        short, short_own = model.truncated(num_layers), Own(small)
        assert short.name == f"{name}[:{num_layers}]"
        assert short.kv_layout.num_layers == num_layers
        bench, tree, step = Bench(short), text(7, seed=4), text(1, seed=5)
        assert_close(bench.append(0, PROMPT), short_own.all(PROMPT))
        assert_close(bench.run(bench.part(0, tree, TREE_PARENTS)), short_own.last(branches(PROMPT, tree)))
        bench.keep(0, tree, TREE_PATHS[6])
        kept = list(bench.texts[0])
        assert_close(bench.append(0, step), short_own.last([[*kept, *step]]))
        assert float((short_own.last([PROMPT]) - own.last([PROMPT])).abs().max()) > 0.01


@pytest.mark.parametrize("pair", [name for name in WORKING if name not in NO_EARLY_EXIT], indirect=True)
def test_early_exit_shares_weights_and_leaves_the_model_as_it_was(pair: Pair) -> None:
    model, own = pair
    before = Bench(model).append(0, PROMPT)
    short = model.truncated(1)
    own_tensors = {parameter.data_ptr() for parameter in model.module.parameters()}
    assert {parameter.data_ptr() for parameter in short.module.parameters()} < own_tensors
    Bench(short).append(0, PROMPT)
    assert torch.equal(Bench(model).append(0, PROMPT), before)
    assert_close(before, own.all(PROMPT))
    assert model.kv_layout.num_layers == model.module.config.num_hidden_layers == own.module.config.num_hidden_layers
    assert len(list(model.module.parameters())) == len(list(own.module.parameters()))


@pytest.mark.parametrize(("attention", "mlp"), [((1,), ()), ((), (0, 2)), ((2,), (0,))])
def test_a_sublayer_that_is_left_out_is_as_one_that_gives_zeros(
    pair: Pair, request: pytest.FixtureRequest, attention: tuple[int, ...], mlp: tuple[int, ...]
) -> None:
    model, own = pair
    name = request.node.callspec.params["pair"]
    if name in NO_SUBLAYERS:
        with pytest.raises(UnsupportedModelError, match=r"(skip sublayers|could be skipped).* Use another drafter"):
            model.without(attention, mlp)
        return
    before = Bench(model).append(0, PROMPT)
    silent = copy.deepcopy(own.module)
    [layers] = [m for m in silent.modules() if isinstance(m, nn.ModuleList) and len(m) == model.kv_layout.num_layers]
    for index, layer in enumerate(layers):
        for part in layer.children():
            kind = type(part).__name__
            if ("Attention" in kind and index in attention) or (FEEDS.search(kind) and index in mlp):
                for parameter in part.parameters():
                    parameter.data.zero_()
    short, short_own = model.without(attention, mlp), Own(silent)
    bench, tree = Bench(short), text(7, seed=4)
    assert_close(bench.append(0, PROMPT), short_own.all(PROMPT))
    assert_close(bench.run(bench.part(0, tree, TREE_PARENTS)), short_own.last(branches(PROMPT, tree)))
    assert torch.equal(Bench(model).append(0, PROMPT), before)
    assert float((short_own.last([PROMPT]) - own.last([PROMPT])).abs().max()) > 0.01


@pytest.mark.parametrize("name", HAVE_WINDOW)
def test_these_models_look_through_a_window(name: str) -> None:
    """Guards the tests above: if their texts did not exceed the window, they would say nothing about it."""
    kind, options = WORKING[name]
    module = make_module(kind, options)
    wide = make_module(kind, options | {"sliding_window": MAX_CONTEXT})
    wide.load_state_dict(module.state_dict())
    difference = (Own(module).all(PROMPT) - Own(wide).all(PROMPT)).abs().amax(-1)
    assert float(difference[:WINDOW].max()) == 0
    assert float(difference[WINDOW:].min()) > 100 * TOLERANCE


@pytest.mark.parametrize("num_layers", [-1, 0, 3, 4])
def test_an_early_exit_needs_some_but_not_all_layers(num_layers: int) -> None:
    model = TransformersModel(make_module("Llama", LLAMA), "tiny")
    with pytest.raises(UnsupportedModelError, match=f"tiny has 3 layers; .* needs 1 to 2 of them, got {num_layers}"):
        model.truncated(num_layers)


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_cannot_work_is_refused_with_advice(name: str) -> None:
    kind, options, reason = REFUSED[name]
    module = make_module(kind, options)
    with pytest.raises(UnsupportedModelError, match=f"(?s){kind.removesuffix('Text')}.*{reason}") as caught:
        TransformersModel(module, "the-model")
    assert any(advice in str(caught.value) for advice in ("Choose ", "Use another model"))


def test_a_refusal_names_architectures_that_work() -> None:
    with pytest.raises(UnsupportedModelError, match=r"the-model.*Llama, Qwen, Mistral"):
        TransformersModel(make_module(*REFUSED["bloom"][:2]), "the-model")


def test_streams_of_two_widths_decode_but_give_no_hidden_states() -> None:
    """OPT-350m projects its stream down before the head."""
    kind, options = WORKING["opt"]
    module = make_module(kind, options | {"word_embed_proj_dim": 16, "do_layer_norm_before": False})
    own = Own(copy.deepcopy(module))
    model = TransformersModel(module, "narrow")
    assert_close(Bench(model).append(0, PROMPT), own.all(PROMPT))
    with pytest.raises(UnsupportedModelError, match=r"hidden states of widths \[16, 32\].* Use a drafter"):
        Bench(Tapped(model)).append(0, PROMPT)
    with pytest.raises(UnsupportedModelError, match="embeddings of width 16 and a stream of 32"):
        model.embed(PROMPT)


class KeepsAll(LlamaForCausalLM):
    """Makes all logits, whatever is asked for: code that comes with a model may know no better."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, use_cache: bool = False) -> Any:
        return super().forward(input_ids, position_ids=position_ids, use_cache=use_cache)


def test_a_model_that_makes_all_logits_is_read_at_the_rows_that_are_wanted() -> None:
    torch.manual_seed(0)
    module = KeepsAll(LlamaConfig(**LLAMA, attn_implementation="eager")).eval()
    own = copy.deepcopy(module)
    with torch.inference_mode():
        expected = own(torch.tensor([PROMPT])).logits[0]
    bench = Bench(TransformersModel(module, "keeps all"))
    assert_close(bench.run(bench.part(0, PROMPT, logit_rows=[18, 4])), expected[[18, 4]])


def test_threads_that_share_a_model_run_their_own_passes() -> None:
    """Each thread's text is in its own cache; the passes meet inside the same layers."""
    module = make_module("Mixtral", WINDOWED | EXPERTS)
    own = Own(copy.deepcopy(module))
    model, both_in = TransformersModel(module, "shared"), Barrier(2, timeout=60)

    def meet(*_: Any) -> None:
        both_in.wait()

    module.model.layers[1].register_forward_pre_hook(meet)
    texts = [text(15, seed=1), text(11, seed=2)]
    with ThreadPoolExecutor(2) as pool:
        logits = list(pool.map(lambda tokens: Bench(model).append(0, tokens), texts))
    for tokens, each in zip(texts, logits, strict=True):
        assert_close(each, own.all(tokens))


def test_weights_that_hold_nan_are_refused() -> None:
    module = make_module("Llama", LLAMA)
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[3, 5] = math.nan
    with pytest.raises(UnsupportedModelError, match=r"broken-llama.*weights hold NaN"):
        TransformersModel(module, "broken-llama")


@pytest.mark.parametrize("name", BEYOND_THE_PROBE)
def test_what_a_short_probe_cannot_show_is_refused_or_right(name: str) -> None:
    """Never silently wrong: within the context that the model claims, all logits agree with its own."""
    module = make_module(*BEYOND_THE_PROBE[name])
    own = Own(copy.deepcopy(module))
    try:
        model = TransformersModel(module, name)
    except UnsupportedModelError as error:
        assert name in str(error)  # noqa: PT017
        return
    bench = Bench(model)
    short, long = text(10, seed=1), text(min(50, model.max_context), seed=2)
    logits = bench.run(bench.part(0, short), bench.part(1, long))
    assert_close(logits, torch.cat([own.all(short), own.all(long)]))
    bench.cache.commit(0, len(short))
    after = text(3, seed=3)
    assert_close(bench.run(bench.part(0, after)), own.last(prefixes(short, after)))
