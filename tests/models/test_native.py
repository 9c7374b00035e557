"""Native models: right, within a budget when rounded, and the same bits however the engine comes by a row."""

from __future__ import annotations

import copy
import math
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from specdec import Engine, EngineConfig, SamplingParams
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.kernels.linear import BLOCK_KINDS, HEAD_KINDS, KINDS
from specdec.kernels.linear.blocks import decoded as decoded_blocks
from specdec.kernels.linear.reference import quantize_rows
from specdec.kernels.linear.rounding import in_blocks
from specdec.kernels.rows import RowMaxima, reference
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch
from specdec.models.native import NativeModel, why_not
from tests.engines import DRAFTERS, outputs, run
from tests.kernels.test_linear import rounded_blocks
from tests.kernels.variants import ARCHITECTURES, kernels, threads
from tests.models.bench import (
    LLAMA,
    MAX_CONTEXT,
    TREE_PARENTS,
    TREE_PATHS,
    WINDOW,
    Bench,
    Own,
    Tapped,
    assert_close,
    branches,
    make_module,
    rope,
    text,
)
from tests.models.scenes import PROMPT, SCENES, TREE, Decoded
from tests.tiny import llama_module

pytestmark = pytest.mark.fewer(4)

WINDOWED = LLAMA | {"sliding_window": WINDOW}
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "llama, one kv head, heads of 10": ("Llama", LLAMA | {"num_key_value_heads": 1, "head_dim": 10}),
    "llama, llama3 rope": (
        "Llama",
        LLAMA
        | rope("llama3", factor=4.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "llama, yarn rope": ("Llama", LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama, linear rope": ("Llama", LLAMA | rope("linear", factor=4.0)),
    "mistral": ("Mistral", WINDOWED),
    "qwen2": ("Qwen2", LLAMA),
    "qwen2, window in the upper layers": ("Qwen2", WINDOWED | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 16}),
}
NARROW = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}
KV_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

every_member = pytest.mark.parametrize("name", FAMILY)
FIRST_ROWS = {"int4": 4}
"""Rows before the first in which a number falls on the other side of a border, where they are less than 15."""
MOST_NOISE = {"int4": 0.6}
"""Of a random model's logits, in parts of their size, where it is more than 0.05."""
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "gguf" else ()) for kind in KINDS]
)
every_cache = pytest.mark.parametrize("held", KV_DTYPES, ids="{} cache".format)
every_scene = pytest.mark.parametrize("scene", SCENES)


@pytest.fixture(scope="module")
def own() -> dict[str, Own]:
    """What each module says itself."""
    return {name: Own(make_module(*arguments)) for name, arguments in FAMILY.items()}


def make(name: str, kind: str = "float32", held: str = "float32", architecture: str = "native") -> NativeModel:
    return NativeModel(make_module(*FAMILY[name]), name, kind, KV_DTYPES[held], kernels(architecture))


@every_scene
@every_member
def test_logits_are_those_of_the_model_itself(name: str, scene: str, own: dict[str, Own]) -> None:
    texts, logits = SCENES[scene](Bench(make(name), num_blocks=80))
    assert_close(logits, own[name].last(texts))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@every_member
def test_every_instruction_set_gives_these_logits(name: str, architecture: str, own: dict[str, Own]) -> None:
    texts, logits = SCENES["batch of eight"](Bench(make(name, architecture=architecture), num_blocks=80))
    assert_close(logits, own[name].last(texts))


def test_the_whole_context_can_be_used(own: dict[str, Own]) -> None:
    long = text(MAX_CONTEXT, seed=5)
    for name in ("llama, llama3 rope", "mistral"):
        assert_close(Bench(make(name)).append(0, long), own[name].all(long))


def test_what_the_model_says_of_itself() -> None:
    model = make("qwen3", "int8", "bfloat16")
    assert (model.name, model.kind, model.vocab_size, model.max_context) == ("qwen3", "int8", 101, MAX_CONTEXT)
    layout = model.kv_layout
    assert (layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.dtype) == (3, 2, 16, torch.bfloat16)
    default = NativeModel(make_module("Llama", LLAMA))
    assert (default.name, default.kind, default.kv_layout.dtype) == ("LlamaForCausalLM", "float32", torch.float32)
    assert NativeModel(make_module("Llama", LLAMA), kind="int8").kv_layout.dtype == torch.bfloat16


