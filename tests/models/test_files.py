"""What may be read from a model's files: nothing that runs, nothing that is not there, nothing that cannot be true."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specdec.errors import ConfigError, SpecdecError, UnsupportedModelError
from specdec.models import hub, reading, sources
from specdec.models.gguf import gguf_header
from specdec.models.loading import load
from specdec.models.plausible import check_config
from specdec.models.tables import safetensors_table
from specdec.models.vocabulary import tokens_of
from tests.models.tinyfiles import cut, edit_json, make_module, make_tokenizer, write_gguf

pytestmark = [pytest.mark.fewer(3), pytest.mark.usefixtures("alone")]


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._mark,)


@pytest.fixture(scope="module")
def module() -> PreTrainedModel:
    return make_module()


@pytest.fixture(scope="module")
def saved(module: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    module.save_pretrained(folder / "whole")
    make_tokenizer().save_pretrained(folder / "whole")
    module.save_pretrained(folder / "sharded", max_shard_size="20KB")
    make_tokenizer().save_pretrained(folder / "sharded")
    write_gguf(folder / "tiny.gguf", module)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the model in one file, to be changed."""
    return Path(shutil.copytree(saved / "whole", tmp_path / "the-model"))


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    """A copy of the model in several files."""
    return Path(shutil.copytree(saved / "sharded", tmp_path / "the-shards"))


@pytest.fixture
def gguf(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(saved / "tiny.gguf", tmp_path / "tiny.gguf"))


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before transformers opens, or makes, anything."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("transformers was asked")

    for cls in (reading.AutoConfig, reading.AutoModelForCausalLM, reading.AutoTokenizer):
        monkeypatch.setattr(cls, "from_pretrained", refuse)


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        load(str(path), **options)
    return str(caught.value)


# Code beside a file


ASKING = ("config.json", "tokenizer_config.json", "generation_config.json")


