"""The table of backends: the first that can, serves; a refusal says of each why it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.models import backends, reading
from specdec.models.backends import BACKENDS, Backend, Wish, candidates, choices
from specdec.models.base import CausalLM
from specdec.models.loading import check_options, load
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from tests.models.bench import LLAMA, make_module
from tests.tiny import llama_module

GPT2 = {"vocab_size": 101, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
WISH = Wish("the-model", "float32")


def names(wish: Wish, module: PreTrainedModel | None = None) -> list[str]:
    return [row.name for row in candidates(wish, module)]


def test_the_first_row_that_can_serves() -> None:
    assert names(WISH) == names(WISH, llama_module()) == ["native", "transformers"]
    assert names(WISH, make_module("GPT2", GPT2)) == ["transformers"]
    assert names(replace(WISH, dtype="float16"), llama_module()) == ["transformers"]
    assert names(replace(WISH, backend="transformers"), llama_module()) == ["transformers"]
    assert names(replace(WISH, backend="native"), llama_module()) == ["native"]


def test_on_a_gpu_the_triton_kernels_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_runs", lambda device: device == "cuda")
    wish = replace(WISH, dtype="int8", device="cuda")
    assert names(wish) == names(replace(wish, backend="native"), llama_module()) == ["triton"]
    assert names(replace(wish, dtype="bfloat16"), llama_module()) == ["triton", "transformers"]
    assert names(replace(wish, dtype="bfloat16"), make_module("GPT2", GPT2)) == ["transformers"]


def test_a_refusal_before_anything_is_read_names_every_reason() -> None:
    with pytest.raises(ConfigError) as caught:
        candidates(replace(WISH, dtype="bfloat16", kv_dtype="float8"))
    assert str(caught.value) == (
        "the-model: nothing here can run dtype='bfloat16', kv_dtype='float8' on 'cpu' with backend='auto'. "
        "native: kv_dtype='float8' is not held by the CPU kernels; use float32, bfloat16 or int8. "
        "triton: its kernels need a GPU and Triton, and 'cpu' has none. "
        "transformers: kv_dtype='float8' is not held by the CPU kernels; use float32, bfloat16 or int8."
    )


def test_a_refusal_of_a_model_names_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = make_module("GPT2", GPT2)
    with pytest.raises(UnsupportedModelError) as caught:
        candidates(replace(WISH, backend="native"), gpt2)
    message = str(caught.value)
    assert message.startswith("the-model: nothing here can run dtype='float32'")
    assert "backend='native'" in message
    assert "native: its type is 'gpt2', not one of llama, mistral, qwen2, qwen3." in message
    assert "triton: its kernels need a GPU" in message
    assert "transformers:" not in message
    monkeypatch.setattr(backends, "triton_runs", lambda device: True)
    with pytest.raises(UnsupportedModelError) as caught:
        candidates(replace(WISH, dtype="int8", device="cuda"), gpt2)
    for reason in (
        "native: its kernels are for the CPU",
        "triton: its type is 'gpt2'",
        "transformers: int8 weights need",
    ):
        assert reason in str(caught.value)


def toy(why_not: str | None) -> Backend:
    def make(wish: Wish, module: PreTrainedModel) -> CausalLM:
        return TransformersModel(module, f"toy {wish.name}")

    return Backend("toy", "toy", lambda wish, module: why_not, make)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model without a tokenizer."""
    llama_module().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(reading.AutoTokenizer, "from_pretrained", lambda *args, **options: None)
    return str(tmp_path / "model")


def test_a_new_backend_is_one_row(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"Unknown backend 'toy'\. Valid names: auto, native, transformers"):
        check_options("float32", None, "toy", "cpu")
    monkeypatch.setattr(backends, "BACKENDS", (toy(None), *BACKENDS))
    assert choices() == ("auto", "toy", "native", "transformers")
    assert load(folder).model.name == load(folder, backend="toy").model.name == f"toy {folder}"
    assert isinstance(load(folder, backend="native").model, NativeModel)


def test_a_new_backend_that_cannot_serve_is_passed_over_or_says_why(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (toy("it is only a toy"), *BACKENDS))
    assert isinstance(load(folder).model, NativeModel)
    with pytest.raises(ConfigError, match="toy: it is only a toy"):
        load(folder, backend="toy")


@pytest.mark.parametrize(("dtype", "made"), [("float32", NativeModel), ("float16", TransformersModel)])
def test_what_is_loaded(folder: str, dtype: str, made: type) -> None:
    assert isinstance(load(folder, dtype=dtype).model, made)


def test_a_family_that_only_transformers_runs_is_refused_natively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_module("OPT", LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 32}).save_pretrained(tmp_path)
    monkeypatch.setattr(reading.AutoTokenizer, "from_pretrained", lambda *args, **options: None)
    assert isinstance(load(str(tmp_path)).model, TransformersModel)
    with pytest.raises(UnsupportedModelError, match="native: its type is 'opt'"):
        load(str(tmp_path), backend="native")
