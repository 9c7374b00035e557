"""What a model's files say of generating, read as they are, and honoured as transformers' own `generate` does."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator, UnsupportedModelError
from specdec.drafters.model import ModelDrafter
from specdec.models.loading import load
from specdec.models.words import FIELDS, UNKNOWN, Words
from specdec.sampling.params import Unset
from specdec.testing.tiny import llama_module
from tests.fewer import every
from tests.models.test_loading import make_tokenizer

PROMPTS = [[5], [9, 7, 3, 9, 7, 3, 9], list(range(4, 26)), [7, 7, 7, 7]]
LENGTH = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random Llama with a tokenizer and no word of how to generate."""
    tokenizer = make_tokenizer()
    llama_module(3, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    say(tmp_path / "config.json", eos_token_id=None)
    return tmp_path


def say(path: Path, **entries: Any) -> None:
    """Sets entries of a JSON file, which may not be there yet; None takes one out."""
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({name: value for name, value in {**said, **entries}.items() if value is not None}))


def generated(folder: Path, **options: Any) -> list[list[int]]:
    """By transformers, each prompt alone; sampling stays off."""
    module = AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        given = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": 0, **options}
        full = module.generate(ids, attention_mask=torch.ones_like(ids), **given)
        texts.append(full[0, len(prompt) :].tolist())
    return texts


def ours(folder: Path, params: SamplingParams | None, drafter: str = "ngram", **options: Any) -> list[list[int]]:
    config = EngineConfig(num_blocks=64)
    with SpeculativeGenerator.from_pretrained(str(folder), drafter, config=config, **options) as generator:
        return [generation.token_ids for generation in generator.generate(PROMPTS, params)]


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, tuple[int, ...]]] = {
    "nothing": ({}, None, ()),  # and not the 2 of LlamaConfig
    "the config": ({"eos_token_id": 6}, None, (6,)),
    "a list in the config": ({"eos_token_id": [8, 6]}, None, (6, 8)),
    "token zero": ({"eos_token_id": 0}, None, (0,)),
    "the generation config": ({}, {"eos_token_id": [12, 4]}, (4, 12)),
    "both": ({"eos_token_id": 6}, {"eos_token_id": 9}, (9,)),
    "a generation config without one": ({"eos_token_id": 6}, {"top_k": 5}, ()),
    "an inner config": ({"text_config": {"eos_token_id": 11}}, None, (11,)),
    "an inner config that is overruled": ({"eos_token_id": 6, "text_config": {"eos_token_id": 11}}, None, (6,)),
}


@pytest.mark.parametrize("case", ENDS)
def test_end_tokens_are_those_that_generate_uses_and_no_classes_default(folder: Path, case: str) -> None:
    config, generation, expected = ENDS[case]
    say(folder / "config.json", **config)
    if generation is not None:
        say(folder / "generation_config.json", **generation)
    assert Words.of_folder(folder).eos() == expected
    if "inner" not in case:  # our Llama has none
        assert load(str(folder)).eos == expected
        want = [] if case == "nothing" else AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
        assert sorted([want] if isinstance(want, int) else want or []) == list(expected)


@pytest.mark.parametrize("end", [None, 0, 7])
def test_a_gguf_file_that_names_no_end_token_has_none(tmp_path: Path, end: int | None) -> None:
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    if end is not None:
        writer.add_eos_token_id(end)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    words = Words.of_gguf(path)
    assert words.eos() == (() if end is None else (end,))
    assert words.defaults(4) == {}


