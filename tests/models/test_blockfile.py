"""dtype='gguf': a file's own blocks are what runs, and the file is never widened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from specdec import SamplingParams, SpeculativeGenerator
from specdec.cache import PagedCache
from specdec.drafters.ngram import NgramDrafter
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.kernels.linear.blocks import decoded
from specdec.kernels.linear.reference import linear
from specdec.kernels.linear.rounding import in_blocks
from specdec.models.backends import BACKENDS, Wish
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.blockfile import read_blocks
from specdec.models.llama import LlamaWeights
from specdec.models.loading import load, load_given
from specdec.models.native import NativeModel
from specdec.models.sources import embedded_folder, embedded_gguf
from tests.kernels.gpu import DEVICE
from tests.models.tinyfiles import WORDS, make_tokenizer, write_gguf

MIXED = {"token_embd": "Q8_0", "output": "Q8_0", "attn_q": "Q4_0", "attn_k": "Q4_1", "attn_v": "Q8_0",
         "attn_output": "Q4_1", "ffn_gate": "Q4_0", "ffn_up": "Q4_0", "ffn_down": "Q8_0"}  # fmt: skip
"""Of every layer; the values have more bits than queries and keys, as in files that mix."""
MEDIUM = {"token_embd": "Q6_K", "output": "Q6_K", "attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K",
          "attn_output": "Q4_K", "ffn_gate": "Q4_K", "ffn_up": "Q4_K", "ffn_down": "Q6_K"}  # fmt: skip
"""As in the upper layers of files that are called Q4_K_M."""
SIZES = {"vocab_size": len(WORDS), "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.1,
         "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=False),
    "medium": LlamaConfig(
        **SIZES | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}, tie_word_embeddings=False
    ),
}


def made(config: PreTrainedConfig) -> PreTrainedModel:
    """A random model, its biases and norms too."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).eval()
    for weight in module.parameters():
        if weight.dim() == 1:
            weight.data.add_(0.3 * torch.randn_like(weight))
    return module


