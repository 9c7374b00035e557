"""Texts as token ids in one file, with an index of them: what is in it, writing it, and reading it by memory map.

A file is a header, a note in JSON, the tokens, and the suffix order if it has one; each part begins at a multiple of 8
bytes, numbers are little-endian. It is data alone, nothing in it is ever run, and it is checked as a whole when it is
read: what passes can be used without a further look.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from specdec.checks import Unfit, mapping, text
from specdec.errors import ConfigError
from specdec.places import is_file, missing, replacing, writing
from specdec.stores.order import suffix_order
from specdec.stores.vocabulary import Vocabulary

Tokens: TypeAlias = npt.NDArray[Any]
"""uint16, or uint32 for a vocabulary of 2¹⁶ - 1 ids or more."""
MAGIC, VERSION = b"\x8fSPDEC\r\n", 1
HEADER = struct.Struct("<8sIIQQQQ32s32s8x")
"""Magic, version, bytes a token, vocabulary's size, tokens with ends, entries of the order, bytes of the note, the
vocabulary's fingerprint, and a SHA-256 of all the rest."""
DIGEST = slice(HEADER.size - 40, HEADER.size - 8)
MOST_TOKENS = 2**32 - 1
"""Positions are 32 bits wide."""
LONGEST_NOTE = 1 << 16
PIECE = 1 << 22
"""Numbers that are looked at together."""
NOTE = mapping(text(), text(empty=True), "texts by name")
REMEDY = "Give a file that `specdec store build` has made, or make it anew."


class StoreError(ConfigError):
    """A file that is no store, or not one for this vocabulary."""


