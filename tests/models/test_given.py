"""A model that the caller has loaded: it decodes as its files do, and stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaModel

from specdec import SamplingParams, SpeculativeGenerator
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.models.loading import load_given
from tests.models.tinyfiles import make_module, make_tokenizer

PROMPT = [4, 5, 6, 4, 5]
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)


def text_of(target: Any, **options: Any) -> list[int]:
    with SpeculativeGenerator.from_pretrained(target, drafter="ngram", **options) as generator:
        [generation] = generator.generate([PROMPT], PARAMS)
    return generation.token_ids


@pytest.mark.parametrize("backend", ["auto", "transformers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_gives_what_its_files_give_and_is_not_changed(dtype: torch.dtype, backend: str, tmp_path: Path) -> None:
    module = make_module().to(dtype)
    module.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    parts, attention = [type(part) for part in module.modules()], module.config._attn_implementation

    given = text_of(module, tokenizer=make_tokenizer(), backend=backend)

    assert given == text_of(str(tmp_path), backend=backend)
    assert module.state_dict().keys() == before.keys()
    assert all(value.dtype is dtype and torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [type(part) for part in module.modules()] == parts
    assert module.config._attn_implementation == attention
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_its_generation_config_counts() -> None:
    module = make_module()
    module.generation_config.update(do_sample=True, temperature=0.5, top_k=3, eos_token_id=[1, 2])
    loaded = load_given(module, make_tokenizer())
    assert (loaded.eos, loaded.defaults) == ((1, 2), {"temperature": 0.5, "top_k": 3})
    assert load_given(module, make_tokenizer(), generation_config="none").defaults == {}


def test_what_cannot_work_is_refused_in_a_line() -> None:
    module = make_module()
    with pytest.raises(ConfigError, match=r"tokenizer = None cannot work: LlamaForCausalLM needs its own"):
        SpeculativeGenerator.from_pretrained(module)
    with pytest.raises(UnsupportedModelError, match="has no head that names the next token"):
        load_given(LlamaModel(module.config), make_tokenizer())
    with torch.device("meta"):
        empty = type(module)(module.config)
    with pytest.raises(UnsupportedModelError, match="weights that are not in memory"):
        load_given(empty, make_tokenizer())