def logits(model: CausalLM, tokens: list[int]) -> Tensor:
    cache = PagedCache(model.kv_layout, num_blocks=-(-len(tokens) // 16))
    cache.add(0)
    cache.reserve(0, len(tokens))
    rows = SequenceRows(tokens, cache.slots(0), 0, logit_rows=range(len(tokens)))
    batch = RaggedBatch.build([rows], model.kv_layout.device)
    return model.run(batch, cache.target, Wants(logits="all")).logits.cpu()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, made(CONFIGS["llama"]), kinds=MIXED)
    return path


def widened(module: PreTrainedModel, path: Path) -> PreTrainedModel:
    """The module with the numbers that the gguf package reads from the file, in transformers' order of rows."""
    held = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    names = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
    for index, layer in enumerate(module.model.layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            of = layer.self_attn if part in names else layer.mlp
            weight = of.get_submodule(names.get(part) or f"{part[4:]}_proj").weight
            numbers = read(held[f"blk.{index}.{part}.weight"])
            if part in ("attn_q", "attn_k") and module.config.model_type == "llama":
                numbers = numbers.view(-1, 16, 2, numbers.shape[1]).transpose(1, 2).reshape(numbers.shape)
            weight.data.copy_(numbers)
    module.model.embed_tokens.weight.data.copy_(read(held["token_embd.weight"]))
    module.lm_head.weight.data.copy_(read(held["output.weight"]))
    return module


def read(tensor: object) -> Tensor:
    kind = GGMLQuantizationType(tensor.tensor_type)  # type: ignore[attr-defined]
    return torch.from_numpy(dequantize(tensor.data, kind).copy())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_gives_the_logits_of_its_widened_weights(name: str, tmp_path: Path) -> None:
    """transformers' own pass over the numbers that the gguf package reads. What is left is the rounding of activations
    to 8 bits, about 1 % of a product's size; rows in a wrong order or a lost bias are off by the whole size."""
    module, path = made(CONFIGS[name]), tmp_path / "x.gguf"
    write_gguf(path, module, kinds=MEDIUM if name == "medium" else MIXED)
    tokens = [5, 9, 3, 30, 12, 5, 9, 4]
    with torch.inference_mode():
        expected = widened(module, path)(input_ids=torch.tensor([tokens])).logits[0]
    off = logits(read_blocks(path, "x", torch.float32), tokens) - expected
    assert off.norm() < 0.03 * expected.norm()


@pytest.mark.slow
def test_the_embedded_model_is_read_as_transformers_reads_it() -> None:
    """Sizes, angles, norms; rows of the embedding to the bit."""
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    theirs, ours = LlamaWeights.of(module, "x"), read_blocks(embedded_gguf(), "x")
    for name in ("heads", "kv_heads", "head_size", "intermediate_size", "vocab_size"):
        wanted = {"intermediate_size": "intermediate"}.get(name, name)
        assert getattr(ours._struct, wanted) == getattr(theirs, name)
    assert ours.max_context == theirs.max_context
    assert torch.equal(ours._tensors[0], theirs.final_norm)
    assert torch.allclose(ours._tensors[1], theirs.frequencies, rtol=1e-6, atol=0)
    ids = [0, 1, 31, 32, 777, 49151]
    assert torch.equal(ours.embed(ids), theirs.embedding[ids])
    assert torch.equal(ours.unembed(ids), theirs.head[ids])
    x = torch.randn(3, 576, generator=torch.Generator().manual_seed(0))
    for own, layer in list(zip(ours._layers, theirs.layers, strict=True))[::29]:
        assert torch.equal(own.norms[0], layer.norms[0])
        off = own.qkv(x).double() - linear(x, torch.cat(layer.qkv), "float32")
        assert off.norm() < 0.01 * own.qkv(x).norm()


def test_a_drafters_text_is_that_of_plain_decoding() -> None:
    """Greedy, with the embedded model in its own blocks."""
    prompts = ["a b c d a b c d a b c", "Count: one, two, three, one, two,"]
    params = SamplingParams(max_tokens=12, temperature=0.0)
    texts = []
    for drafter in ("none", NgramDrafter(num_draft_tokens=5)):
        generator = SpeculativeGenerator.from_pretrained(dtype="gguf", drafter=drafter)
        texts.append([each.token_ids for each in generator.generate(prompts, params)])
    assert texts[0] == texts[1]


def test_a_rows_logits_depend_on_its_prefix_alone(tiny: Path) -> None:
    """A pass of many rows, and one row after the other."""
    model, tokens = read_blocks(tiny, "tiny"), [5, 9, 3, 30, 12, 5, 9, 4, 8, 2, 7]
    whole = logits(model, tokens)
    cache = PagedCache(model.kv_layout, num_blocks=1)
    cache.add(0)
    for place, token in enumerate(tokens):
        cache.reserve(0, 1)
        rows = SequenceRows([token], cache.slots(0), place, logit_rows=[0])
        assert torch.equal(
            model.run(RaggedBatch.build([rows]), cache.target, Wants(logits="all")).logits[0], whole[place]
        )
        cache.commit(0, 1)


@pytest.mark.parametrize("kinds", [MIXED, pytest.param(MEDIUM, marks=pytest.mark.slow)], ids=["mixed", "medium"])
def test_the_triton_kernels_run_the_same_file(kinds: dict[str, str], tmp_path: Path) -> None:
    """What differs is rounding to bfloat16 between two products."""
    path, tokens = tmp_path / "x.gguf", [5, 9, 3, 30, 12]
    write_gguf(path, made(CONFIGS["medium" if kinds is MEDIUM else "llama"]), kinds=kinds)
    [triton] = [row for row in BACKENDS if row.name == "triton"]
    theirs, ours = triton.keep(Wish("x", "gguf", device=DEVICE), path), read_blocks(path, "x")
    assert torch.equal(theirs.embed(tokens).cpu(), ours.embed(tokens))
    assert torch.equal(theirs.unembed(tokens).cpu(), ours.unembed(tokens))
    assert torch.equal(theirs.embedding.cpu(), ours.embedding)
    assert theirs.num_bytes == ours.num_bytes
    expected = logits(ours, tokens)
    assert (logits(theirs, tokens) - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ({"ffn_down": "Q5_0"}, r"'blk.0.ffn_down.weight' is Q5_0, and dtype='gguf' keeps Q4_0, Q4_1, Q8_0, Q4_K, Q6_K"),
        ({"attn_v": "F32"}, r"'blk.0.attn_v.weight' is F32, and dtype='gguf' keeps"),
    ],
)
def test_other_types_are_refused_by_name(kinds: dict[str, str], reason: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", made(CONFIGS["llama"]), kinds=MIXED | kinds)
    with pytest.raises(UnsupportedModelError, match=rf"{reason}.*dtype='bfloat16' or 'int4'"):
        load(str(tmp_path / "x.gguf"), dtype="gguf")


def test_a_lacking_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", made(CONFIGS["llama"]), "blk.1.ffn_up", MIXED)
    with pytest.raises(UnsupportedModelError, match=r"it has no tensor 'blk.1.ffn_up.weight'"):
        load(str(tmp_path / "x.gguf"), dtype="gguf")


def test_what_has_no_blocks_is_refused(tmp_path: Path) -> None:
    module = made(CONFIGS["llama"])
    module.save_pretrained(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"keeps the blocks of a GGUF file, and .*folder is none. Use dtype='int4'"):
        load(str(tmp_path / "folder"), dtype="gguf")
    with pytest.raises(ConfigError, match="a loaded model has none"):
        load_given(module, make_tokenizer(), dtype="gguf")
    with pytest.raises(ConfigError, match="a file's own blocks need the native kernels; use int4"):
        load(dtype="gguf", backend="transformers")


def test_any_weights_run_in_four_bits(tmp_path: Path) -> None:
    """Whose head keeps 8, on either backend."""
    module = made(CONFIGS["llama"])
    native, other = (
        load_given(module, make_tokenizer(), dtype="int4", backend=name) for name in ("native", "transformers")
    )
    assert isinstance(native.model, NativeModel)
    tokens, own = [5, 9, 3, 30], native.model.kv_layout.dtype
    assert own == torch.bfloat16
    for name, weight in module.named_parameters():
        if weight.dim() == 2 and "embed" not in name:
            weight.data.copy_(decoded(in_blocks(weight.data, "Q8_0" if "lm_head" in name else "Q4_1")))
    with torch.inference_mode():
        expected = module(input_ids=torch.tensor([tokens])).logits[0]
    assert (logits(native.model, tokens) - expected).norm() < 0.03 * expected.norm()
    assert other.model.kv_layout.dtype == torch.bfloat16
    assert native.model._head.num_bytes == len(WORDS) * 128 * 34 // 32


PEAK = """
import gc, sys, torch
from pathlib import Path
from specdec.kernels.linear import pack
from specdec.models.blockfile import read_blocks
pack(torch.randn(64, 64), "gguf")(torch.randn(1, 64))
gc.collect()
status = lambda key: 1024 * int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1])
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS:")
path = Path(sys.argv[1])
model = read_blocks(path, "x")
print((status("VmHWM:") - before) / path.stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is told by Linux alone")
def test_loading_takes_no_more_than_the_file_and_its_largest_tensor() -> None:
    """The largest growth of a process that reads the embedded model, over the size of its file."""
    command = [sys.executable, "-c", PEAK, str(embedded_gguf())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) <= 1.4
