"""Whole generators on files: tiny Llamas with trained tokenizers of four kinds; texts are plain decoding's."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from specdec import ConfigError, SamplingParams, SpeculativeGenerator
from specdec.drafters.model import ModelDrafter
from tests.tiny import llama_module
from tests.toytokenizers import TRAINED

PROMPTS = ["The quick brown", " Über allen", "naïve 😀🎉 café", "<|user|>one\n\n  two<|user|>", "déjà vu 🚀"]
GREEDY = SamplingParams(max_tokens=24)
WARM = SamplingParams(max_tokens=24, temperature=0.8, seed=5)
NAMES = ["tli", "slem"]
ROUND = [*pairwise(TRAINED), ("WordPiece", "byte-level")]
"""Each kind once for the target, and once for the draft."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model for each kind of tokenizer, with as many rows as that has tokens."""
    found = {}
    for seed, (kind, make) in enumerate(TRAINED.items()):
        found[kind] = tmp_path_factory.mktemp("models") / kind.replace(" ", "-")
        llama_module(seed, vocab_size=len(make()), hidden_size=16).save_pretrained(found[kind])
        make().save_pretrained(found[kind])
    return found


def generator(target: Path, name: str, draft: Path | None = None) -> SpeculativeGenerator:
    options = {} if draft is None else {"draft": str(draft)}
    return SpeculativeGenerator.from_pretrained(str(target), drafter=name, rule="gumbel", drafter_options=options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [pair if pair in ROUND else pytest.param(*pair, marks=pytest.mark.slow) for pair in permutations(TRAINED, 2)],
)
def test_texts_are_those_of_plain_decoding(name: str, ours: str, theirs: str, folders: dict[str, Path]) -> None:
    """Texts of random models are hard to read: parts of characters, special tokens, splits that no tokenizer makes."""
    plain, drafted = generator(folders[ours], "none"), generator(folders[ours], name, folders[theirs])
    for params in (GREEDY, *(replace(WARM, seed=seed) for seed in range(3))):
        texts = [[one.token_ids for one in each.generate(PROMPTS, params)] for each in (plain, drafted)]
        assert texts[0] == texts[1]
    assert drafted.engine.drafting.faults == {}


@pytest.mark.parametrize("name", NAMES)
def test_drafts_are_made_in_most_steps(name: str, folders: dict[str, Path]) -> None:
    """Of tokenizers that have no parts of characters, which random models would not put together."""
    found = generator(folders["Unigram"], name, folders["WordPiece"]).generate(PROMPTS, GREEDY)
    drafting = sum(one.stats.of(name).steps for one in found)
    assert drafting > sum(one.stats.passes for one in found) / 2


def test_a_draft_with_another_tokenizer_is_pointed_to_these_drafters(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"different ids .* Choose .* or drafter='tli' or 'slem'"):
        SpeculativeGenerator.from_pretrained(str(folders["Unigram"]), drafter=ModelDrafter(str(folders["byte-level"])))