def plant(folder: Path, mark: Path, asking: Sequence[str] = ASKING) -> None:
    """A Python file that leaves a mark, and files that ask for it."""
    (folder / "custom.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass C: pass\n")
    everything = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModel"), "custom.C")
    for name in asking:
        path = folder / name
        old = json.loads(path.read_text()) if path.exists() else {"model_type": "custom"}
        tokenizer = {"AutoTokenizer": ["custom.C", "custom.C"]}
        path.write_text(json.dumps(old | {"auto_map": everything | tokenizer, "tokenizer_class": "C"}))


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal that says yes to everything."""
    stdin = io.StringIO("y\n" * 99)
    monkeypatch.setattr("sys.stdin", stdin)
    return stdin


def test_code_beside_weights_that_need_none_is_not_asked_for(folder: Path, tmp_path: Path, yes: io.StringIO) -> None:
    """transformers has a class of that type."""
    plant(folder, tmp_path / "mark", ["config.json", "generation_config.json"])
    assert load(str(folder)).model.vocab_size == 32
    assert yes.tell() == 0
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("asking", [["config.json"], ["tokenizer_config.json"]], ids=str)
def test_code_that_a_model_cannot_do_without_is_not_asked_for(
    folder: Path, tmp_path: Path, yes: io.StringIO, asking: list[str]
) -> None:
    plant(folder, tmp_path / "mark", asking)
    if asking == ["config.json"]:
        edit_json(folder / "config.json", model_type="custom")
    assert "trust_remote_code=True" in refusal(folder)
    assert yes.tell() == 0
    assert not (tmp_path / "mark").exists()


def test_code_beside_a_gguf_file_is_never_asked_for(gguf: Path, tmp_path: Path, yes: io.StringIO) -> None:
    plant(gguf.parent, tmp_path / "mark")
    assert load(str(gguf)).eos == (1,)
    assert yes.tell() == 0
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["whole", "tiny.gguf"])
def test_every_question_of_transformers_is_answered_before_it_is_asked(
    saved: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """None would be a question on the terminal."""
    told: list[bool | None] = []
    for where in (auto_factory, configuration_auto, tokenization_auto):
        own = where.resolve_trust_remote_code

        def note(trust: bool | None, *args: Any, _own: Any = own, **options: Any) -> Any:
            told.append(trust)
            return _own(trust, *args, **options)

        monkeypatch.setattr(where, "resolve_trust_remote_code", note)
    load(str(saved / name))
    assert told
    assert set(told) == {False}


def test_files_beside_a_gguf_file_do_not_change_it(gguf: Path) -> None:
    wanted = load(str(gguf))
    (gguf.parent / "tokenizer_config.json").write_text('{"eos_token": "a", "chat_template": "{{ 1 }}"}')
    (gguf.parent / "config.json").write_text('{"model_type": "gpt2"}')
    (gguf.parent / "generation_config.json").write_text('{"eos_token_id": 5}')
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    found = load(str(gguf))
    assert found.eos == wanted.eos
    assert found.tokenizer.chat_template == wanted.tokenizer.chat_template


def test_a_gguf_file_of_the_same_name_where_we_run_is_not_taken(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / gguf.name).write_bytes(b"GGUF, but another")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(str(gguf)).model.vocab_size == 32


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_configuration_that_names_a_kernel_to_fetch_is_refused(folder: Path, key: str, unopened: None) -> None:
    edit_json(folder / "config.json", **{key: "someone/kernels"})
    assert f"{key} = 'someone/kernels' names code to fetch" in refusal(folder)


# Which files hold the weights


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model-00001.bin", "../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "x.pt",
        "..\\x.safetensors", "x\0.safetensors", "model.safetensors.bin",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["index", "config"])
def test_a_name_that_leads_elsewhere_or_to_a_pickle_is_refused(
    folder: Path, sharded: Path, tmp_path: Path, name: str, where: str, unopened: None
) -> None:
    if where == "index":
        index = sharded / "model.safetensors.index.json"
        places = json.loads(index.read_text())["weight_map"]
        edit_json(index, weight_map=places | {next(iter(places)): name})
        origin = index
    else:
        edit_json(folder / "config.json", transformers_weights=name)
        origin = folder / "config.json"
    message = refusal(origin.parent)
    assert f"Cannot read {origin}: it names" in message
    assert "folder" in message or "allow_pickle=True" in message


@pytest.mark.parametrize("ending", [".bin", ".safetensors"])
def test_a_pickle_does_not_run_under_any_name(sharded: Path, tmp_path: Path, ending: str) -> None:
    mark, index = tmp_path / "mark", sharded / "model.safetensors.index.json"
    (sharded / f"x{ending}").write_bytes(pickle.dumps(Trap(mark)))
    places = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=dict.fromkeys(places, f"x{ending}"))
    refusal(sharded)
    refusal(sharded, allow_pickle=True)
    torch.save({"model.norm.weight": Trap(mark)}, sharded / f"x{ending}")
    refusal(sharded, allow_pickle=True)
    assert not mark.exists()


def test_an_accepted_pickle_may_hold_weights_alone(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"more": Trap(tmp_path / "mark")}, folder / "pytorch_model.bin")
    refusal(folder, allow_pickle=True)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": 3}', "", "null"]
)
def test_an_index_that_names_nothing_is_refused(sharded: Path, content: str, unopened: None) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(sharded)


def test_a_hub_cache_of_links_loads(saved: Path, tmp_path: Path) -> None:
    """Its folders hold links to files that are named by their content."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    for number, file in enumerate((saved / "sharded").iterdir()):
        shutil.copy(file, tmp_path / "blobs" / str(number))
        (tmp_path / "snapshots" / file.name).symlink_to(f"../blobs/{number}")
    assert load(str(tmp_path / "snapshots")).model.vocab_size == 32


TEXTS = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"]


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("instead", [a_pipe, a_link_to_a_device, a_broken_link])
def test_what_is_no_file_is_refused_unopened(
    folder: Path, name: str, instead: Callable[[Path], None], unopened: None
) -> None:
    (folder / name).unlink()
    instead(folder / name)
    assert f"Cannot read {folder / name}:" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, name: str, unopened: None) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"Cannot read {folder / name}: it is a folder" in refusal(folder)


@pytest.mark.parametrize("instead", [a_pipe, a_link_to_a_device])
def test_a_gguf_file_that_is_no_file_is_refused_unopened(
    tmp_path: Path, instead: Callable[[Path], None], unopened: None
) -> None:
    instead(tmp_path / "x.gguf")
    assert "it is a pipe or a device" in refusal(tmp_path / "x.gguf")


