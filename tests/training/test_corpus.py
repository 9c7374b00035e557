"""Chunks are made once, whatever ends the process; nothing denied and nothing twice is in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specdec.errors import ConfigError
from specdec.training import corpus as corpora
from specdec.training.corpus import Answers, Corpus, Exchange, read_chunk, write_chunk
from specdec.training.denied import Denied
from specdec.training.prompts import Mix, Prompter, Template, is_worth
from specdec.training.records import read_record, write_record
from specdec.training.writers import Way
from tests.training.chats import END, tokenizer

MIX = Mix(tasks=0.5, passages=0, second_turns=0.25, turn_tokens=40)
SIZE = Answers(tokens=600, chunk=16, max_tokens=12, prompt_tokens=200)


class Parrot:
    """A writer whose words follow from the prompt and the seed; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, prompts: Sequence[Sequence[int]], ways: Sequence[Way]) -> list[list[int]]:
        self.calls += 1
        said = [f"Tell me of thing {sum(prompt) * 31 % 97} and {way.seed % 89} now" for prompt, way in
                zip(prompts, ways, strict=True)]  # fmt: skip
        return [[*tokenizer()(text)["input_ids"][: way.max_tokens - 1], END]
                for text, way in zip(said, ways, strict=True)]  # fmt: skip


def corpus(folder: Path, writer: Parrot, denied: Denied | None = None, **options: Any) -> Corpus:
    prompter = Prompter(Template(tokenizer()), writer, MIX, denied or Denied(), frozenset([END]), 5)
    return Corpus(folder, prompter, writer, SIZE, {"seed": 5} | options)


def test_a_corpus_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = list(corpus(tmp_path / "whole", Parrot()).chunks())
    first = corpus(tmp_path / "cut", Parrot()).chunks()
    next(first), next(first)  # and the process ends
    (tmp_path / "cut" / ".half.part").write_bytes(b"written when it ended")
    writer = Parrot()
    assert list(corpus(tmp_path / "cut", writer).chunks()) == whole
    assert writer.calls == 2 * (len(whole) - 2)
    assert len(whole) > 2
    assert sum(len(one.answer) for chunk in whole for one in chunk) >= SIZE.tokens
    assert list(corpus(tmp_path / "cut", Parrot()).chunks(until=0)) == whole  # all is there: nothing is made


def test_when_time_is_over_no_chunk_is_made(tmp_path: Path) -> None:
    assert list(corpus(tmp_path, Parrot()).chunks(until=0)) == []


def test_a_chunk_that_would_end_too_late_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(0, 10)  # a chunk takes 10 seconds, and as many go by between two of them
    monkeypatch.setattr(corpora, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    made = corpus(tmp_path, Parrot())
    assert made.rate is None
    chunks = list(made.chunks(until=45))
    assert len(chunks) == 2  # begun at 0 and 20; at 40 it would end at 50
    assert made.rate == sum(len(one.answer) for chunk in chunks for one in chunk) / 20
    read = corpus(tmp_path, Parrot())
    assert list(read.chunks(until=0)) == chunks
    assert read.rate is None


def test_no_prompt_comes_twice_and_conversations_go_on(tmp_path: Path) -> None:
    chunks = list(corpus(tmp_path, Parrot()).chunks())
    asked = [one.turns[:-1] for chunk in chunks for one in chunk]
    assert len(set(asked)) == len(asked)
    second = [turns for turns in asked if len(turns) == 3]
    earlier = {one.turns for chunk in chunks for one in chunk}
    assert second
    assert all(turns[:2] in earlier for turns in second if len(turns) == 3)


def test_token_ids_are_the_templates_with_the_answer_behind_them(tmp_path: Path) -> None:
    one = next(exchange for chunk in corpus(tmp_path, Parrot()).chunks() for exchange in chunk)
    assert tokenizer().decode(one.prompt) == f"<|user|>{one.turns[0]}<|end|><|bot|>"
    assert tokenizer().decode(one.answer, skip_special_tokens=True) == one.turns[-1]


def test_nothing_denied_is_asked_or_answered(tmp_path: Path) -> None:
    every = [one for chunk in corpus(tmp_path / "all", Parrot()).chunks() for one in chunk]
    long = next(one.turns[0] for one in every if len(one.turns[0].split()) > 13)
    found = [one for chunk in corpus(tmp_path / "less", Parrot(), Denied([long])).chunks() for one in chunk]
    assert any(long in one.turns for one in every)
    assert not any(long in one.turns for one in found)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    list(corpus(tmp_path, Parrot()).chunks(until=0))
    with pytest.raises(ConfigError, match="another dtype"):
        corpus(tmp_path, Parrot(), dtype="float32")


def test_a_chunk_comes_back_as_it_was_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    exchanges = [
        Exchange(("Grüße?", "ja"), [1, 2], [3], True, "task"),
        Exchange(("a", "b", "c", ""), [4], [5, 6], False),
    ]
    path = tmp_path / "a.safetensors"
    write_chunk(path, exchanges)
    assert read_chunk(path) == exchanges
    write_chunk(path, [])
    assert read_chunk(path) == []
    path.write_bytes(path.read_bytes()[:-9] + json.dumps("x").encode())
    with pytest.raises(ConfigError, match="is damaged"):
        read_chunk(path)


def test_a_file_tells_where_prompts_come_from_and_an_old_one_does_not(tmp_path: Path) -> None:
    chunks = list(corpus(tmp_path, Parrot()).chunks())
    sources = Counter(one.source for chunk in chunks for one in chunk)
    assert sources["second turn"] == sum(len(one.turns) > 2 for chunk in chunks for one in chunk) > 0
    assert set(sources) == {"task", "self-prompted", "second turn"}
    path = tmp_path / "00000.safetensors"
    tensors, words = read_record(path)
    write_record(path, tensors, {"turns": words["turns"]})  # as it was written before there were sources
    assert read_chunk(path) == [replace(one, source="unknown") for one in chunks[0]]


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("Can you tell me of the sea?", True),
        ("Hello there", False),
        ("word word word word word word word word", False),
        ("Как дела у тебя сегодня вечером?", False),
        ("x" * 900, False),
    ],
)
def test_what_a_user_could_have_said(said: str, worth: bool) -> None:
    assert is_worth(said) == worth


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 1"):
        replace(MIX, tasks=0.9)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        Template(object())


@pytest.mark.xdist_group("real model")
def test_prompts_are_encoded_as_when_they_are_served(embedded: Any) -> None:
    from specdec import SpeculativeGenerator

    generator, template = SpeculativeGenerator(embedded, "none"), Template(embedded.tokenizer)
    turns = ("What is  the sea?\n", "Water.", "Und das Blau?")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": words} for role, words in zip(roles, turns, strict=True)]
    assert template.encode([template.asked(turns)]) == [generator.encode(messages)]
    assert template.begun().endswith("<|im_start|>user\n")