def rounded(x: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """`x` as a product of this kind reads it: codes are found in float32, as they are by the kernel."""
    if kind == "float32":
        return x
    if kind == "bfloat16":
        return x.bfloat16().to(dtype)
    if kind in BLOCK_KINDS:
        return rounded_blocks(x.flatten(0, -2).float()).to(dtype).view(x.shape)
    codes, scale = quantize_rows(x.flatten(0, -2))
    return (codes.to(dtype) * scale.to(dtype)[:, None]).view(x.shape)


def rounded_weight(layer: nn.Linear, kind: str, dtype: torch.dtype, head: bool) -> Tensor:
    """A weight matrix as `kind` holds it."""
    weight, kind = layer.weight.data.float(), HEAD_KINDS.get(kind, kind) if head else kind
    if kind in BLOCK_KINDS:
        return decoded_blocks(in_blocks(weight, BLOCK_KINDS[kind])).to(dtype)
    return rounded(weight, kind, dtype).to(dtype)


class Emulation:
    """The same model in transformers' own code and in float64, with everything rounded that the native one rounds.

    Weights are rounded once, the inputs of every product by a hook, keys and values on their way into attention.
    """

    def __init__(self, module: PreTrainedModel, kind: str, held: str) -> None:
        dtype = torch.float64
        weights, inputs = ("int8", "float32") if kind == "int8_weight" else (kind, kind)
        module = copy.deepcopy(module).to(dtype)
        module.model.embed_tokens.weight = nn.Parameter(
            rounded(module.model.embed_tokens.weight.data, "float32" if kind == "float32" else "bfloat16", dtype)
        )
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                head = layer is module.get_output_embeddings()
                layer.weight = nn.Parameter(rounded_weight(layer, weights, dtype, head))
                layer.register_forward_pre_hook(lambda _, args: (rounded(args[0], inputs, dtype), *args[1:]))

        def attend(caller: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
            key, value = rounded(key, held, dtype), rounded(value, held, dtype)
            return eager_attention_forward(caller, query, key, value, *args, **options)

        AttentionInterface.register("emulated", attend)
        AttentionMaskInterface.register("emulated", eager_mask)
        module.set_attn_implementation("emulated")
        self.module = module

    def all(self, tokens: list[int]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.module(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        return logits

    def hidden(self, tokens: list[int]) -> Tensor:
        """[boundaries, tokens, hidden]"""
        with torch.inference_mode():
            ids = torch.tensor([tokens])
            states = self.module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        return torch.cat(states)


def size(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "held"),
    [
        *((kind, "float32") for kind in KINDS),
        ("float32", "bfloat16"),
        ("float32", "int8"),
        ("bfloat16", "bfloat16"),
        ("int8", "bfloat16"),
        ("int8", "int8"),
    ],
)
def test_rounded_models_are_off_by_what_is_rounded_and_no_more(
    name: str, kind: str, held: str, own: dict[str, Own]
) -> None:
    """Float64 with the same roundings is the oracle, and what these roundings change the measure.

    Most rows agree with it as closely as unrounded models do (a few thousand float32 operations, 1e-5). Others do not:
    a number within float32's error of the border between two rounded ones may fall on either side, which moves one of
    the numbers that a pass rounds by a whole step, and stays in the cache for the rows after it. Such a step is no more
    than twice the worst that rounding does to one number, and all of them together make up the noise: what few of them
    change is a part of it. The first rows have little before them that could have fallen the other way.
    """
    long = text(60, seed=8)
    native = Bench(make(name, kind, held)).append(0, long).double()
    emulated = Emulation(own[name].module, kind, held).all(long)
    plain = Emulation(own[name].module, "float32", "float32").all(long)
    noise, off = size(emulated - plain), (native - emulated).abs().amax(-1)
    assert size(native - emulated) <= 0.5 * noise + 1e-6
    assert float(off[: FIRST_ROWS.get(kind, 15)].median()) <= 1e-5
    assert (noise > 0) == ((kind, held) != ("float32", "float32"))
    assert noise < MOST_NOISE.get(kind, 0.05) * size(plain)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "held"), [*((kind, "float32") for kind in KINDS), ("float32", "int8"), ("int8", "bfloat16")]
)
def test_rounded_hidden_states_are_off_by_what_is_rounded_and_no_more(
    name: str, kind: str, held: str, own: dict[str, Own]
) -> None:
    """By the measure of the logits above, at every boundary. The embeddings are rounded once: they are exact."""
    long, module = text(60, seed=8), own[name].module
    model = Tapped(make(name, kind, held))
    native = Bench(model).append(0, long).view(len(long), len(model.boundaries), -1).transpose(0, 1).double()
    emulated, plain = (Emulation(module, *forms).hidden(long) for forms in ((kind, held), ("float32", "float32")))
    assert torch.equal(native[0], emulated[0])
    for boundary in model.boundaries[1:]:
        noise = size(emulated[boundary] - plain[boundary])
        off = (native[boundary] - emulated[boundary]).abs().amax(-1)
        assert size(native[boundary] - emulated[boundary]) <= 0.5 * noise + 1e-6
        assert float(off[: FIRST_ROWS.get(kind, 15)].median()) <= 1e-5
        assert noise < MOST_NOISE.get(kind, 0.05) * size(plain[boundary])


def test_embeddings_may_be_tied_to_the_head() -> None:
    module = make_module("Llama", LLAMA | {"tie_word_embeddings": True})
    model = NativeModel(module, kernels=kernels("native"))
    with torch.inference_mode():
        expected = module(input_ids=torch.tensor([PROMPT])).logits[0]
    # The head is not scaled here: logits are larger than elsewhere.
    assert float((Bench(model).append(0, PROMPT) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.fixture(scope="module")
def decoded() -> dict[tuple[str, ...], Decoded]:
    return {}


def assert_same_bits(decoded: dict[tuple[str, ...], Decoded], scene: str, *key: str) -> None:
    if key not in decoded:
        decoded[key] = Decoded(make(*key))
    model = decoded[key].model
    texts, logits = SCENES[scene](Bench(model, num_blocks=80))
    assert torch.equal(logits, decoded[key].last(texts))
    with threads(2):
        assert torch.equal(SCENES[scene](Bench(model, block_size=3, num_blocks=80))[1], logits)


@every_scene
@every_cache
@every_kind
def test_a_rows_bits_are_those_of_plain_decoding(
    kind: str, held: str, scene: str, decoded: dict[tuple[str, ...], Decoded]
) -> None:
    assert_same_bits(decoded, scene, "llama", kind, held)


@every_scene
@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "llama, one kv head, heads of 10"])
def test_a_rows_bits_are_those_of_plain_decoding_in_the_whole_family(
    name: str, kind: str, scene: str, decoded: dict[tuple[str, ...], Decoded]
) -> None:
    assert_same_bits(decoded, scene, name, kind, "bfloat16")


@every_scene
@every_kind
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "native"])
def test_a_rows_bits_are_those_of_plain_decoding_on_every_instruction_set(
    architecture: str, kind: str, scene: str, decoded: dict[tuple[str, ...], Decoded]
) -> None:
    assert_same_bits(decoded, scene, "qwen3", kind, "int8", architecture)


