"""Stores come back as they were written, or are refused with what to do: whatever happened to the file between."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.stores import Store, StoreError, Vocabulary, read, write
from specdec.stores.file import HEADER

SMALL = Vocabulary.of(10, {"a": 0, "b": 1})
TEXTS = [[1, 2, 3], [9], [1, 2, 9, 0, 1, 2]]
DIGEST_AT = 80
"""Where the header holds the digest: magic 8, two numbers of 4 bytes, four of 8, a fingerprint of 32."""


def store_file(folder: Path, texts: list[list[int]] | None = None, vocabulary: Vocabulary = SMALL) -> Path:
    path = folder / "a.store"
    write(path, Store.of(TEXTS if texts is None else texts, vocabulary, True, {"tokenizer": "tiny", "from": "a test"}))
    return path


def resealed(data: bytes) -> bytes:
    """The bytes with a digest that fits them: what someone writes who knows the format and means no good."""
    blank = data[:DIGEST_AT] + bytes(32) + data[DIGEST_AT + 32 :]
    return data[:DIGEST_AT] + hashlib.sha256(blank).digest() + data[DIGEST_AT + 32 :]


@settings(max_examples=50)
@given(
    texts=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=6),
    size=st.sampled_from([10, 2**16 - 1, 2**16, 200_000]),
    ordered=st.booleans(),
)
def test_texts_come_back_as_they_were_written(
    texts: list[list[int]], size: int, ordered: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, vocabulary = tmp_path_factory.mktemp("store") / "a.store", Vocabulary.of(size, None)
    texts = [[token * (size // 10) for token in one] for one in texts]
    write(path, Store.of(texts, vocabulary, ordered, {"who": "me"}))
    found = read(path, vocabulary)
    assert list(found.texts()) == [one for one in texts if one]
    assert (found.num_texts, found.num_tokens) == (sum(map(bool, texts)), sum(map(len, texts)))
    assert found.vocabulary == vocabulary
    assert found.note == {"who": "me"}
    assert (found.order is not None) == (ordered and any(texts))
    assert found.tokens.itemsize == (2 if size < 2**16 else 4)


def test_a_file_is_small_and_is_mapped(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    assert path.stat().st_size <= 128 + 8 * 8 + (2 + 4) * 13 + 16
    assert isinstance(read(path).tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        read(path).tokens[0] = 1


def test_writing_again_replaces_the_file_and_leaves_readers_what_they_have(tmp_path: Path) -> None:
    before = read(store_file(tmp_path))
    store_file(tmp_path, [[5, 5]])
    assert list(before.texts()) == TEXTS
    assert list(read(tmp_path / "a.store").texts()) == [[5, 5]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.store"]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="Give a file that `specdec store build` has made"):
            read(path, SMALL)


def test_every_length_that_is_not_the_files_is_noticed(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="cannot be used"):
            read(path, SMALL)
    path.write_bytes(whole + bytes(8))
    with pytest.raises(StoreError, match=r"has \d+ bytes, and its header tells of \d+: it was cut short or changed"):
        read(path, SMALL)


def test_bytes_of_ill_will_are_refused_or_hold_what_they_say(tmp_path: Path) -> None:
    """Numbers are changed and the digest is made to fit: only a refusal or a sound store comes of it."""
    path, draw, sound = store_file(tmp_path), random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.choice([draw.randrange(8, HEADER.size), draw.randrange(len(data))])
            extreme = struct.pack("<Q", draw.choice([0, 1, 2**32, 2**63, 2**64 - 1]))
            new = draw.choice([bytes([draw.randrange(256)]), extreme])
            data[at : at + len(new)] = new
        path.write_bytes(resealed(bytes(data)))
        try:
            store = read(path, draw.choice([SMALL, None]))
        except StoreError:
            continue
        sound += 1
        assert all(token < store.vocabulary.size for one in store.texts() for token in one)
        assert store.order is None or (store.order < len(store.tokens)).all()
        assert all(isinstance(word, str) for pair in store.note.items() for word in pair)
    assert 0 < sound < 600


def test_a_forged_number_is_named(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    whole = path.read_bytes()
    order_at, tokens_at = len(whole) - 56, len(whole) - 56 - 32
    assert len(read(path).tokens) == 13
    for at, value, message in (
        (tokens_at, 11, "holds the token 11 in a vocabulary of 10"),
        (tokens_at + 24, 3, "last text has no end"),
        (order_at, 13, "names the position 13 of 13"),
    ):
        path.write_bytes(resealed(whole[:at] + struct.pack("<H", value) + whole[at + 2 :]))
        with pytest.raises(StoreError, match=message):
            read(path)


def test_a_store_is_for_the_tokenizer_that_it_was_made_with(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    for tokens in ({"a": 1, "b": 0}, {"a": 0}, {"a": 0, "b": 1, "c": 2}, None):
        with pytest.raises(StoreError, match=r"made for 'tiny', whose tokens have other ids .*`specdec store build`"):
            read(path, Vocabulary.of(10, tokens))
    padded = Vocabulary.of(64, {"b": 1, "a": 0})
    assert list(read(path, padded).texts()) == TEXTS
    with pytest.raises(StoreError, match="holds the token 9, and the target has 9"):
        read(path, Vocabulary.of(9, {"a": 0, "b": 1}))


def test_a_vocabulary_is_known_by_its_tokens() -> None:
    assert Vocabulary.of(3, {"a": 0, "b": 1}) == Vocabulary.of(3, {"b": 1, "a": 0})
    assert Vocabulary.of(3, {"a 1": 0}).fingerprint != Vocabulary.of(3, {"a": 0, "1": 0}).fingerprint
    assert Vocabulary.of(3, None).fingerprint != Vocabulary.of(4, None).fingerprint
    Vocabulary.of(1, {"\ud800": 0})


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("{}" * 100)
    for name, message in (("empty", "not begin as"), ("text", "not begin as"), ("none", "no store"), (".", "a folder")):
        with pytest.raises(StoreError, match=message):
            read(tmp_path / name)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = store_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack("<I", 2) + data[12:])
    with pytest.raises(StoreError, match="version 2 of the format, and this specdec reads version 1"):
        read(path)


def test_ids_outside_of_the_vocabulary_are_not_written() -> None:
    for token in (-1, 10, 11, 2**40):
        with pytest.raises(StoreError, match=f"Token {token} is outside of the vocabulary of 10"):
            Store.of([[1], [2, token, 3]], SMALL)


def test_a_note_is_short_and_made_of_texts(tmp_path: Path) -> None:
    for note in ({"a": "x" * 2**16}, {"a": 1}, {1: "a"}, {"a": "\ud800"}):
        with pytest.raises(StoreError, match="note of a store"):
            write(tmp_path / "x", Store.of([[1]], SMALL, note=note))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
