"""What a token is called in an answer: its text, and its bytes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "▁"


def byte_alphabet() -> dict[str, int]:
    """Character → byte, as byte-level BPE writes bytes (Radford et al. 2019): printable ones of Latin-1 stand for
    themselves, and the others, in order, for the characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Vocabulary:
    """Texts and bytes of a tokenizer's tokens. Safe in any thread.

    Args:
        tokenizer: transformers' own.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token: one.content for token, one in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._alphabet = byte_alphabet() if "ByteLevel" in str(decoder) else None
        self.bytes = lru_cache(maxsize=65536)(self._bytes)

    def text(self, token: int) -> str:
        """Its bytes as text; what is no whole character is the replacement character."""
        return self.bytes(token).decode("utf-8", errors="replace")

    def name(self, token: int) -> str:
        """Its text if it is whole; else its bytes, as OpenAI's completions write them: `bytes:\\xf0\\x9f`."""
        raw = self.bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def decode(self, tokens: list[int]) -> str:
        """Text of some tokens, special ones included."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _bytes(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the model's head is longer than the vocabulary
            return b""
        if self._alphabet is not None and all(letter in self._alphabet for letter in piece):
            return bytes(self._alphabet[letter] for letter in piece)
        if found := _BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return str(piece).replace(SPACE, " ").encode()
