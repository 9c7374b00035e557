"""What the tokens of a model spell, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdec.errors import InvalidRequestError

PROBE = '{"a b": [1, "c"]}'
"""Whose tokens have to spell it."""
END = 256
"""Stands behind the bytes."""
KEPT = 8192
"""Texts whose tokens stay known."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What the tokens of a model say.

    Args:
        pieces: bytes of each of the V tokens; those without text, such as the unused ones at the end, have none.
        ends: ids of the tokens that end a text.
        special: ids of tokens that are no text.
        tokenizer: makes tokens of texts.
    """

    pieces: Sequence[bytes]
    ends: frozenset[int]
    special: frozenset[int]
    tokenizer: Any

    @classmethod
    def of(cls, tokenizer: Any, size: int, ends: Collection[int]) -> Vocabulary:
        """A tokenizer's, for a model of `size` tokens.

        Raises:
            InvalidRequestError: if its tokens change the text.
        """
        import xgrammar

        pieces = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size).decoded_vocab
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token for token, one in added.items() if one.special} | set(tokenizer.all_special_ids)
        made = cls(pieces, frozenset(ends), frozenset(token for token in special if token < size), tokenizer)
        tokens = tokenizer.encode(PROBE, add_special_tokens=False)
        spelt, text = made.said(tokens), tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        if spelt.strip() != text.strip().encode():
            raise InvalidRequestError(
                f"Grammars need a tokenizer whose tokens spell the text; this one writes {text!r}, whose tokens say "
                f"{spelt!r}. Leave grammar out."
            )
        return made

    def prepare(self) -> None:
        """Works out all that is looked up later: no step of an engine shall wait for it."""
        for name in (
            "usable",
            "usual",
            "everything",
            "nothing",
            "_text",
            "_tokens",
            "_first",
            "_single",
            "_longest",
            "for_matchers",
        ):
            getattr(self, name)

    @property
    def size(self) -> int:
        """V."""
        return len(self.pieces)

    @cached_property
    def usable(self) -> NDArray[np.uint8]:
        """[⌈V / 8⌉], bit t % 8 of byte t // 8: tokens that are text, or end one. Special tokens have names, which a
        grammar might allow as text. Without bytes there would be no progress."""
        usable = [
            token in self.ends or (bool(piece) and token not in self.special) for token, piece in enumerate(self.pieces)
        ]
        return np.packbits(usable, bitorder="little")

    def is_text(self, token: int) -> bool:
        """Whether a token is among the usable ones, and does not end the text."""
        return token in self._text

    @cached_property
    def _text(self) -> frozenset[int]:
        usable = np.unpackbits(self.usable, count=self.size, bitorder="little")
        return frozenset(np.flatnonzero(usable).tolist()) - self.ends

    @cached_property
    def usual(self) -> list[int]:
        """Tokens that say one letter alone, of the letters that are used most: where all of them may come next, the
        text is free."""
        return [token for letter in b"etaoinsrh" if (token := self.byte(letter)) is not None]

    @cached_property
    def everything(self) -> NDArray[np.bool_]:
        """[V]: a mask that allows every token."""
        return np.ones(self.size, dtype=np.bool_)

    @cached_property
    def nothing(self) -> NDArray[np.bool_]:
        """[V]: a mask that allows no token."""
        return np.zeros(self.size, dtype=np.bool_)

    def said(self, tokens: Sequence[int]) -> bytes:
        """What tokens say."""
        return b"".join(self.pieces[token] for token in tokens)

    def openings(self, allowed: NDArray[np.bool_], most: int) -> list[int]:
        """The bytes that allowed tokens begin with, ascending; `END` stands for the end of the text. None if there are
        more than `most`: each byte that a token says alone counts, so that a look at few tokens settles most cases.

        Args:
            allowed: [V], the mask of a grammar. Where it allows a token, it allows the token's first byte alone.
            most: openings that are of interest.
        """
        if np.count_nonzero(allowed[self._single]) > most:
            return []
        found: list[int] = np.flatnonzero(np.bincount(self._first[np.flatnonzero(allowed)])).tolist()
        return found if len(found) <= most else []

    def byte(self, value: int) -> int | None:
        """The token that says one byte alone; None if there is none."""
        return next(iter(self._tokens.get(bytes([value]), ())), None)

    def encode_behind(self, before: Sequence[int], text: bytes) -> list[int]:
        """Tokens that say a text as its tokenizer splits it behind others. Where a token would reach across the
        border, the text is taken alone. What is left of a character that the text breaks off is left out."""
        words, said = text.decode("utf-8", errors="ignore"), self.said(before)
        tokens = self.encode(said.decode("utf-8", errors="ignore") + words) if before else []
        sizes = accumulate((len(self.pieces[token]) for token in tokens), initial=0)
        border = next((at for at, size in enumerate(sizes) if size >= len(said)), 0)
        return tokens[border:] if border and self.said(tokens[:border]) == said else self.encode(words)

    def encode(self, text: str) -> list[int]:
        """Tokens that say exactly the text, as its tokenizer splits it. Some put a space before a text: then it is read
        behind something. What no token says ends it. The same few texts, such as keys, are asked for again and again:
        the last `KEPT` stay known."""
        return list(self._encoded(text))

    @cached_property
    def _encoded(self) -> Callable[[str], tuple[int, ...]]:
        return lru_cache(KEPT)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        for before in ("", "\n", ","):
            tokens = self.tokenizer.encode(before + text, add_special_tokens=False)
            for start in range(min(len(tokens), 4)):
                if self.said(tokens[start:]) == text.encode():
                    return tuple(tokens[start:])
        return tuple(self._longest_first(text.encode()))

    def _longest_first(self, text: bytes) -> list[int]:
        tokens: list[int] = []
        while text and (within := self.within(text)):
            tokens.append(within[-1])
            text = text[len(self.pieces[within[-1]]) :]
        return tokens

    def within(self, text: bytes) -> list[int]:
        """Tokens that a text begins with, the shortest first."""
        sizes = range(1, min(len(text), self._longest) + 1)
        return [token for size in sizes for token in self._tokens.get(text[:size], ())]

    @cached_property
    def _tokens(self) -> dict[bytes, list[int]]:
        tokens: dict[bytes, list[int]] = {}
        for token, piece in enumerate(self.pieces):
            tokens.setdefault(piece, []).append(token)
        return tokens

    @cached_property
    def _first(self) -> NDArray[np.int16]:
        """[V]: the byte that each token begins with, or `END`."""
        firsts = (END if token in self.ends or not piece else piece[0] for token, piece in enumerate(self.pieces))
        return np.fromiter(firsts, dtype=np.int16, count=self.size)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._tokens))

    @cached_property
    def _single(self) -> NDArray[np.int64]:
        """Tokens that say one byte alone."""
        return np.array([token for token, piece in enumerate(self.pieces) if len(piece) == 1], dtype=np.int64)

    @cached_property
    def for_matchers(self) -> Any:
        """As llguidance wants it."""
        import llguidance

        wrapped = llguidance.TokenizerWrapper(_Wrapped(self))
        return llguidance.LLTokenizer(wrapped, n_vocab=self.size, eos_token=sorted(self.ends))


class _Wrapped:
    """The names that llguidance asks for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens, self._vocabulary = list(vocabulary.pieces), vocabulary
        self.eos_token_id, self.bos_token_id = min(vocabulary.ends), None
        self.special_token_ids = sorted(vocabulary.special | vocabulary.ends)

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)