@every_kind
def test_early_exit_equals_a_model_that_has_only_the_first_layers(kind: str) -> None:
    model, (family, options) = make("qwen3", kind), FAMILY["qwen3"]
    for num_layers in (1, 2):
        small = make_module(family, options | {"num_hidden_layers": num_layers}, seed=9)
        weights = make_module(family, options).state_dict()
        small.load_state_dict({key: weights[key] for key in small.state_dict()})
        short = model.truncated(num_layers)
        assert short.name == f"qwen3[:{num_layers}]"
        assert short.kv_layout.num_layers == num_layers
        alone = NativeModel(small, kind=kind, kv_dtype=torch.float32, kernels=kernels("native"))
        assert short.num_bytes == alone.num_bytes < model.num_bytes
        assert torch.equal(Bench(short).append(0, PROMPT), Bench(alone).append(0, PROMPT))


def test_early_exit_shares_weights_and_leaves_the_model_as_it_was() -> None:
    model = make("llama")
    before, bench = Bench(model).append(0, PROMPT), Bench(model)
    bench.append(0, PROMPT[:5])
    short = model.truncated(1)
    assert short._layers == model._layers[:1]
    assert short._head is model._head
    assert not torch.equal(Bench(short).append(0, PROMPT), before)
    assert model.kv_layout.num_layers == 3
    assert torch.equal(bench.append(0, PROMPT[5:]), before[5:])


SKIPS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1,), ()), ((), (1,)), ((0,), (0,)), ((2,), ()), ((), (2,)), ((2,), (2,)), ((0, 1, 2), (1,)), ((1, 2), (0, 1, 2)),
]  # fmt: skip
"""Layers without attention, and without their feed-forward part."""