def test_a_file_that_may_not_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbid)
    assert f"Cannot read {folder / 'config.json'}: Permission denied. Check the path and its permissions." in refusal(
        folder
    )


def test_a_file_larger_than_any_is_refused_unread(folder: Path, unopened: None) -> None:
    os.truncate(folder / "tokenizer.json", 2**31)  # takes no room: there is nothing in it
    assert "tokenizer.json: it has 2147483648 bytes" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "levels deep"),
        (b"[]", "an object is needed"),
        (b"null", "an object is needed"),
        (b"\0" * 100, "not JSON"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_json_that_no_model_can_mean_is_refused(
    folder: Path, name: str, content: bytes, reason: str, unopened: None
) -> None:
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert str(folder / name) in message
    assert reason in message


def test_a_template_that_is_no_text_is_refused_by_name(folder: Path, unopened: None) -> None:
    (folder / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    assert f"Cannot read {folder / 'chat_template.jinja'}: it is no text in UTF-8" in refusal(folder)


# Sizes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**5), ("num_hidden_layers", -1), ("num_hidden_layers", 0), ("num_hidden_layers", "2"),
        ("num_hidden_layers", 2.0), ("num_hidden_layers", True), ("num_hidden_layers", [2, "x"]),
        ("hidden_size", 10**9), ("hidden_size", 0), ("vocab_size", 2**40), ("vocab_size", -32), ("vocab_size", {}),
        ("num_attention_heads", 10**9), ("num_key_value_heads", 10**9), ("head_dim", 10**8), ("num_labels", 10**9),
        ("intermediate_size", 10**12), ("intermediate_size", 1e300), ("max_position_embeddings", 2**62),
        ("num_local_experts", 10**9), ("rope_theta", 10**30), ("anything", 2**63), ("anything", [1, 10**40]),
        ("hidden_size", float("inf")),
    ],
)  # fmt: skip
def test_a_size_beyond_every_model_is_refused_by_name(folder: Path, key: str, value: Any, unopened: None) -> None:
    edit_json(folder / "config.json", **{key: value})
    message = refusal(folder)
    assert f"{folder / 'config.json'}: {key} = " in message


@pytest.mark.parametrize("key", ["text_config", "vision_config", "rope_parameters"])
def test_sizes_inside_of_other_settings_are_checked(folder: Path, key: str, unopened: None) -> None:
    edit_json(folder / "config.json", **{key: {"num_hidden_layers": 10**6}})
    assert f"{key}.num_hidden_layers = 1000000" in refusal(folder)


def test_sizes_that_the_files_cannot_fill_are_refused_without_memory(folder: Path) -> None:
    """Each number is plausible; a model of them would take 68 GB, and its files have 60 kB."""
    edit_json(folder / "config.json", vocab_size=2**22, hidden_size=2**12)
    assert "the configuration describes a model of" in refusal(folder)


def test_layers_that_the_files_do_not_have_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=1000)
    assert "the configuration has 1000 layers" in refusal(folder)


def test_tables_beside_the_weights_are_counted(tmp_path: Path) -> None:
    """This family makes a mask of context², whatever its files hold."""
    config = CONFIG_MAPPING["gpt_bigcode"](n_embd=8, n_head=1, n_layer=1, n_positions=2**17, vocab_size=32)
    with pytest.raises(UnsupportedModelError, match="bytes beside the weights"):
        reading.check_fit(config, [2**20, 2**20], "tiny")


FAMILIES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {"gemma4_assistant"})  # it has no defaults


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_transformers_is_plausible(name: str) -> None:
    """Bounds that refuse a real model would be worse than none: the defaults are those of one."""
    check_config(CONFIG_MAPPING[name]().to_dict(), Path(name))


# Tables of contents: safetensors


