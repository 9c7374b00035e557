"""For whose token ids a store was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Vocabulary:
    """Which token has which id.

    Args:
        size: number of ids, those of no token included; every id is below it.
        fingerprint: 32 bytes, the same for two vocabularies if every token has the same id in both.
    """

    size: int
    fingerprint: bytes

    @classmethod
    def of(cls, size: int, tokens: Mapping[str, int] | None) -> Vocabulary:
        """A vocabulary by its tokens.

        Args:
            size: number of ids.
            tokens: token → id; None where a model runs on ids alone, and its size is all that is known.
        """
        digest = hashlib.sha256()
        if tokens is None:
            digest.update(b"%d ids" % size)
        for token, number in sorted((tokens or {}).items(), key=lambda entry: (entry[1], entry[0])):
            word = token.encode(errors="surrogatepass")
            digest.update(b"%d %d " % (number, len(word)) + word)
        return cls(size, digest.digest())

    @classmethod
    def of_tokenizer(cls, size: int, tokenizer: Any) -> Vocabulary:
        """That of a tokenizer with `get_vocab`, as transformers' have; of ids alone if it is None or lacks that."""
        tokens = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None
        return cls.of(size, tokens)