@dataclass(frozen=True, eq=False)
class Store:
    """Texts that follow each other in one array.

    Args:
        vocabulary: whose ids these are.
        tokens: unsigned [n]; behind every text stands its end, the number `vocabulary.size`, which is no token.
        order: uint32 [n], the positions sorted by what follows them (`suffix_order`), or None.
        note: what a person may want to know: where the texts come from, the tokenizer's name.
    """

    vocabulary: Vocabulary
    tokens: Tokens
    order: npt.NDArray[np.uint32] | None = None
    note: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        texts: Iterable[Sequence[int] | npt.NDArray[Any]],
        vocabulary: Vocabulary,
        ordered: bool = False,
        note: Mapping[str, str] | None = None,
    ) -> Store:
        """A store of some texts.

        Args:
            texts: token ids of each; those that are empty are left out.
            vocabulary: whose ids they are.
            ordered: whether the suffix order is worked out too, for a store that is searched as it lies in the file.
            note: see the class.

        Raises:
            StoreError: if an id is not of the vocabulary, or there are more tokens than positions.
        """
        pieces = [_with_end(one, vocabulary.size) for one in texts if len(one)]
        tokens = np.concatenate(pieces) if pieces else np.empty(0, _type(vocabulary.size))
        if len(tokens) > MOST_TOKENS:
            raise StoreError(f"{len(tokens)} tokens are more than a store holds. Give at most {MOST_TOKENS}.")
        order = suffix_order(tokens) if ordered else None
        return cls(vocabulary, tokens, order, dict(note or {}))

    @property
    def num_texts(self) -> int:
        """Texts in it."""
        return int(np.count_nonzero(self.tokens == self.vocabulary.size))

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, without their ends."""
        return len(self.tokens) - self.num_texts

    def texts(self) -> Iterator[list[int]]:
        """The token ids of one text after the other."""
        first = 0
        for end in np.flatnonzero(self.tokens == self.vocabulary.size).tolist():
            yield self.tokens[first:end].tolist()
            first = end + 1


def write(path: Path, store: Store) -> None:
    """Writes a store: after a kill or an error the file is the old one or the new one.

    Raises:
        StoreError: if the note is longer than `LONGEST_NOTE` bytes, or not made of texts.
        UnwritableError: if it cannot be written.
    """
    try:
        note = json.dumps(NOTE.read(store.note)).encode()
    except Unfit:
        raise StoreError(f"The note of a store is made of texts by name, and not {store.note!r}.") from None
    if len(note) > LONGEST_NOTE:
        raise StoreError(f"The note of a store has {len(note)} bytes. Give at most {LONGEST_NOTE}.")
    order = np.empty(0, np.uint32) if store.order is None else store.order
    about = store.vocabulary
    width, blank = store.tokens.itemsize, bytes(32)
    sizes = (about.size, len(store.tokens), len(order), len(note))
    parts = [note, store.tokens.astype(f"<u{width}").tobytes(), order.astype("<u4").tobytes()]
    body = [part + bytes(-len(part) % 8) for part in parts]
    header = bytearray(HEADER.pack(MAGIC, VERSION, width, *sizes, about.fingerprint, blank))
    header[DIGEST] = _digest(bytes(header), *body)
    with writing(path), replacing(path) as part, part.open("wb") as file:
        file.writelines((header, *body))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, vocabulary: Vocabulary | None = None) -> Store:
    """A store from its file, which is mapped and not copied: it must not be changed in place while it is in use.

    Args:
        path: the file.
        vocabulary: the target's; None takes a store for any.

    Raises:
        StoreError: if there is no such file, or it is cut short, damaged, of another version or for another tokenizer;
            says which.
    """
    if not is_file(path):
        raise StoreError(f"There is no store at {path}. {missing(path)} {REMEDY}")
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise StoreError(f"The store {path} cannot be read: {error}. Change its permissions, or copy it.") from error
    try:
        store = _parsed(data)
    except StoreError as error:
        raise StoreError(f"The store {path} cannot be used: {error} {REMEDY}") from None
    return store if vocabulary is None else fitting(store, vocabulary, f"The store {path}")


def fitting(store: Store, vocabulary: Vocabulary, name: str = "The store") -> Store:
    """The store, if the target's tokens have the same ids and the target knows every id in it: models pad the
    vocabulary of one tokenizer to different sizes.

    Raises:
        StoreError: if not; calls it `name`.
    """
    if store.vocabulary.fingerprint != vocabulary.fingerprint:
        made_for = store.note.get("tokenizer", "another tokenizer")
        raise StoreError(
            f"{name} was made for {made_for!r}, whose tokens have other ids than the target's. Make one for this "
            "target with `specdec store build`."
        )
    largest = max((_largest_token(piece, store.vocabulary.size) for piece in _pieces(store.tokens)), default=0)
    if largest >= vocabulary.size:
        raise StoreError(f"{name} holds the token {largest}, and the target has {vocabulary.size}. {REMEDY}")
    return store


def _with_end(tokens: Sequence[int] | npt.NDArray[Any], size: int) -> Tokens:
    """A text as it lies in a store."""
    wide = np.append(np.asarray(tokens, np.int64), size)
    if wide.min() < 0 or wide[:-1].max() >= size:
        wrong = next(token for token in wide.tolist() if not 0 <= token < size)
        raise StoreError(f"Token {wrong} is outside of the vocabulary of {size}. Encode the texts anew.")
    return wide.astype(_type(size))


def _parsed(data: npt.NDArray[np.uint8]) -> Store:
    """The content of a file.

    Raises:
        StoreError: if it is not exactly what `write` writes.
    """
    if len(data) < HEADER.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise StoreError("it does not begin as a store does.")
    header = bytearray(data[: HEADER.size].tobytes())
    _, version, width, size, length, ordered, noted, fingerprint, digest = HEADER.unpack(header)
    if version != VERSION:
        raise StoreError(f"it has version {version} of the format, and this specdec reads version {VERSION}.")
    if width != np.dtype(_type(size)).itemsize or ordered not in (0, length) or noted > LONGEST_NOTE:
        raise StoreError("the sizes in its header do not fit together.")
    borders = np.cumsum([HEADER.size, *(-(-part // 8) * 8 for part in (noted, width * length, 4 * ordered))]).tolist()
    if length > MOST_TOKENS or borders[-1] != len(data):
        raise StoreError(
            f"it has {len(data)} bytes, and its header tells of {borders[-1]}: it was cut short or changed."
        )
    header[DIGEST] = bytes(32)
    if _digest(bytes(header), data[HEADER.size :].data) != digest:
        raise StoreError("its bytes are not those that were written: it is damaged.")
    tokens = data[borders[1] : borders[1] + width * length].view(f"<u{width}")
    order = data[borders[2] : borders[2] + 4 * ordered].view("<u4") if ordered else None
    store = Store(Vocabulary(size, fingerprint), tokens, order, _note(bytes(data[borders[0] : borders[0] + noted])))
    _check_numbers(store)
    return store


def _check_numbers(store: Store) -> None:
    """Raises StoreError for ids and positions that lie outside of what they point into."""
    size, length = store.vocabulary.size, len(store.tokens)
    if length and store.tokens[-1] != size:
        raise StoreError("its last text has no end.")
    for piece in _pieces(store.tokens):
        if piece.max() > size:
            raise StoreError(f"it holds the token {piece.max()} in a vocabulary of {size}.")
    for piece in _pieces(store.order if store.order is not None else np.empty(0, np.uint32)):
        if piece.max() >= length:
            raise StoreError(f"its order names the position {piece.max()} of {length}.")


def _note(data: bytes) -> dict[str, str]:
    try:
        note: dict[str, str] = NOTE.read(json.loads(data))
    except (Unfit, ValueError, RecursionError):
        raise StoreError("its note cannot be read.") from None
    return note


def _type(size: int) -> str:
    """Of the tokens of a vocabulary, whose size must fit in too."""
    return "<u2" if size < 2**16 else "<u4"


def _pieces(numbers: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (numbers[first : first + PIECE] for first in range(0, len(numbers), PIECE))


def _largest_token(piece: npt.NDArray[Any], end: int) -> int:
    tokens = piece[piece != end]
    return int(tokens.max()) if len(tokens) else 0


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
