"""A text that the target has committed, told in the tokens of a draft model with another tokenizer."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specdec.models.spelling import Spelling

CHUNK = 64
"""Tokens after which a part of the text is told for good, at the next beginning of a word."""
LONGEST_CHUNK = 4 * CHUNK
"""Tokens after which it is told for good wherever a character ends."""
_Utf8 = getincrementaldecoder("utf-8")


@dataclass
class _Told:
    """What is told for good: the first tokens of the target's text, and the draft's tokens for them."""

    read: int = 0
    tokens: list[int] = field(default_factory=list)


class Retelling:
    """Tells texts in the draft's tokens. What comes out is a function of the committed tokens alone.

    A draft model reads best what its own tokenizer makes of a text, so texts are encoded anew, and not translated token
    by token. To encode all of a text in every step would take longer the longer it is. It is therefore encoded in
    chunks, whose ends are decided by the tokens up to them: only the last chunk is encoded again when the text grows.
    A tokenizer that splits texts at spaces makes of the chunks what it makes of the whole.

    Special tokens of the target become those that the draft has in their place, or are left out.

    Args:
        target, draft: the two spellings.
        pairs: tokens that both have, the target's id → the draft's (see `shared`).
    """

    def __init__(self, target: Spelling, draft: Spelling, pairs: Mapping[int, int]) -> None:
        self._target, self._draft, self._pairs = target, draft, pairs
        self._told: dict[int, _Told] = {}

    def tell(self, request_id: int, tokens: Sequence[int]) -> list[int]:
        """The text in the draft's tokens; none if it ends inside a character, or has nothing that the draft can read.

        Args:
            request_id: whose text it is.
            tokens: its committed tokens. Until the request is forgotten they only grow.
        """
        told = self._told.setdefault(request_id, _Told())
        while (end := self._end(tokens, told.read)) is not None:
            told.tokens += self._encode(tokens, told.read, end)
            told.read = end
        if cut_short(self._target.spell(tokens[told.read :])):
            return []
        text = [*told.tokens, *self._encode(tokens, told.read, len(tokens))]
        opening = list(self._draft.opening)
        return text if not text or text[: len(opening)] == opening else opening + text

    def forget(self, request_id: int) -> None:
        """Lets go of a request's text. Unknown ids are ignored."""
        self._told.pop(request_id, None)

    def _end(self, tokens: Sequence[int], start: int) -> int | None:
        """The place of the token that begins the next chunk, if it is there already. A special token is a chunk."""
        utf8, before = _Utf8(errors="replace"), b""
        for place in range(start, len(tokens)):
            piece, length = self._target.pieces.get(tokens[place]), place - start
            if piece is None:
                return max(place, start + 1)
            inside_character = bool(utf8.getstate()[0])
            if length >= CHUNK and not inside_character and (length >= LONGEST_CHUNK or _new_word(before, piece)):
                return place
            utf8.decode(piece)
            before = piece
        return None

    def _encode(self, tokens: Sequence[int], start: int, end: int) -> list[int]:
        """A chunk in the draft's tokens."""
        if start < end and tokens[start] not in self._target.pieces:
            known = self._pairs.get(tokens[start])
            return [] if known is None else [known]
        text = self._target.spell(tokens[start:end]).decode(errors="replace")
        if start == 0 and self._target.leads:
            text = text.removeprefix(" ")
        return self._draft.encode(text, opens=start == 0) if text else []


def cut_short(text: bytes) -> int:
    """Bytes at the end of a text that are the beginning of a character, and not all of it."""
    utf8 = _Utf8(errors="replace")
    utf8.decode(text)
    return len(utf8.getstate()[0])


def _new_word(before: bytes, piece: bytes) -> bool:
    """Whether a word begins with this piece: tokenizers split texts before its space, if there is only one."""
    return piece[:1] == b" " and not piece[1:2].isspace() and not before[-1:].isspace()
