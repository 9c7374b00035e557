"""Prompt and parameters → a request, or a refusal: every check that needs no pass."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from specdec.checks import instance, shown, take
from specdec.drafters.base import Drafter
from specdec.engine.probe import Probe
from specdec.engine.request import Request
from specdec.engine.text import TextStream
from specdec.errors import InvalidRequestError, NumericalError
from specdec.models.base import CausalLM
from specdec.prompts.entry import token_ids
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform, SamplingParams
from specdec.sampling.compiling import GrammarCompiler
from specdec.verify.base import Rule
from specdec.verify.select import select_rule
from specdec.verify.tree import DraftTree

PARAMS = instance(SamplingParams, "SamplingParams")


class Intake:
    """Makes an engine's requests.

    Args:
        model: the target.
        tokenizer: turns tokens into text, and bad words into tokens; None when callers want token ids alone.
        eos: token ids that end a text.
        rule: name of an acceptance rule, "auto", or a rule.
        drafters: those that may serve a request that names one, or none: the rule will judge their drafts.
        defaults: the model's own values for what a request's parameters leave out.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Any,
        eos: Sequence[int],
        rule: str | Rule,
        drafters: Callable[[str | None], Sequence[Drafter]],
        defaults: Mapping[str, Any],
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._eos = frozenset(token for token in eos if 0 <= token < model.vocab_size)  # no other can be emitted
        self._rule, self._drafters, self._defaults = rule, drafters, defaults
        self._ids = itertools.count()

    def make(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """A request that can be queued.

        Raises:
            InvalidRequestError, ConfigError: if the prompt or the parameters cannot be served.
        """
        prompt, params = token_ids(prompt), take("params", params, PARAMS, InvalidRequestError)
        self._check_prompt(prompt)
        params = params.over(self._defaults)
        self._check_params(params)
        ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos)
        size, banned = self._model.vocab_size, self._bad_words(params)
        transform = LogitsTransform(self._compiled(params), prompt, size, banned, ends)
        self._check_start(transform)
        request = Request(
            id=next(self._ids),
            prompt=prompt,
            params=params,
            rule=self._select_rule(params),
            transform=transform,
            random=RandomSource(secrets.randbits(64) if params.seed is None else params.seed),
            text=self._text(params),
            ends=ends,
            max_length=min(len(prompt) + params.max_tokens, self._model.max_context),
            prediction=self._prediction(params.prediction),
        )
        request.stats.prompt_tokens = len(prompt)
        return request

    def make_probe(self, prompt: Sequence[int], tree: DraftTree, params: SamplingParams) -> Request:
        """A request for the log-probabilities of a tree's nodes.

        Raises:
            InvalidRequestError: as `make`; if the tree is empty, or its tokens or its depth do not fit the model.
        """
        context, vocab_size = self._model.max_context, self._model.vocab_size
        if not len(tree):
            raise InvalidRequestError("There is nothing to score. Give at least one token.")
        if bad := [token for token in tree.tokens if not 0 <= token < vocab_size]:
            raise InvalidRequestError(
                f"Token id {shown(bad[0])} is outside the vocabulary of {vocab_size}. Use the target's tokenizer."
            )
        if len(prompt) + tree.depth > context:
            raise InvalidRequestError(
                f"{len(prompt)} tokens and {tree.depth} to score are more than the {context} that {self._model.name} "
                "takes. Shorten them."
            )
        kept = SamplingParams(
            max_tokens=1, temperature=0.0, cache_salt=params.cache_salt, store=params.store,
            prefix_cache=params.prefix_cache,
        )  # fmt: skip
        return replace(self.make(prompt, kept), probe=Probe(tree))

    def _select_rule(self, params: SamplingParams) -> Rule:
        """A rule that can judge the drafts of every drafter that may serve the request."""
        drafters = self._drafters(params.drafter)
        return select_rule(
            self._rule if params.rule is None else params.rule,
            params,
            deterministic_drafter=all(drafter.deterministic for drafter in drafters),
            trees=any(drafter.trees for drafter in drafters),
            invariant_only=any(drafter.shares for drafter in drafters),
            ranked=all(drafter.deterministic or drafter.ranks for drafter in drafters),
        )

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        context, vocab_size = self._model.max_context, self._model.vocab_size
        if not prompt:
            raise InvalidRequestError("The prompt is empty. Give at least one token.")
        if len(prompt) >= context:
            raise InvalidRequestError(
                f"The prompt has {len(prompt)} tokens; {self._model.name} takes at most {context - 1} and needs room "
                "for one more. Shorten it."
            )
        if bad := [token for token in prompt if not 0 <= token < vocab_size]:
            raise InvalidRequestError(
                f"Token id {shown(bad[0])} is outside the vocabulary of {vocab_size}. Use the target's tokenizer."
            )

    def _check_params(self, params: SamplingParams) -> None:
        """Refuses what only shows beside the tokenizer and the model, or would never act."""
        if params.n > 1:
            raise InvalidRequestError(f"n = {params.n} means several requests. Make one of each of `params.samples()`.")
        if params.stop and self._tokenizer is None:
            raise InvalidRequestError("stop needs a tokenizer, and this engine has none. Use stop_token_ids.")
        size = self._model.vocab_size
        if bad := [token for token in params.stop_token_ids if token >= size]:
            raise InvalidRequestError(f"Token id {bad[0]} in stop_token_ids is outside the vocabulary of {size}.")
        for stop in params.stop if params.skip_special_tokens and self._special_tokens else ():
            if special := self._special_tokens.intersection(self._tokenizer.encode(stop, add_special_tokens=False)):
                raise InvalidRequestError(
                    f"stop = {stop!r} can never appear: token {min(special)} in it is special, and special tokens are "
                    f"left out of the text. Use stop_token_ids=[{min(special)}], or skip_special_tokens=False."
                )

    def _compiled(self, params: SamplingParams) -> SamplingParams:
        """The same with a constraint in place of a grammar."""
        if params.grammar is None:
            return params
        return replace(params, grammar=None, constraint=self._grammars.compile(params.grammar))

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self._tokenizer, self._model.vocab_size, self._eos)

    @cached_property
    def _special_tokens(self) -> frozenset[int]:
        """Ids of the tokens that have no text where special tokens are skipped."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        return frozenset(token for token, one in added.items() if one.special)

    @staticmethod
    def _check_start(transform: LogitsTransform) -> None:
        try:
            transform.require_start()
        except NumericalError as error:
            raise InvalidRequestError(f"The text cannot begin. {error}") from error

    def _text(self, params: SamplingParams) -> TextStream | None:
        if self._tokenizer is None:
            return None
        return TextStream(
            self._tokenizer,
            params.stop,
            params.min_tokens,
            params.include_stop_str_in_output,
            params.skip_special_tokens,
        )

    def _prediction(self, prediction: str | Sequence[int] | None) -> tuple[int, ...]:
        if not isinstance(prediction, str):
            ids = tuple(prediction or ())
        elif self._tokenizer is None:
            raise InvalidRequestError("prediction is a text, and this engine has no tokenizer. Give token ids.")
        else:
            ids = tuple(self._tokenizer.encode(prediction, add_special_tokens=False))
        if bad := [token for token in ids if token >= self._model.vocab_size]:
            raise InvalidRequestError(
                f"Token id {bad[0]} of prediction is outside the vocabulary of {self._model.vocab_size}. Use the "
                "target's tokenizer."
            )
        return ids

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Token ids of the bad words; a word is banned at the start of a text and after a space."""
        words: list[list[int]] = []
        for word in params.bad_words:
            if not isinstance(word, str):
                words.append(list(word))
                continue
            if self._tokenizer is None:
                raise InvalidRequestError(f"bad_words = {word!r} needs a tokenizer; without one give token ids.")
            found = [self._tokenizer.encode(text, add_special_tokens=False) for text in (word, " " + word.lstrip())]
            if not any(found):
                raise InvalidRequestError(f"bad_words = {word!r} has no tokens of its own. Leave it out.")
            words.extend(ids for ids in found if ids and ids not in words)
        return words
