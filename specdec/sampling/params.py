"""The sampling parameters of a request, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from specdec.checks import Kind, either, flag, instance, mapping, number, settle, several, shown, text, whole
from specdec.errors import ConfigError
from specdec.sampling.constraints import Constraint
from specdec.sampling.grammar import Grammar

MIN_TEMPERATURE = 1e-5
LARGEST = 1e6
"""Of temperature, penalties and biases. Logits of up to 1e20 stay finite in float32 under any mixture of them: a
million times 2**31 counts, over the least temperature, is 2e20."""
MOST_LISTED = 1000
"""Tokens that are listed beside each token: more would fill the memory with lists."""
MOST_SAMPLES = 1024
SEEDS = 2**64


class Unset:
    """Marks a field's default: nobody set it, so the model's own word for it goes first (`SamplingParams.over`)."""


class UnsetFloat(float, Unset):
    """A number that nobody set."""


class UnsetInt(int, Unset):
    """An integer that nobody set."""


class UnsetTuple(tuple[Any, ...], Unset):
    """A sequence that nobody set."""


LISTED = f"an integer from 0 to {MOST_LISTED}, the number of most probable tokens beside each token, or None"
KINDS: dict[str, Kind] = {
    "max_tokens": whole(1),
    "min_tokens": whole(),
    "temperature": number(
        lambda value: value == 0 or MIN_TEMPERATURE <= value <= LARGEST,
        f"0 for greedy decoding, or a number from {MIN_TEMPERATURE:g} to {LARGEST:g}",
    ),
    "top_k": whole().but("an integer >= 1, or 0 to switch it off"),
    "top_p": number(lambda value: 0 < value <= 1, "a mass in (0, 1), or 1 to switch it off"),
    "min_p": number(lambda value: 0 <= value <= 1, "a ratio in (0, 1], or 0 to switch it off"),
    "repetition_penalty": number(
        lambda value: 1 / LARGEST <= value <= LARGEST,
        f"a number from {1 / LARGEST:g} to {LARGEST:g}; 1 switches it off",
    ),
    "presence_penalty": number(
        lambda value: abs(value) <= LARGEST, f"a number from -{LARGEST:g} to {LARGEST:g}; 0 switches it off"
    ),
    "frequency_penalty": number(
        lambda value: abs(value) <= LARGEST, f"a number from -{LARGEST:g} to {LARGEST:g}; 0 switches it off"
    ),
    "logit_bias": mapping(
        whole(),
        number(lambda value: abs(value) <= LARGEST, ""),
        f"token ids mapped to numbers from -{LARGEST:g} to {LARGEST:g}; to ban a token, use bad_words",
    ).or_none(),
    "bad_words": several(
        either(text(), several(whole(), "", least=1)), "non-empty strings, or non-empty sequences of token ids"
    ),
    "suppress_tokens": several(whole(), "token ids"),
    "begin_suppress_tokens": several(whole(), "token ids"),
    "allowed_token_ids": several(whole(), "token ids, at least one", least=1).or_none(", which allows all"),
    "seed": whole(0, SEEDS - 1).but("an integer in [0, 2**64)").or_none(),
    "n": whole(1, MOST_SAMPLES),
    "stop": several(text(), "non-empty strings"),
    "stop_token_ids": several(whole(), "token ids"),
    "ignore_eos": flag(),
    "include_stop_str_in_output": flag(),
    "skip_special_tokens": flag(),
    "logprobs": whole(0, MOST_LISTED).or_none().but(LISTED),
    "prompt_logprobs": whole(0, MOST_LISTED).or_none().but(LISTED),
    "num_draft_tokens": whole().but("an integer >= 0 (0 decodes plainly)").or_none(" for no cap"),
    "drafter": text("the name of a drafter").or_none(),
    "rule": text("the name of a rule").or_none(),
    "prediction": either(text(), several(whole(), "", least=1)).but("a non-empty text, or token ids").or_none(),
    "cache_salt": text().or_none(),
    "store": flag(),
    "prefix_cache": flag(),
    "constraint": instance(Constraint, "a specdec.sampling.constraints.Constraint").or_none(),
    "grammar": Kind(
        Grammar.read,
        "a Grammar, a JSON schema as a dict, a pydantic model class, or a list of choices; a text may be a regular "
        "expression or a grammar: say which by Grammar.regex, Grammar.ebnf, Grammar.lark or Grammar.json",
    ).or_none(),
}
"""What each field may be."""


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are chosen. Names and meanings are vLLM's where vLLM has the field.

    If a field is left out, the value of the model's own generation_config.json counts (`over`, `LoadedModel.defaults`).

    Args:
        max_tokens: most tokens to emit.
        min_tokens: before this many tokens the text cannot end: no end token, no token of `stop_token_ids`, and no stop
            string that they complete.
        temperature: divides the logits; 0 is greedy decoding, which ignores top_k, top_p and min_p.
        top_k: keep the k most probable tokens, and all tied with the k-th; 0 is off.
        top_p: keep the most probable tokens, as few as reach the mass top_p; 1 is off.
        min_p: keep tokens that are at least min_p times as probable as the most probable one; 0 is off.
        repetition_penalty: for tokens in prompt or output: divides positive logits and multiplies negative ones (Keskar
            et al. 2019); 1 is off.
        presence_penalty: subtracted from the logit of each token in the output.
        frequency_penalty: subtracted from the logit of a token for each time it is in the output.
        logit_bias: token id → number added to its logit.
        bad_words: strings or token ids that must not be emitted; `LogitsTransform` takes the ids of the strings.
        suppress_tokens: ids of tokens that are never emitted, as in transformers.
        begin_suppress_tokens: ids of tokens that the output must not begin with, as in transformers.
        allowed_token_ids: only these tokens are emitted; None allows all.
        seed: key of the request's random numbers; None lets the engine choose.
        n: number of texts for the prompt. They differ only in their seeds: seed, seed + 1, … (modulo 2**64).
            `SpeculativeGenerator.generate` returns them one after the other.
        stop: strings that end the output; a single string is also accepted.
        stop_token_ids: ids of tokens that end the output, besides the model's end tokens.
        ignore_eos: continue after the end-of-sequence token.
        include_stop_str_in_output: keep the stop string, or the text of the end token, in the text.
        skip_special_tokens: leave special tokens out of the text.
        logprobs: report the log-probability of each emitted token and of this many most probable tokens; 0 reports only
            the emitted token, None nothing.
        prompt_logprobs: the same for the tokens of the prompt, all but the first.
        num_draft_tokens: longest draft for this request; None is no limit.
        drafter: name of the drafter for this request, if the engine has several; None lets the policy choose.
        rule: name of the acceptance rule for this request's drafts; None is the engine's.
        prediction: what most of the text will be, as a text or token ids (OpenAI's predicted outputs). Drafters may
            copy from it; it does not change the text.
        cache_salt: requests with different salts share nothing that drafters or caches keep; None is a salt of its own.
        store: whether drafters and caches may keep anything of this text for other requests.
        prefix_cache: whether the request may reuse cached tokens of earlier texts, and leave its own.
        constraint: restricts the text; None does not.
        grammar: restricts the text by a `Grammar`; a dict or a pydantic model class is a JSON schema, a list is a
            choice.

    Raises:
        ConfigError: if a value has the wrong type or is out of range, or if two values contradict each other. The
            message names the value and the remedy.
    """

    max_tokens: int = UnsetInt(128)
    min_tokens: int = UnsetInt(0)
    temperature: float = UnsetFloat(0.0)
    top_k: int = UnsetInt(0)
    top_p: float = UnsetFloat(1.0)
    min_p: float = UnsetFloat(0.0)
    repetition_penalty: float = UnsetFloat(1.0)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    bad_words: Sequence[str | Sequence[int]] = UnsetTuple()
    suppress_tokens: Sequence[int] = UnsetTuple()
    begin_suppress_tokens: Sequence[int] = UnsetTuple()
    allowed_token_ids: Sequence[int] | None = None
    seed: int | None = None
    n: int = 1
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    num_draft_tokens: int | None = None
    drafter: str | None = None
    rule: str | None = None
    prediction: str | Sequence[int] | None = None
    cache_salt: str | None = None
    store: bool = True
    prefix_cache: bool = True
    constraint: Constraint | None = None
    grammar: Grammar | Mapping[str, Any] | type | Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))
        settle(self, {name: kind for name, kind in KINDS.items() if not isinstance(getattr(self, name), Unset)})
        self._check_together()

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p leaves out tokens."""
        return bool(self.top_k) or self.top_p < 1 or self.min_p > 0

    def over(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """These parameters, with defaults for fields that nobody set.

        Args:
            defaults: field → value, such as `LoadedModel.defaults`.

        Raises:
            ConfigError: if a default cannot go together with what was set.
        """
        chosen = {name: value for name, value in defaults.items() if isinstance(getattr(self, name), Unset)}
        if chosen.get("min_tokens", 0) > chosen.get("max_tokens", self.max_tokens):
            del chosen["min_tokens"]  # the caller wants less than the model's least
        return replace(self, **chosen) if chosen else self

    def samples(self) -> list[SamplingParams]:
        """One set of parameters for each of the n texts.

        Raises:
            ConfigError: if n is above 1 at temperature 0.
        """
        if self.n == 1:
            return [self]
        self._check_samples()
        seeds = [None if self.seed is None else (self.seed + index) % SEEDS for index in range(self.n)]
        return [replace(self, n=1, seed=seed) for seed in seeds]

    def _check_together(self) -> None:
        """Raises ConfigError for fields of which each is fine and that cannot go together."""
        allowed = None if self.allowed_token_ids is None else set(self.allowed_token_ids)
        banned = {word[0] for word in self.bad_words if not isinstance(word, str) and len(word) == 1}
        banned.update(self.suppress_tokens)
        never = banned if allowed is None else banned | (set(self.stop_token_ids) - allowed)
        if self.min_tokens > self.max_tokens:
            self._refuse("min_tokens", f"max_tokens = {self.max_tokens} ends the text before", "Raise max_tokens")
        if not isinstance(self.temperature, Unset):
            self._check_samples()
        if (self.constraint is not None or self.grammar is not None) and self.min_tokens:
            self._refuse("min_tokens", "the constraint says when the text may end", "Leave one of the two out")
        if self.grammar is not None and self.constraint is not None:
            self._refuse("grammar", "there is a constraint, too", "Leave one of the two out")
        if self.grammar is not None and self.ignore_eos:
            self._refuse("ignore_eos", "a text that is complete under its grammar has to end", "Leave one of them out")
        if allowed is not None and allowed <= banned:
            self._refuse(
                "allowed_token_ids",
                "every one of them is banned",
                "Add one that is not",
            )
        if self.stop_token_ids and never.issuperset(self.stop_token_ids):
            self._refuse("stop_token_ids", "no token of them may be emitted", "Give ids that may be emitted")

    def _check_samples(self) -> None:
        if self.n > 1 and self.greedy:
            self._refuse("n", "at temperature 0 all texts are the same", "Give a temperature above 0, or n = 1")

    def _refuse(self, name: str, why: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{name} = {shown(getattr(self, name))} cannot work: {why}. {remedy}.")
