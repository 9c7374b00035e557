"""What may enter the stock store, and what the one that ships is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.stock_store import Exchange, chosen
from specdec import SpeculativeGenerator
from specdec.stores import STOCK, Vocabulary, read
from specdec.training.denied import Denied

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def words(text: str) -> SimpleNamespace:
    """A generator whose tokenizer knows tokens by their places in a text."""
    tokens = text.split()
    decode = lambda ids, skip_special_tokens: " ".join(tokens[i] for i in ids)  # noqa: E731
    return SimpleNamespace(tokenizer=SimpleNamespace(decode=decode))


def test_prompts_and_answers_are_looked_at_and_prompts_are_taken_once() -> None:
    generator, denied = words(f"{LONG} fine"), Denied([LONG])
    answers = {"a": [14], "b": list(range(14)), LONG: [14], "c": [0]}
    found = [*(Exchange(*one) for one in answers.items()), Exchange("a", [14, 14])]
    assert [one.prompt for one in chosen(found, denied, generator)] == ["a", "c"]  # type: ignore[arg-type]


@pytest.mark.xdist_group("real model")
def test_the_store_that_ships_is_for_the_model_that_ships() -> None:
    loaded = SpeculativeGenerator.from_pretrained(drafter="none").loaded
    store = read(STOCK, Vocabulary.of_tokenizer(loaded.model.vocab_size, loaded.tokenizer))
    assert store.num_tokens > 200_000
    assert Path(STOCK).stat().st_size < 8 << 20
    endings = [text[-1] in loaded.eos for text in store.texts()]
    assert sum(endings) > len(endings) / 4
    assert {"tokenizer", "texts", "made by"} <= store.note.keys()