def write_safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "reason"),
    [
        ({"a": entry(0, 8)}, 4, "take 8 bytes, and 4 are there"),
        ({"a": entry(0, 8)}, 12, "take 8 bytes, and 12 are there"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' begins at byte 4"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' begins at byte 8"),
        ({"a": entry(0, 8, shape=[3])}, 8, "'a' of shape [3] in F32 does not take 8 bytes"),
        ({"a": entry(0, 8, dtype="F33")}, 8, "unknown dtype 'F33'"),
        ({"a": entry(0, 8, dtype=["F32"])}, 8, "unknown dtype"),
        ({"a": entry(0, 8, shape=[-1, -2])}, 8, "sizes or offsets that are none"),
        ({"a": entry(0, 8, shape=[2.0])}, 8, "sizes or offsets that are none"),
        ({"a": entry(0, 8, shape=[True, 2])}, 8, "sizes or offsets that are none"),
        ({"a": entry(0, 8, shape=[10**30])}, 8, "sizes or offsets that are none"),
        ({"a": entry(0, 8, shape=[1] * 9 + [2])}, 8, "sizes or offsets that are none"),
        ({"a": entry(0, 8, shape="2")}, 8, "sizes or offsets that are none"),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, "lacks a dtype"),
        ({"a": 3}, 8, "lacks a dtype"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, 8, "lacks a dtype"),
        (b'{"a": 1, "a": 2}', 0, "'a' twice"),
        (b"[]", 0, "an object is needed"),
        (b"\x80\x04", 0, "not JSON"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_refused(
    tmp_path: Path, header: Any, size: int, reason: str
) -> None:
    write_safetensors(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(UnsupportedModelError) as caught:
        safetensors_table(tmp_path / "x.safetensors")
    assert str(tmp_path / "x.safetensors") in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("length", [3, 10**6, 2**40, 2**63, 2**64 - 1])
def test_the_length_of_a_header_is_held_against_the_file(tmp_path: Path, length: int) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"a": entry(0, 8)}, bytes(8), length)
    with pytest.raises(UnsupportedModelError, match=r"bytes, the file|not JSON"):
        safetensors_table(tmp_path / "x.safetensors")


def test_a_table_says_what_is_in_the_file(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    table = safetensors_table(folder / "model.safetensors")
    assert {name: stored.shape for name, stored in table.items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    assert sum(stored.elements for stored in table.values()) == sum(map(torch.numel, weights.values()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8, torch.int64, torch.complex64], ids=str)
def test_weights_that_are_no_real_numbers_are_refused(folder: Path, dtype: torch.dtype, unopened: None) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32).to(dtype)
    save_file(weights, path, metadata={"format": "pt"})
    assert "tensor 'model.layers.1.mlp.up_proj.weight' is" in refusal(folder)


def test_masks_that_old_files_carry_along_do_no_harm(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path) | {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)}
    save_file(weights | {"h.0.num_seen": torch.tensor(3)}, path, metadata={"format": "pt"})
    load(str(folder))


# Tables of contents: GGUF


def words(*parts: str | int | float | tuple[str, Any]) -> bytes:
    """Bytes of a header: texts with their lengths, and numbers by ("layout", number)."""
    data = b""
    for part in parts:
        if isinstance(part, str):
            data += struct.pack("<Q", len(part.encode())) + part.encode()
        else:
            data += struct.pack(*part)
    return data


def header(tensors: int, values: int, *parts: Any, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + words(*parts)


U32, U64 = "<I", "<Q"
LLAMA = ("general.architecture", (U32, 8), "llama")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"GGUF", "announced"),
        (b"FUGG" + bytes(100), "does not begin"),
        (header(0, 0, version=1), "of version 1"),
        (header(0, 0, version=2**24 * 3), "of version"),
        (header(10**6, 0), "1000000 tensors are announced"),
        (header(0, 10**6), "1000000 values are announced"),
        (header(2**63, 2**63), "are announced"),
        (header(0, 1, (U64, 2**62), (U64, 0), (U64, 0)), "are announced"),
        (header(0, 1, "k", (U32, 9), (U32, 4), (U64, 10**9)), "1000000000 numbers are announced"),
        (header(0, 1, "k", (U32, 9), (U32, 8), (U64, 10**9)), "1000000000 strings are announced"),
        (header(0, 1, "k", (U32, 9), (U32, 9), (U64, 0)), "array of the type 9"),
        (header(0, 1, "k", (U32, 99), (U64, 0)), "'k' is of the unknown type 99"),
        (header(0, 2, *LLAMA, *LLAMA), "twice"),
        (header(0, 1, "llama.block_count", (U32, 4), (U32, 2)), "does not name its architecture"),
        (header(0, 2, *LLAMA, "llama.block_count", (U32, 4), (U32, 10**5)), "num_hidden_layers = 100000"),
        (header(0, 2, *LLAMA, "llama.block_count", (U32, 8), "two"), "num_hidden_layers = 'two'"),
        (header(0, 2, *LLAMA, "llama.block_count", (U32, 4), (U32, 50)), "50 layers and 0 tensors"),
        (header(0, 2, *LLAMA, "llama.embedding_length", (U32, 4), (U32, 2**31)), "hidden_size = 2147483648"),
        (header(0, 2, *LLAMA, "llama.attention.head_count", (U32, 4), (U32, 0)), "num_attention_heads = 0"),
        (header(0, 2, *LLAMA, "general.alignment", (U32, 4), (U32, 3)), "alignment is 3"),
        (header(0, 2, *LLAMA, "general.alignment", (U32, 4), (U32, 0)), "alignment is 0"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 8), (U32, 0), (U64, 0)), "'t' ends at byte"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 2**62), (U32, 0), (U64, 0)), "'t' ends at byte"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 8), (U32, 0), (U64, 7)), "out of line"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 8), (U32, 5), (U64, 0)), "unknown type 5"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 8), (U32, 2), (U64, 0)), "cannot be Q4_0"),
        (header(1, 1, *LLAMA, "t", (U32, 1), (U64, 0), (U32, 0), (U64, 0)), "cannot be F32"),
        (header(1, 1, *LLAMA, "t", (U32, 0), (U32, 2), (U64, 0)), "cannot be Q4_0"),
        (header(1, 1, *LLAMA, "t", (U32, 10**6), (U64, 0), (U32, 0), (U64, 0)), "1000000 dimensions"),
        (header(2, 1, *LLAMA, *2 * ("t", (U32, 1), (U64, 8), (U32, 0), (U64, 0))) + bytes(64), "'t' twice"),
        (
            header(2, 1, *LLAMA, *(part for name in "tu" for part in (name, (U32, 1), (U64, 8), (U32, 0), (U64, 0))))
            + bytes(64),
            "inside of another",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gguf_header_that_does_not_describe_its_file_is_refused(
    tmp_path: Path, content: bytes, reason: str, unopened: None
) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert reason in refusal(tmp_path / "x.gguf")


def test_a_gguf_header_says_what_is_in_the_file(tmp_path: Path) -> None:
    """Written by the format's own library."""
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint64("x.count", 2**40)
    writer.add_array("x.few", [1, 2, 3])
    writer.add_array("x.words", ["a", "b"])
    writer.add_bool("x.flag", True)
    writer.add_tensor("t", np.zeros((3, 5), np.float32))
    writer.add_tensor("u", np.zeros((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_header(tmp_path / "x.gguf")
    assert found.values["x.count"] == 2**40
    assert found.values["x.few"] == [1, 2, 3]
    assert found.values["x.words"].count == 2
    assert found.values["x.flag"] is True
    assert {name: stored.shape for name, stored in found.tensors.items()} == {"t": (5, 3), "u": (32, 2)}


# Names


@pytest.mark.parametrize(
    ("name", "id", "file"),
    [
        ("owner/name", "owner/name", None),
        ("gpt2", "gpt2", None),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", None),
        ("owner/name/file.gguf", "owner/name", "file.gguf"),
        ("owner/name/sub/FILE.GGUF", "owner/name", "sub/FILE.GGUF"),
    ],
)
def test_a_hub_name_is_understood(name: str, id: str, file: str | None) -> None:
    assert hub.repository(name) == hub.Repository(id, file)


@pytest.mark.parametrize(
    "name",
    ["./owner/name", "../name", "/owner/name", "~/model", "owner/name/", "a/b/c", "a//b", "x.gguf", "models/x.gguf",
     "owner/na me", "owner/..", "C:\\models\\x", "a--b/c", "a/b/../c.gguf", "ow\nner/name", "a" * 5000, "é/ü", "-a/b"],
)  # fmt: skip
def test_a_name_that_no_hub_has_is_a_missing_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "fetched", lambda *args, **options: pytest.fail("the hub was asked"))
    assert "There is nothing at" in refusal(name)


@pytest.mark.parametrize("path", [5, "", b"x", ["x"], "\ud800"])
def test_a_path_of_another_type_is_refused(path: Any) -> None:
    with pytest.raises(SpecdecError, match="The model's path = "):
        load(path)


def test_the_home_folder_may_be_written_as_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(f"~/{folder.name}").model.vocab_size == 32
    assert tokens_of(f"~/{folder.name}") == tokens_of(str(folder))


def test_a_revision_of_a_local_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="revision='v1' is for models on the hub"):
        load(str(folder), revision="v1")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Keeps a repository in a folder; a fetch brings the files that fit, as the hub's own library does."""

    def __init__(self, there: Path, cache: Path) -> None:
        self.there, self.cache = there, cache / COMMIT
        self.asked: list[tuple[str, str | None]] = []

    def files(self, repo: str, revision: str | None, patterns: Any) -> Path:
        self.asked.append((repo, revision))
        self.cache.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            for file in self.there.glob(pattern):
                shutil.copy(file, self.cache / file.name)
        return self.cache

    def file(self, repo: str, file: str, revision: str | None) -> Path:
        self.asked.append((f"{repo}:{file}", revision))
        return self.there / file


@pytest.fixture
def fake(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], FakeHub]:
    def make(there: Path) -> FakeHub:
        fake = FakeHub(there, tmp_path / "hub")
        monkeypatch.setattr(hub, "_files", fake.files)
        monkeypatch.setattr(hub, "_file", fake.file)
        return fake

    return make


@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_a_model_on_the_hub_is_fetched_and_checked(saved: Path, fake: Callable[[Path], FakeHub], name: str) -> None:
    there = fake(saved / name)
    loaded = load("owner/name", revision="v2")
    assert loaded.model.vocab_size == 32
    assert loaded.model.name == "owner/name"
    assert there.asked == [("owner/name", "v2"), ("owner/name", COMMIT)], "the weights are those of the same commit"
    assert not list(there.cache.glob("*.bin"))


def test_a_gguf_file_on_the_hub_is_fetched(saved: Path, fake: Callable[[Path], FakeHub]) -> None:
    there = fake(saved)
    assert load("owner/name/tiny.gguf", revision="v2").eos == (1,)
    assert there.asked == [("owner/name:tiny.gguf", "v2")]


def test_pickled_weights_on_the_hub_are_fetched_only_when_that_is_asked_for(
    folder: Path, fake: Callable[[Path], FakeHub]
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    there = fake(folder)
    assert "no weights" in refusal("owner/name")
    assert not (there.cache / "pytorch_model.bin").exists()
    assert load("owner/name", allow_pickle=True).model.vocab_size == 32


def test_code_on_the_hub_is_not_fetched(folder: Path, tmp_path: Path, fake: Callable[[Path], FakeHub]) -> None:
    plant(folder, tmp_path / "mark")
    edit_json(folder / "config.json", model_type="custom")
    there = fake(folder)
    assert "trust_remote_code=True" in refusal("owner/name")
    assert not (there.cache / "custom.py").exists()


@pytest.mark.parametrize("name", ["owner/name", "gpt2-no-such-model", "owner/name/file.gguf"])
def test_the_hub_that_cannot_be_reached_is_named(name: str) -> None:
    message = refusal(name)
    assert message.startswith(f"Cannot fetch {'/'.join(name.split('/')[:2])!r} from the hub")
    assert "HF_HUB_OFFLINE" in message


# Vocabularies, read ahead


@pytest.mark.parametrize(
    "model", [3, {}, {"vocab": 3}, {"vocab": [[["a"], 0.0], [{}, 1]]}, {"vocab": {"a": []}}], ids=str
)
def test_a_vocabulary_of_another_form_tells_nothing(folder: Path, model: Any) -> None:
    edit_json(folder / "tokenizer.json", model=model, added_tokens=[3, {"content": [], "id": 1}, {"id": {}}])
    assert not tokens_of(str(folder))


def test_a_vocabulary_that_cannot_be_read_is_refused_by_name(folder: Path) -> None:
    found = tokens_of(f"{folder}/../{folder.name}")
    assert found is not None
    assert found["ab"] == 30
    cut(folder / "tokenizer.json", 100)
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json: it is not JSON"):
        tokens_of(str(folder))
