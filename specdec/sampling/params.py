"""What a request may ask for, checked at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from specdec.errors import ConfigError
from specdec.sampling.constraints import Constraint

FLOAT32_MAX = float(torch.finfo(torch.float32).max)
MIN_TEMPERATURE = 1e-5
REMEDIES = {
    "max_tokens": "an integer >= 1",
    "temperature": f"0 for greedy decoding, or a finite number >= {MIN_TEMPERATURE}",
    "top_k": "an integer >= 1, or 0 to switch it off",
    "top_p": "a mass in (0, 1), or 1 to switch it off",
    "min_p": "a ratio in (0, 1], or 0 to switch it off",
    "repetition_penalty": "a finite number > 0; 1 switches it off",
    "presence_penalty": "a finite number; 0 switches it off",
    "frequency_penalty": "a finite number; 0 switches it off",
    "logit_bias": "token ids mapped to finite numbers; to ban a token, use bad_words",
    "bad_words": "non-empty strings, or non-empty sequences of token ids",
    "seed": "an integer in [0, 2**64), or None",
    "stop": "non-empty strings",
    "top_logprobs": "an integer >= 0; above 0 it needs logprobs=True",
    "constraint": "a specdec.sampling.constraints.Constraint, or None",
    "num_draft_tokens": "an integer >= 0 (0 decodes plainly), or None for no cap",
}


@dataclass(frozen=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    Args:
        max_tokens: most tokens to emit.
        temperature: divides the logits; 0 is greedy, for which top_k, top_p and min_p are ignored.
        top_k: keep the k most probable tokens and those tied with the k-th; 0 is off.
        top_p: keep the fewest most probable tokens whose mass reaches top_p; 1 is off.
        min_p: keep tokens at least min_p times as probable as the most probable one; 0 is off.
        repetition_penalty: of tokens in prompt or output, positive logits are divided by it and negative ones
            multiplied (Keskar et al. 2019); 1 is off.
        presence_penalty: subtracted from the logit of each token in the output.
        frequency_penalty: subtracted from the logit of a token once for each time it is in the output.
        logit_bias: token id → number added to its logit.
        bad_words: what must not be emitted, strings or token ids; `LogitsTransform` takes the strings' ids.
        seed: key of the request's random numbers; None leaves the choice to the engine.
        stop: strings that end the output; one string is taken as a tuple of one.
        ignore_eos: go on after the end-of-sequence token.
        logprobs: report the log-probability of each emitted token.
        top_logprobs: report, beside each emitted token, the so many most probable ones; needs `logprobs`.
        num_draft_tokens: this request's own cap on the draft length; None is no cap.
        drafter: name of the drafter that serves this request, if the engine has several; None leaves it to the policy.
        constraint: what the text must keep to; None is nothing.

    Raises:
        ConfigError: if a value is out of range, NaN or infinite; names it and the remedy.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    bad_words: Sequence[str | Sequence[int]] = ()
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    num_draft_tokens: int | None = None
    drafter: str | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        words = (self.bad_words,) if isinstance(self.bad_words, str) else self.bad_words
        object.__setattr__(self, "stop", stop)
        frozen = tuple(tuple(word) if isinstance(word, list) else word for word in words)
        object.__setattr__(self, "bad_words", frozen)
        bias = self.logit_bias or {}
        warm = MIN_TEMPERATURE <= self.temperature <= FLOAT32_MAX
        words_fit = (bool(word) if isinstance(word, str) else _is_token_ids(word) for word in self.bad_words)
        valid: dict[str, bool] = {
            "max_tokens": _is_count(self.max_tokens, least=1),
            "temperature": self.temperature == 0 or warm,
            "top_k": _is_count(self.top_k),
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty <= FLOAT32_MAX,
            "presence_penalty": _is_finite(self.presence_penalty),
            "frequency_penalty": _is_finite(self.frequency_penalty),
            "logit_bias": all(_is_count(token) and _is_finite(value) for token, value in bias.items()),
            "bad_words": all(words_fit),
            "seed": self.seed is None or (_is_count(self.seed) and self.seed < 2**64),
            "stop": all(isinstance(text, str) and text != "" for text in self.stop),
            "top_logprobs": _is_count(self.top_logprobs) and (self.logprobs or not self.top_logprobs),
            "constraint": self.constraint is None or isinstance(self.constraint, Constraint),
            "num_draft_tokens": self.num_draft_tokens is None or _is_count(self.num_draft_tokens),
        }
        for name, fits in valid.items():
            if not fits:
                raise ConfigError(f"{name} = {getattr(self, name)!r} cannot work. Give {REMEDIES[name]}.")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_finite(value: float) -> bool:
    return abs(value) <= FLOAT32_MAX


def _is_token_ids(word: object) -> bool:
    return isinstance(word, tuple) and len(word) > 0 and all(map(_is_count, word))
