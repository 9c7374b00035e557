"""Grammars are compiled for a vocabulary.

llguidance follows the text; xgrammar tells the bytes of each token. The former counts its own work and stops at a
limit, so that no grammar, however it is written, holds up a step for long.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any

from specdec.errors import ConfigError, InvalidRequestError, SpecdecError
from specdec.foreign import foreign
from specdec.sampling.follower import Follower, Origin
from specdec.sampling.grammar import Grammar
from specdec.sampling.matching import GrammarConstraint
from specdec.sampling.sources import source
from specdec.sampling.spelling import Vocabulary

KEPT = 64
"""Grammars that stay compiled: those that were asked for last."""
MOST_STATES = 20_000
"""Of one grammar's lexer, at about 2 KB each. llguidance's own limits on its time hold beside it: 1 M units of work to
build a lexer (20 ms), 50,000 items a mask (a few ms, up to 0.2 s where they are the worst)."""
MOST_WORK = 1_000_000
"""Of a lexer from one mask to the next (70 ms), in llguidance's units; five times its own default, since masks are rare
here."""


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
