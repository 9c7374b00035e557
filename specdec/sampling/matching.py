"""Grammars at work: compiled for a vocabulary, they are constraints of requests.

llguidance follows the text; xgrammar tells the bytes of each token. The former counts its own work and stops at a
limit, so that no grammar, however it is written, holds up a step for long.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.errors import ConfigError, InvalidRequestError, SpecdecError
from specdec.foreign import foreign
from specdec.sampling.constraints import Constraint, paths_of
from specdec.sampling.follower import Follower, Origin, count_valid, forced_tokens, may_follow, next_as_spelt
from specdec.sampling.grammar import Grammar
from specdec.sampling.guesses import MOST_CHOICES, guesses
from specdec.sampling.sources import source
from specdec.sampling.spelling import Vocabulary

KEPT = 64
"""Grammars that stay compiled: those that were asked for last."""
MOST_FORCED = 64
"""Tokens of a forced run; a grammar may force one without an end."""
MOST_ROWS = 1024
"""Rows of masks that are kept for the next question, at V bytes each."""
MOST_STATES = 20_000
"""Of one grammar's lexer, at about 2 KB each. llguidance's own limits on its time hold beside it: 1 M units of work to
build a lexer (20 ms), 50,000 items a mask (a few ms, up to 0.2 s where they are the worst)."""
MOST_WORK = 1_000_000
"""Of a lexer from one mask to the next (70 ms), in llguidance's units; five times its own default, since masks are rare
here."""


class GrammarConstraint(Constraint):
    """A text keeps to a grammar. Made by `GrammarCompiler`.

    What it allows is a function of the tokens alone, so no mask is worked out twice: those of drafted tokens stay when
    they are committed.

    Args:
        vocabulary: what tokens say.
        follower: of a matcher that allows every spelling, or one where text is forced.
        canonical: whether forced text is spelt as its tokenizer spells it.
    """

    def __init__(self, vocabulary: Vocabulary, follower: Follower, canonical: bool = False) -> None:
        self.vocabulary, self._follower, self.canonical = vocabulary, follower, canonical
        self._rows: dict[tuple[int, ...], NDArray[np.bool_]] = {}
        """Masks after paths that were asked for, from the committed tokens on; not to be written to."""
        self._free: dict[tuple[int, ...], bool] = {}
        """What `free` found, likewise."""
        self._ended = False

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """See `Constraint.masks`.

        Raises:
            SpecdecError: if the grammar is too complex to go on.
        """
        if len(self._rows) > MOST_ROWS:
            self._rows.clear()
        return torch.from_numpy(np.stack([self._row(path) for path in paths_of(tokens, parents)]))

    def allows(self, path: Sequence[int], token: int) -> bool:
        """See `Constraint.allows`. One token takes much less than all of them."""
        path = tuple(path)
        if path in self._rows or self._over(path) or token in self.vocabulary.ends:
            return bool(self._row(path)[token])
        if not self.vocabulary.may(token):
            return False
        question = next_as_spelt if self.canonical else may_follow
        return self._follower.ask(path, lambda matcher: question(matcher, token))

    def allowed_after(self, path: Sequence[int]) -> Tensor:
        """See `Constraint.allowed_after`."""
        return torch.from_numpy(self._row(tuple(path)))

    def kept(self, tokens: Sequence[int]) -> int:
        """See `Constraint.kept`."""
        if self.canonical or self._ended:
            return super().kept(tokens)
        words = list(takewhile(lambda token: token not in self.vocabulary.ends and self.vocabulary.may(token), tokens))
        kept = self.valid((), words)
        return len(tokens) if kept < len(tokens) and self.allows(words[:kept], tokens[kept]) else kept

    def advance(self, token: int) -> None:
        """See `Constraint.advance`."""
        if self._ended:
            return
        if token in self.vocabulary.ends:
            self._ended = True
        else:
            self._follower.advance(token)
        self._rows = {path[1:]: row for path, row in self._rows.items() if path[:1] == (token,)}
        self._free = {path[1:]: free for path, free in self._free.items() if path[:1] == (token,)}

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """See `Constraint.forced`: the tokens that the tokenizer makes of forced text. Unless the spelling is canonical
        others may spell it too, so that they are a good guess and no more. An end token that alone may follow is one
        of them."""
        run: list[int] = []
        if path and self.kept(path) < len(path):
            return run
        while len(run) < MOST_FORCED and (more := self._forced_after((*path, *run))):
            run += more
        return run[:MOST_FORCED]

    def likely(self, depth: int, nodes: int) -> list[list[int]]:
        """See `Constraint.likely`: forced text, and the few texts between which there is a choice then."""
        return guesses(self, depth, nodes)

    def forced_text(self, path: Sequence[int]) -> bytes:
        """Bytes that must follow a path that is allowed."""
        if self._over(tuple(path)):
            return b""
        return bytes(self._follower.ask(path, lambda matcher: matcher.compute_ff_bytes()))

    def valid(self, path: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of some tokens may follow a path one after the other, however they spell it."""
        if self._over(tuple(path)):
            return len(tokens)
        return self._follower.ask(path, lambda matcher: count_valid(matcher, tokens))

    def free(self, path: Sequence[int]) -> bool:
        """Whether more may follow a path than is worth drafting, as within a string, where a mask takes longest: each
        of many letters may."""
        path = tuple(path)
        if path not in self._free:
            letters = self.vocabulary.usual
            reached = not self._over(path) and self.valid((), path) == len(path)
            many = reached and len(letters) > MOST_CHOICES
            self._free[path] = many and all(self.valid(path, [letter]) for letter in letters)
        return self._free[path]

    def fork(self) -> GrammarConstraint:
        """See `Constraint.fork`."""
        other = GrammarConstraint(self.vocabulary, self._follower.fork(), self.canonical)
        other._rows, other._ended = dict(self._rows), self._ended
        return other

    def _row(self, path: tuple[int, ...]) -> NDArray[np.bool_]:
        if self._over(path):
            return self.vocabulary.everything
        if path not in self._rows:
            above = self._rows.get(path[:-1]) if path else None
            allowed = self.kept(path) == len(path) if above is None else above[path[-1]]
            self._rows[path] = self._read(path) if allowed else self.vocabulary.nothing
        return self._rows[path]

    def _over(self, path: tuple[int, ...]) -> bool:
        return self._ended or not self.vocabulary.ends.isdisjoint(path)

    def _read(self, path: tuple[int, ...]) -> NDArray[np.bool_]:
        """What the matcher allows after a path that it allows."""
        usable = self.vocabulary.usable
        found = self._follower.ask(path, lambda matcher: matcher.compute_bitmask())
        packed = np.frombuffer(found, dtype=np.uint8, count=len(usable))
        return np.unpackbits(packed & usable, count=self.vocabulary.size, bitorder="little").view(np.bool_)

    def _forced_after(self, path: tuple[int, ...]) -> list[int]:
        """Tokens that follow a path that is allowed, as far as one look tells."""
        if self._over(path):
            return []
        if run := self._follower.ask(path, forced_tokens):
            return run[: self.valid(path, run)]
        if self.free(path) or np.count_nonzero(row := self._row(path)) != 1:
            return []
        return [int(row.argmax())]