@every_kind
@pytest.mark.parametrize(("attention", "mlp"), SKIPS)
@pytest.mark.parametrize("scene", ["tree", "batch of eight"])
def test_a_sublayer_that_is_left_out_is_as_one_that_gives_zeros(
    attention: tuple[int, ...], mlp: tuple[int, ...], kind: str, scene: str
) -> None:
    """In every bit, also where the last layer lets only rows with logits go on."""
    model = make("qwen3", kind)
    silent = make_module(*FAMILY["qwen3"])
    for index, layer in enumerate(silent.model.layers):
        layer.self_attn.o_proj.weight.data *= index not in attention
        layer.mlp.down_proj.weight.data *= index not in mlp
    zeros = NativeModel(silent, kind=kind, kv_dtype=torch.float32, kernels=kernels("native"))
    short = model.without(attention, mlp)
    assert torch.equal(SCENES[scene](Bench(short, num_blocks=80))[1], SCENES[scene](Bench(zeros, num_blocks=80))[1])
    assert short.kv_layout == model.kv_layout
    assert short.num_bytes < model.num_bytes
    few = [Bench(each).run(Bench(each).part(0, PROMPT, logit_rows=[3, 18])) for each in (short, zeros)]
    assert torch.equal(*few)


def test_a_model_without_sublayers_shares_weights_and_reads_the_whole_models_cache() -> None:
    model = make("llama")
    before, bench = Bench(model).append(0, PROMPT), Bench(model)
    bench.append(0, PROMPT[:5])
    short = model.without([1], [0, 2])
    pool, part = bench.cache.target, bench.part(0, PROMPT[5:6])
    slot = part.slots[5]
    short.run(RaggedBatch.build([part]), pool)
    written = [bool(pool.layer(layer)[0][slot].isfinite().all()) for layer in range(3)]
    assert written == [True, False, True]
    assert not torch.equal(Bench(short).append(0, PROMPT), before)
    assert torch.equal(Bench(model).append(0, PROMPT), before)
    assert short._layers[0].qkv is model._layers[0].qkv