GREEDY: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.4},
    "suppressed": {"suppress_tokens": [*range(4, 60, 3), -1, 10**6]},
    "a suppressed beginning": {"begin_suppress_tokens": list(range(4, 70))},
    "bad words": {"bad_words_ids": [[9], [7, 3], [30, 31, 12], *([token] for token in range(16, 24))]},
    "bad words that are end tokens": {
        "bad_words_ids": [[9], *([token] for token in range(4, 32, 4))],
        "eos_token_id": list(range(4, 32, 4)),
    },
    "least length": {"min_new_tokens": 8, "eos_token_id": list(range(4, 60, 4))},
    "most length": {"max_new_tokens": 7},
    "end tokens": {"eos_token_id": list(range(4, 60, 4))},
    "warmth without sampling": {"temperature": 0.3, "top_k": 2, "top_p": 0.5, "min_p": 0.2, "do_sample": False},
    "nothing that counts": {"num_beams": 1, "no_repeat_ngram_size": 0, "typical_p": 1.0, "max_length": 4096},
    "all": {
        "repetition_penalty": 1.2,
        "suppress_tokens": [9, 30],
        "begin_suppress_tokens": [7],
        "bad_words_ids": [[3, 9]],
        "min_new_tokens": 5,
        "eos_token_id": [6, 17, 20, 33, 41],
    },
}


@pytest.mark.parametrize(
    ("where", "drafter"),
    [
        *(("generation_config.json", drafter) for drafter in ("none", "ngram", "early_exit")),
        ("config.json", "none"),
        *(pytest.param("config.json", drafter, marks=pytest.mark.slow) for drafter in ("ngram", "early_exit")),
    ],
)
@pytest.mark.parametrize("case", every(2, GREEDY))
def test_greedy_texts_are_those_of_generate_with_the_models_own_file(
    folder: Path, case: str, where: str, drafter: str
) -> None:
    plain = generated(folder)
    say(folder / where, **GREEDY[case])
    own = {} if case == "most length" else {"max_tokens": LENGTH}
    options = {"max_new_tokens": GREEDY[case]["max_new_tokens"]} if case == "most length" else {}
    want = generated(folder, **options)
    assert ours(folder, SamplingParams(**own), drafter) == want
    if case not in ("warmth without sampling", "nothing that counts"):
        assert want != plain  # the file counts
    if case not in ("end tokens", "warmth without sampling", "nothing that counts"):
        left_out = ours(folder, SamplingParams(max_tokens=LENGTH), drafter, generation_config="none")
        assert left_out != want


def test_what_a_caller_sets_goes_first(folder: Path) -> None:
    plain = generated(folder)
    say(folder / "generation_config.json", repetition_penalty=1.4, suppress_tokens=[9], max_new_tokens=3)
    params = SamplingParams(max_tokens=LENGTH, repetition_penalty=1.0, suppress_tokens=())
    assert ours(folder, params) == plain
    penalized = generated(folder, suppress_tokens=[])
    assert ours(folder, SamplingParams(max_tokens=LENGTH, suppress_tokens=())) == penalized != plain
    assert [len(text) for text in ours(folder, None)] == [3] * len(PROMPTS)


def test_a_model_that_samples_samples_and_says_so_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    say(folder / "generation_config.json", do_sample=True, top_k=20, top_p=0.8, temperature=0.7, eos_token_id=2)
    with caplog.at_level(logging.WARNING, "specdec"):
        loaded = load(str(folder))
        generator = SpeculativeGenerator(loaded, "ngram", config=EngineConfig(num_blocks=64))
        generator.generate(PROMPTS)
    [record] = [record.getMessage() for record in caplog.records if "defaults" in record.getMessage()]
    assert "temperature=0.7, top_k=20, top_p=0.8" in record
    assert "generation_config='none'" in record
    wanted = SamplingParams(temperature=0.7, top_k=20, top_p=0.8)
    assert generator.default_params == wanted
    seeded = [SamplingParams(seed=seed, max_tokens=8) for seed in range(len(PROMPTS))]
    explicit = [SamplingParams(seed=seed, max_tokens=8, temperature=0.7, top_k=20, top_p=0.8) for seed in range(4)]
    texts = [[one.token_ids for one in generator.generate(PROMPTS, params)] for params in (seeded, explicit)]
    assert texts[0] == texts[1]
    cold = SamplingParams(temperature=0.0, max_tokens=8)
    assert [one.token_ids for one in generator.generate(PROMPTS, cold)] == generated(folder, max_new_tokens=8)
    with caplog.at_level(logging.WARNING, "specdec"):
        caplog.clear()
        assert load(str(folder), generation_config="none").defaults == {}
    assert caplog.records == []
    assert load(str(folder), generation_config="none").eos == (2,)