class GrammarCompiler:
    """Grammars → constraints for one model. Safe in any thread; nothing is loaded before the first grammar.

    Args:
        tokenizer: the target's, of transformers; None if there is none.
        vocab_size: V of the model. Tokens that the tokenizer does not have are never allowed.
        ends: ids of the tokens that end a text.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, ends: Collection[int]) -> None:
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, frozenset(ends)
        self.compile = lru_cache(KEPT)(self._compile)
        """Grammar → a `GrammarConstraint` that has seen no token. To be forked, not to be used itself."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What tokens say.

        Raises:
            InvalidRequestError: if there is no tokenizer, none that can be read, or no end token.
            ConfigError: if the extra is not installed.
        """
        if self._tokenizer is None or not self._ends:
            lacks = "tokenizer" if self._tokenizer is None else "end token"
            raise InvalidRequestError(f"grammar needs the model's {lacks}, and this engine has none. Leave it out.")
        for package in ("llguidance", "xgrammar"):
            if find_spec(package) is None:
                raise ConfigError(f"grammar needs {package}. Install it: pip install 'specdec-lab[grammar]'.")
        with foreign(InvalidRequestError, "Cannot read the tokenizer for grammars", "Leave grammar out."):
            made = Vocabulary.of(self._tokenizer, self._vocab_size, self._ends)
            made.prepare()  # llguidance reads the vocabulary, and may not understand it
        return made

    def _compile(self, grammar: Grammar) -> GrammarConstraint:
        """Raises InvalidRequestError for a grammar that is wrong, too complex, or beyond what is understood."""
        vocabulary = self.vocabulary
        from llguidance import LLMatcher, LLParserLimits

        try:
            words = source(grammar)
            limits = LLParserLimits(max_lexer_states=MOST_STATES, step_lexer_fuel=MOST_WORK, verbose_errors=False)
            origin = Origin(lambda: LLMatcher(vocabulary.for_matchers, words, log_level=0, limits=limits))
            made = GrammarConstraint(vocabulary, Follower(origin), grammar.spelling == "canonical")
            begins = bool(made.fork().masks((), ()).any())
        except SpecdecError as error:
            raise InvalidRequestError(f"grammar, of kind {grammar.kind}: {error}") from error
        if not begins:
            raise InvalidRequestError(f"grammar, of kind {grammar.kind}: no token may begin the text. Correct it.")
        return made