@pytest.mark.parametrize(
    ("attention", "mlp", "message"),
    [
        ((3,), (), "llama has the layers 0 to 2; it cannot go without the attention of layer 3"),
        ((), (0, -1), "cannot go without the mlp of layer -1"),
        ((), (), "has 6 sublayers; to skip some, name 1 to 5 of them, not 0"),
        ((0, 1, 2), (0, 1, 2), "not 6"),
    ],
)
def test_only_sublayers_that_are_there_can_be_left_out(
    attention: tuple[int, ...], mlp: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        make("llama").without(attention, mlp)


@pytest.mark.parametrize("num_layers", [-1, 0, 3, 4])
def test_an_early_exit_needs_some_but_not_all_layers(num_layers: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"llama has 3 layers; .* needs 1 to 2 of them, got {num_layers}"):
        make("llama").truncated(num_layers)


def test_one_model_may_serve_several_caches() -> None:
    model = make("llama")
    one, two = Bench(model), Bench(model, block_size=3)
    expected = Bench(model).append(0, PROMPT)
    for place, token in enumerate(PROMPT):
        assert torch.equal(one.append(0, [token])[0], expected[place])
        assert torch.equal(two.append(0, [token])[0], expected[place])


def test_the_module_is_not_needed_afterwards() -> None:
    module = make_module("Llama", LLAMA)
    model = NativeModel(module, kernels=kernels("native"))
    before = Bench(model).append(0, PROMPT)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    assert torch.equal(Bench(model).append(0, PROMPT), before)


@pytest.mark.parametrize("shape", [{}, NARROW], ids=["usual", "attention narrower than the stream"])
@pytest.mark.parametrize("wanted", [[], [0], [6, 0], [3, 3], [5, 1, 0, 6, 2, 4]], ids=str)
def test_logits_come_for_the_rows_that_were_asked_for(shape: dict[str, int], wanted: list[int]) -> None:
    bench = Bench(NativeModel(make_module("Llama", LLAMA | shape)))
    bench.append(0, PROMPT)
    logits = bench.run(bench.part(0, TREE, TREE_PARENTS, logit_rows=wanted))
    assert torch.equal(logits, bench.run(bench.part(0, TREE, TREE_PARENTS))[wanted])
    bench.keep(0, TREE, TREE_PATHS[4])
    assert branches(PROMPT, TREE)[4] == bench.texts[0]


@every_kind
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("vocab_size", [101, 128])
def test_the_argmax_is_that_of_the_logits(kind: str, number: int, vocab_size: int) -> None:
    module = make_module("Llama", LLAMA | {"vocab_size": vocab_size})
    head = module.get_output_embeddings().weight.data
    head[70:] = head[:-70]  # ties: the first of equals counts
    bench = Bench(NativeModel(module, kind=kind))
    batch = RaggedBatch.build([bench.part(0, TREE, TREE_PARENTS, logit_rows=[5, 0, 6, 2])])
    with threads(number):
        output = bench.model.run(batch, bench.cache.target)
        logits, best = output.logits, bench.model.run(batch, bench.cache.target, Wants("argmax")).maxima
    assert logits is not None
    assert best.tokens == [int(row.argmax()) for row in logits]
    assert best.values == logits.amax(1).tolist()
    assert best == output.maxima == RowMaxima.of(logits)


@every_kind
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("number", "vocab_size"), [(1, 101), (2, 101), (2, 128), (3, 5)])
def test_the_largest_logits_are_those_of_a_full_sort(
    kind: str, architecture: str, number: int, vocab_size: int
) -> None:
    """With and without logits that are kept, and with ties: the first of equals counts."""
    module = make_module("Llama", LLAMA | {"vocab_size": vocab_size})
    head = module.get_output_embeddings().weight.data
    head[vocab_size // 2 :] = head[: vocab_size - vocab_size // 2].clone()
    bench = Bench(NativeModel(module, kind=kind, kernels=kernels(architecture)))
    tokens = [token % vocab_size for token in TREE]
    batch = RaggedBatch.build([bench.part(0, tokens, TREE_PARENTS, logit_rows=[5, 0, 6, 2])])
    with threads(number):
        logits = bench.model.run(batch, bench.cache.target).logits
        assert logits is not None
        sorted_ids = logits.sort(dim=1, descending=True, stable=True).indices
        for asked in (1, 8, 64):
            for wants in (Wants("argmax", top=asked), Wants("all", top=asked)):
                output = bench.model.run(batch, bench.cache.target, wants)
                found = output.top(asked)
                assert found.dtype == torch.int32
                assert found.tolist() == sorted_ids[:, :asked].tolist()
                assert torch.equal(output.top(1), found[:, :1])
                assert (output.logits is None) == (wants.logits == "argmax")
                assert output.maxima == RowMaxima.of(logits)
                first, second = output.split([1, 3], [7, 0])
                assert torch.equal(torch.cat([first.top(asked), second.top(asked)]), found)
                assert torch.equal(second.last(2).top(asked), found[2:])


@pytest.mark.parametrize("broken", [(0,), (100,), (3, 90), (*range(40, 60),)], ids=str)
@pytest.mark.parametrize("number", [1, 2])
def test_no_number_is_among_the_largest(broken: tuple[int, ...], number: int) -> None:
    module = make_module("Llama", LLAMA)
    weights = module.get_output_embeddings().weight.data
    weights[list(broken)] = torch.tensor([1e35, -1e35]).repeat(weights.shape[1] // 2)
    module.model.norm.weight.data *= 1e5  # type: ignore[union-attr, operator]
    bench = Bench(NativeModel(module))
    batch = RaggedBatch.build([bench.part(0, [4])])
    with threads(number):
        output = bench.model.run(batch, bench.cache.target, Wants(top=8))
    assert output.logits is not None
    assert torch.equal(output.top(8), reference.largest(output.logits, 8))
    assert output.top(8)[0, : len(broken)].tolist() == list(broken[:8])


def test_more_logits_than_can_be_told_are_refused() -> None:
    bench = Bench(NativeModel(make_module("Llama", LLAMA)))
    batch = RaggedBatch.build([bench.part(0, [4])])
    for count in (-1, 65):
        with pytest.raises(ConfigError, match=f"top={count} logits .* Give 0 to 64"):
            bench.model.run(batch, bench.cache.target, Wants(top=count))


@pytest.mark.parametrize("broken", [(), (0,), (100,), (3, 90)], ids=str)
def test_the_argmax_of_no_numbers_says_so(broken: tuple[int, ...]) -> None:
    """Weights are finite, but their products need not be."""
    module = make_module("Llama", LLAMA)
    weights = module.get_output_embeddings().weight.data
    weights[list(broken)] = torch.tensor([1e37, -1e37]).repeat(weights.shape[1] // 2)
    module.model.norm.weight.data *= 1e3  # type: ignore[union-attr, operator]
    bench = Bench(NativeModel(module))
    batch = RaggedBatch.build([bench.part(0, [4])])
    output = bench.model.run(batch, bench.cache.target)
    assert output.logits is not None
    [logits], best = output.logits, output.maxima
    largest = logits.max()  # NaN counts as the largest
    assert bool(largest.isfinite()) == (not broken)
    assert best.values[0] == largest or (math.isnan(best.values[0]) and largest.isnan())
    assert best.tokens[0] == int(logits.argmax())


GPT2 = {"vocab_size": 101, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another family": ("GPT2", GPT2, "type is 'gpt2', not one of llama, mistral, qwen2, qwen3"),
    "another activation": ("Llama", LLAMA | {"hidden_act": "gelu"}, "activation is 'gelu'"),
    "bias in the feed-forward part": ("Llama", LLAMA | {"mlp_bias": True}, "feed-forward projections have a bias"),
    "bias after attention": ("Llama", LLAMA | {"attention_bias": True}, "output or .* projections have a bias"),
    "rotation that changes as it goes": ("Llama", LLAMA | rope("dynamic", factor=4.0), "rotary .* 'dynamic'"),
    "heads rotated in part": ("Llama", LLAMA | rope("default", partial_rotary_factor=0.5), "not rotated as a whole"),
    "heads too large": ("Llama", LLAMA | {"head_dim": 258}, "heads of 258 .* exceed 256"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_run_natively_is_refused_with_the_reason(name: str) -> None:
    kind, options, reason = REFUSED[name]
    module = make_module(kind, options)
    with pytest.raises(UnsupportedModelError, match=rf"the-model cannot run natively: .*{reason}.* Use backend="):
        NativeModel(module, "the-model")
    assert why_not(module) is not None


@every_member
def test_a_model_of_the_family_has_no_reason_against_it(name: str) -> None:
    assert why_not(make_module(*FAMILY[name])) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(broken: float) -> None:
    module = make_module("Llama", LLAMA)
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[3, 5] = broken
    with pytest.raises(UnsupportedModelError, match=r"broken-llama: model.layers.1.mlp.up_proj.weight holds NaN"):
        NativeModel(module, "broken-llama")


PROMPTS = [text(length, seed=30 + length) for length in (3, 17, 1, 9, 5, 12, 2, 26)]
PROMPTS = [[token % 64 for token in prompt] for prompt in PROMPTS]


def engine(kind: str, drafter: str, rule: str) -> Engine:
    target = NativeModel(llama_module(), "tiny", kind, kernels=kernels("native"))
    config = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128)
    return Engine(target, DRAFTERS[drafter](), rule, config)


@pytest.fixture(scope="module")
def plain() -> dict[tuple[str, str], list[list[int]]]:
    """Texts by plain decoding, one request after the other."""
    return {}


@pytest.mark.parametrize("rule", ["auto", "gumbel"], ids=["greedy", "seeded"])
@pytest.mark.parametrize("drafter", ["none", "ngram", "model tree", "early exit"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_texts_are_those_of_plain_decoding_whatever_is_drafted(
    kind: str, drafter: str, rule: str, plain: dict[tuple[str, str], list[list[int]]]
) -> None:
    temperature = 0.0 if rule == "auto" else 1.0
    params = [SamplingParams(max_tokens=20, temperature=temperature, seed=40 + i) for i in range(len(PROMPTS))]
    if (kind, rule) not in plain:
        plain[kind, rule] = [
            outputs(run(engine(kind, "none", rule), [prompt], [one]))[0]
            for prompt, one in zip(PROMPTS, params, strict=True)
        ]
    assert outputs(run(engine(kind, drafter, rule), PROMPTS, params)) == plain[kind, rule]
    assert outputs(run(engine(kind, drafter, rule), PROMPTS[1:2], params[1:2])) == plain[kind, rule][1:2]


def test_threads_may_share_a_model_each_with_a_pool_of_its_own() -> None:
    """Each thread's passes read its own cache, whatever the other one's pool is."""
    model = NativeModel(make_module("Llama", LLAMA))
    texts = [text(30, seed=71), text(30, seed=72)]

    def decoded(tokens: list[int]) -> Tensor:
        bench = Bench(model)
        return torch.cat([bench.append(0, [token]) for token in tokens])

    alone = [decoded(tokens) for tokens in texts]
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(thread: int) -> None:
        for _ in range(5):
            found[thread].append(decoded(texts[thread]))

    threads_ = [Thread(target=work, args=(thread,)) for thread in (0, 1)]
    for thread in threads_:
        thread.start()
    for thread in threads_:
        thread.join(timeout=120)
    for index, rows in found.items():
        assert len(rows) == 5
        assert all(torch.equal(each, alone[index]) for each in rows)