def test_sampling_without_a_temperature_is_at_1(folder: Path) -> None:
    say(folder / "generation_config.json", do_sample=True)
    assert load(str(folder)).defaults == {"temperature": 1.0}


WRONG: list[tuple[str, Any]] = [
    ("repetition_penalty", -1.0), ("repetition_penalty", "1.3"), ("repetition_penalty", 1e30), ("top_k", -3),
    ("top_k", 2.5), ("top_p", 0.0), ("top_p", math.inf), ("min_p", 2), ("suppress_tokens", 5),
    ("suppress_tokens", ["a"]), ("begin_suppress_tokens", [[1]]), ("bad_words_ids", [1]), ("bad_words_ids", [[]]),
    ("max_new_tokens", 0), ("min_new_tokens", -1), ("do_sample", "yes"), ("do_sample", 1), ("eos_token_id", "</s>"),
    ("eos_token_id", [-1]), ("eos_token_id", True), ("eos_token_id", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_cannot_be_is_refused_by_name_and_file(tmp_path: Path, name: str, value: Any) -> None:
    where = tmp_path / "generation_config.json"
    words = Words({name: value}, where)
    with pytest.raises(UnsupportedModelError, match=rf"{name} in .*generation_config.json = .* cannot work\. Give"):
        (words.eos(), words.defaults(64))


def test_a_temperature_counts_only_where_it_is_used() -> None:
    assert Words({"temperature": 1e-9}).defaults(64) == {}
    with pytest.raises(UnsupportedModelError, match="temperature in"):
        Words({"temperature": 1e-9, "do_sample": True}).defaults(64)


ACTIVE: dict[str, Any] = {
    "num_beams": 4, "num_return_sequences": 2, "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.1, "min_length": 10, "typical_p": 0.9, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4,
    "top_h": 0.4, "penalty_alpha": 0.6, "guidance_scale": 1.5, "dola_layers": "low", "token_healing": True,
    "sequence_bias": [[[1], 2.0]], "forced_bos_token_id": 0, "forced_eos_token_id": 2,
    "exponential_decay_length_penalty": [3, 1.1], "force_words_ids": [[1]], "constraints": [1], "stop_strings": "x",
    "watermarking_config": {"bias": 2.0}, "max_time": 3.0,
}  # fmt: skip


def test_what_specdec_does_not_do_is_refused_by_name(folder: Path) -> None:
    assert set(ACTIVE) == set(UNKNOWN)
    for name, value in ACTIVE.items():
        with pytest.raises(UnsupportedModelError, match=rf"says {name} = .*generation_config='none'"):
            Words({name: value}).defaults(64)
    off = {name: values[0] for name, values in UNKNOWN.items() if values} | dict.fromkeys(UNKNOWN)
    assert Words(off).defaults(64) == {}
    say(folder / "generation_config.json", no_repeat_ngram_size=3)
    with pytest.raises(UnsupportedModelError, match="no_repeat_ngram_size = 3"):
        load(str(folder))
    assert load(str(folder), generation_config="none").defaults == {}


def test_a_draft_models_own_words_count_for_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The request says how its tokens are drawn, the draft's too."""
    plain = ours(folder, SamplingParams(max_tokens=8), "none")
    target = load(str(folder))
    say(folder / "generation_config.json", no_repeat_ngram_size=3, repetition_penalty=1.4, eos_token_id=9)
    with caplog.at_level(logging.WARNING, "specdec"):
        generator = SpeculativeGenerator(target, ModelDrafter(str(folder)), config=EngineConfig(num_blocks=64))
    assert caplog.records == []
    found = generator.generate(PROMPTS, SamplingParams(max_tokens=8))
    assert [generation.token_ids for generation in found] == plain
    assert all(generation.stats.acceptance_rate == 1.0 for generation in found)


def test_every_field_that_a_file_may_set_gives_way_to_the_callers() -> None:
    marked = {one.name for one in fields(SamplingParams) if isinstance(one.default, Unset)}
    assert {own for own, _ in FIELDS.values()} == marked
