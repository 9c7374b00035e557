"""LoRA folders: merged at load as peft itself merges them, or refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from specdec import SamplingParams, SpeculativeGenerator
from specdec.errors import UnsupportedModelError
from specdec.models import adapters, sources
from specdec.models.loading import load
from specdec.models.native import NativeModel
from specdec.testing.drafters import PoisonDrafter
from tests.models.bench import Bench
from tests.models.zoo import VOCAB_SIZE, save, tiny_config, tokenizer

peft = pytest.importorskip("peft", reason="no peft: pip install 'specdec-lab[lora]'")
PROMPT = [5, 9, 14, 33, 7, 5, 9, 14]
TOKENS = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that adapters change; not to be changed."""
    folder = tmp_path_factory.mktemp("base")
    save(tiny_config("llama"), folder)
    return folder


def make(base: Path, folder: Path, **options: Any) -> Path:
    """A folder with an adapter whose changes are as large as the weights."""
    module = AutoModelForCausalLM.from_pretrained(base)
    given: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    adapted = peft.get_peft_model(module, peft.LoraConfig(**given | options, init_lora_weights=False))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.copy_(0.2 * torch.randn(weight.shape))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return make(base, tmp_path / "adapter")


def own_logits(base: Path, folder: Path | None) -> torch.Tensor:
    """The base's own, with peft's adapter beside its weights, not merged."""
    module = AutoModelForCausalLM.from_pretrained(base)
    model = module if folder is None else peft.PeftModel.from_pretrained(module, str(folder))
    with torch.no_grad():
        return torch.as_tensor(model.eval()(input_ids=torch.tensor([PROMPT])).logits[0])


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        load(str(folder), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task_type": None},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*layers\.[01]\.(self_attn|mlp)\.(v|up)_proj"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "o_proj"]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_merged_as_peft_does(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make(base, tmp_path / "adapter", **options)
    loaded = load(str(folder))
    assert isinstance(loaded.model, NativeModel)
    expected = own_logits(base, folder)
    assert float((Bench(loaded.model).append(0, PROMPT) - expected).abs().max()) < 1e-3
    assert float((own_logits(base, None) - expected).abs().max()) > 0.1


def test_text_is_that_of_the_adapted_model(base: Path, adapter: Path) -> None:
    """Also with drafts that are all wrong."""
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    model.generation_config.eos_token_id = None
    ids = model.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    with SpeculativeGenerator.from_pretrained(str(adapter), PoisonDrafter()) as generator:
        [generation] = generator.generate([PROMPT], SamplingParams(max_tokens=TOKENS, ignore_eos=True))
    assert generation.token_ids == ids[0, len(PROMPT) :].tolist()


def test_the_base_may_be_given_in_place_of_the_one_that_is_named(base: Path, adapter: Path) -> None:
    edit(adapter, base_model_name_or_path="nowhere/to-be-found")
    loaded = load(str(adapter), base_model=str(base))
    assert float((Bench(loaded.model).append(0, PROMPT) - own_logits(base, adapter)).abs().max()) < 1e-3
    edit(adapter, base_model_name_or_path=None)
    assert "does not name its base model" in refusal(adapter)
    assert "base_model=" in refusal(adapter)


def test_a_base_for_what_is_no_adapter_is_refused(base: Path) -> None:
    assert "holds no adapter" in refusal(base, base_model=str(base))


def test_the_adapters_own_tokenizer_comes_first(base: Path, adapter: Path) -> None:
    assert load(str(adapter)).tokenizer.encode("w7", add_special_tokens=False) == [7]
    words = [f"w{number}" for number in range(VOCAB_SIZE)]
    words[7], words[8] = words[8], words[7]
    tokenizer(VOCAB_SIZE, words).save_pretrained(adapter)
    assert load(str(adapter)).tokenizer.encode("w7", add_special_tokens=False) == [8]


def test_an_adapter_from_the_hub_comes_with_its_weights(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base of one that is named by a hub id is asked for there, too."""
    edit(adapter, base_model_name_or_path="owner/base")
    asked: list[str] = []

    def fetched(wanted: Any, *args: object, **options: object) -> Path:
        asked.append(wanted.id)
        return {"owner/adapter": adapter, "owner/base": base}[wanted.id]

    monkeypatch.setattr(sources, "fetched", fetched)
    assert float((Bench(load("owner/adapter").model).append(0, PROMPT) - own_logits(base, adapter)).abs().max()) < 1e-3
    assert asked == ["owner/adapter", "owner/base"]


def test_of_an_adapter_on_the_hub_its_own_files_are_fetched(
    adapter: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not asked for does not come: a stand-in gives what the patterns name, as the hub does."""
    cache = adapter.parent / "cache"
    cache.mkdir()

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for file in adapter.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                (cache / file.name).write_bytes(file.read_bytes())
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert float((Bench(load("owner/adapter").model).append(0, PROMPT) - own_logits(base, adapter)).abs().max()) < 1e-3


def test_without_peft_an_adapter_is_refused_with_its_extra(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    message = refusal(adapter)
    assert "peft, which merges them, is not installed" in message
    assert "pip install 'specdec-lab[lora]'" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', and only LORA is merged"),
        ({"peft_type": None}, "peft_type is None"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "names Python modules to import"),
        ({"alora_invocation_tokens": [5]}, "acts in some places of a text only"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "makes a model of other layers"),
        ({"target_modules": "(q+)+_proj"}, r"the pattern '\(q\+\)\+_proj' could take for ever to match"),
        ({"exclude_modules": "a" * 5000}, "could take for ever"),
        ({"rank_pattern": {"(.*)*x": 3}}, "could take for ever"),
        ({"target_modules": ["no_such_proj"]}, "Cannot merge"),
        ({"r": 3}, "Cannot merge"),
        ({"r": "four"}, "Cannot merge"),
        ({"base_model_name_or_path": "/no/such/folder"}, "There is nothing at /no/such/folder"),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_refused_by_name(adapter: Path, changes: dict[str, Any], reason: str) -> None:
    edit(adapter, **changes)
    with pytest.raises(UnsupportedModelError, match=reason):
        load(str(adapter))


def test_an_adapter_of_another_kind_is_refused(base: Path, tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(module, peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).save_pretrained(
        tmp_path
    )
    assert "peft_type is 'PREFIX_TUNING'" in refusal(tmp_path)


@pytest.mark.parametrize("change", ["lacks", "has no place for"])
def test_every_tensor_must_have_its_place(adapter: Path, change: str) -> None:
    """peft fills what is missing with numbers of its own, and passes over what is left over."""
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    tensor = weights.pop(name)
    if change != "lacks":
        weights |= {name: tensor, name.replace("layers.1", "layers.9"): tensor.clone()}
    save_file(weights, file, metadata={"format": "pt"})
    assert change in refusal(adapter)
    assert ("layers.1" if change == "lacks" else "layers.9") in refusal(adapter)


def test_pickled_adapters_are_refused_unread(adapter: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(f"cos\nmkdir\n(V{mark}\ntR.".encode())
    assert "no adapter_model.safetensors" in refusal(adapter)
    assert "no adapter_model.safetensors" in refusal(adapter, allow_pickle=True)
    assert not mark.exists()


def test_a_damaged_adapter_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    assert "adapter_model.safetensors" in refusal(adapter)


def test_an_adapter_beside_a_model_is_refused(base: Path, adapter: Path) -> None:
    """transformers would load both where peft is installed, and the model alone where it is not."""
    for file in base.iterdir():
        os.symlink(file, adapter / file.name)
    assert "the folder also holds a model (model.safetensors)" in refusal(adapter)


def test_an_adapter_of_an_adapter_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    upper = make(base, tmp_path / "upper")
    assert "is an adapter itself" in refusal(upper, base_model=str(adapter))
    edit(upper, base_model_name_or_path=str(upper))
    assert "is an adapter itself" in refusal(upper)


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    save(tiny_config("llama", hidden_size=64, intermediate_size=96), tmp_path / "other")
    assert "Cannot merge" in refusal(adapter, base_model=str(tmp_path / "other"))


def test_an_adapter_that_makes_nan_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = weights[name] * float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert "NaN" in refusal(adapter)
