"""What tokens spell: how two tokenizers are compared, and how a text goes from one's tokens to the other's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

from specdec.errors import ConfigError
from specdec.foreign import foreign

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies of SentencePiece name a single byte."""
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What a decoder shows for bytes that are no character by themselves."""


class Spelling:
    """A tokenizer's tokens by what they spell, whatever its marks for spaces, bytes and parts of words are.

    A token spells the bytes by which a text grows when it follows an ordinary token: byte-level `Ġthe`, SentencePiece's
    `▁the` and WordPiece's `the` all spell " the".

    Args:
        tokenizer: a tokenizer of transformers, or an object with its `get_vocab`, `encode` and `decode`.

    Raises:
        ConfigError: if it cannot be asked.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.pieces: dict[int, bytes] = {}
        """Token → what it spells. Special tokens spell nothing, and are not here."""
        self.stand_ins: set[int] = set()
        """Tokens for a byte that no other token can spell."""
        with foreign(ConfigError, "Cannot learn what the tokens of a tokenizer spell", "Use one of transformers."):
            self.specials = _special_tokens(tokenizer)
            self.eos: int | None = getattr(tokenizer, "eos_token_id", None)
            self._read_pieces()
            self.opening = tuple(takewhile(self._is_special, tokenizer.encode("a")))
            """Special tokens that the tokenizer puts before a text."""
            self.leads = self.spell(self._encode("a")) == b" a"
            """Whether it begins a text with a space of its own, which is not shown."""

    def spell(self, tokens: Iterable[int]) -> bytes:
        """The bytes of a text; special and unknown tokens have none."""
        return b"".join(self.pieces.get(token, b"") for token in tokens)

    def encode(self, text: str, opens: bool = False) -> list[int]:
        """Tokens of a text, without special ones around it.

        Args:
            text: where it goes on from another one, the space that the tokenizer puts first is left out if possible.
            opens: whether it goes on from none.
        """
        tokens = self._encode(text)
        if opens or self.spell(tokens) != b" " + text.encode():
            return tokens
        if text.startswith(" "):
            return self._encode(text[1:])
        return tokens[1:] if self.pieces.get(tokens[0]) == b" " else tokens

    def by_spelling(self, size: int) -> dict[bytes, int]:
        """What is spelt → the token that stands for it: of several the least, a stand-in for a byte last.

        Args:
            size: rows of the model's head. Tokens beyond them cannot be said.
        """
        found: dict[bytes, int] = {}
        for token in sorted(self.pieces, key=lambda token: (token in self.stand_ins, token)):
            if token < size and self.pieces[token]:
                found.setdefault(self.pieces[token], token)
        return found

    def _is_special(self, token: int) -> bool:
        return token in self.specials.values()

    def _read_pieces(self) -> None:
        anchor = self._encode("a")[-1]
        before, special = self._decode([anchor]), set(self.specials.values())
        for piece, token in self._tokenizer.get_vocab().items():
            after = self._decode([anchor, token])
            if token in special or not after.startswith(before):
                continue
            self.pieces[token] = _bytes(piece, after[len(before) :])
            if BYTE_PIECE.fullmatch(piece):
                self.stand_ins.add(token)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def shared(target: Spelling, draft: Spelling, sizes: tuple[int, int]) -> dict[int, int]:
    """The tokens that two tokenizers have in common: the target's id → the draft's. No id is there twice.

    Ordinary tokens are the same if they spell the same (see `by_spelling`), special ones if they have the same name or
    if both end a text.

    Args:
        target, draft: their spellings.
        sizes: rows of the two models' heads. Tokens beyond them cannot be said.
    """
    ours, theirs = target.by_spelling(sizes[0]), draft.by_spelling(sizes[1])
    pairs = {ours[spelt]: theirs[spelt] for spelt in ours if spelt in theirs}
    same = [(token, draft.specials[name]) for name, token in target.specials.items() if name in draft.specials]
    if target.eos is not None and draft.eos is not None:
        same.append((target.eos, draft.eos))
    taken = set(pairs.values())
    for token, other in same:
        if token < sizes[0] and other < sizes[1] and token not in pairs and other not in taken:
            pairs[token] = other
            taken.add(other)
    return pairs


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Name → id of the tokens that are no text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {one.content: token for token, one in sorted(added.items()) if one.special}


def _bytes(piece: str, shown: str) -> bytes:
    """What a token spells. Bytes that are no character by themselves have to be read from its name.

    Args:
        piece: the token's name.
        shown: how a text grows by it.
    """
    if NO_CHARACTER not in shown:
        return shown.encode()
    if byte := BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    table = _byte_characters()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else shown.encode()


@cache
def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes (Radford et al. 2019, GPT-2): bytes that can be seen
    stand for themselves, the others for the characters from 256 on, in order."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
