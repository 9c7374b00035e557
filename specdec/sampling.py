"""From logits to the distribution a request asked for, one way for the target (p) and the drafter (q)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import ConfigError, NumericalError

FLOAT32_MAX = float(torch.finfo(torch.float32).max)
MIN_TEMPERATURE = 1e-5
LIKELY = 1e-4
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
        num_draft_tokens: this request's own cap on the draft length; None is no cap.

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
    num_draft_tokens: int | None = None

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
            "num_draft_tokens": self.num_draft_tokens is None or _is_count(self.num_draft_tokens),
        }
        for name, fits in valid.items():
            if not fits:
                raise ConfigError(f"{name} = {getattr(self, name)!r} cannot work. Give {REMEDIES[name]}.")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


class LogitsTransform:
    """One request's map from logits to scores. Target and drafter share it, which keeps p and q comparable.

    In this order, each step only if it is on: repetition penalty, presence and frequency penalties, logit
    bias, bad words; then, unless greedy, temperature, top-k, top-p, min-p. Every row is computed on its own:
    its scores are the same bits whatever rows share the call, and whether its last tokens are drafted or
    committed.

    Args:
        params: the request's settings.
        prompt: the request's prompt.
        vocab_size: V.
        bad_words: token ids of the entries that `params.bad_words` holds as strings. Those that it holds as
            token ids are banned too.

    Raises:
        ConfigError: if a token id is not in [0, V), or if strings in `params.bad_words` were not tokenized.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        vocab_size: int,
        bad_words: Sequence[Sequence[int]] = (),
    ) -> None:
        self.params, self.vocab_size = params, vocab_size
        if not bad_words and any(isinstance(word, str) for word in params.bad_words):
            raise ConfigError("bad_words holds strings: tokenize them and pass their ids to LogitsTransform.")
        words = [*(word for word in params.bad_words if not isinstance(word, str)), *map(tuple, bad_words)]
        self._check_ids("bad_words", (token for word in words for token in word))
        self._check_ids("logit_bias", params.logit_bias or ())
        self._check_ids("prompt", prompt)

        bias = params.logit_bias or {}
        self._bias_ids = torch.tensor(list(bias), dtype=torch.long)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32)
        self._banned_after: dict[tuple[int, ...], list[int]] = {}
        for word in words:
            self._banned_after.setdefault(tuple(word[:-1]), []).append(word[-1])
        self._prefix_lengths = sorted({len(prefix) for prefix in self._banned_after})

        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        self._penalizes = penalties != (1, 0, 0)
        self._edits = self._penalizes or bool(bias) or bool(words)
        # Keys: every token in the prompt or the output. Values: how often it is in the output.
        self._counts: dict[int, int] = dict.fromkeys(prompt, 0) if self._penalizes else {}
        self._count_tensors: tuple[Tensor, Tensor] | None = None
        self._tail = self._end_of(prompt)

    def append(self, tokens: Sequence[int]) -> None:
        """Commits output tokens: later rows follow them.

        Raises:
            ConfigError: if a token id is not in [0, V).
        """
        self._check_ids("output", tokens)
        self._tail = self._end_of([*self._tail, *tokens])
        if self._penalizes:
            for token in tokens:
                self._counts[token] = self._counts.get(token, 0) + 1
            self._count_tensors = None

    def scores(self, logits: Tensor, paths: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities up to a constant per row, -inf where the probability is 0.

        Args:
            logits: any float dtype [R, V]; never modified. Returned as it is if float32 with every step off.
            paths: R paths; row r follows the committed tokens and then the draft tokens `paths[r]`.

        Returns:
            float32 [R, V].

        Raises:
            ConfigError: if the shapes do not fit.
            NumericalError: if a row has NaN or +inf, or no token left.
        """
        if logits.shape != (len(paths), self.vocab_size):
            raise ConfigError(
                f"Logits {tuple(logits.shape)} for {len(paths)} paths and a vocabulary of {self.vocab_size}. "
                "Give one row per path, as wide as the vocabulary."
            )
        scores = logits.to(torch.float32, copy=self._edits)
        if self._penalizes:
            self._penalize_rows(scores, paths)
        if len(self._bias):
            scores[:, self._bias_ids.to(scores.device)] += self._bias.to(scores.device)
        if self._banned_after:
            for r, path in enumerate(paths):
                scores[r, self._banned(path)] = -math.inf
        self._require_mass(scores)
        return scores if self.params.greedy else self._warp(scores)

    def _warp(self, scores: Tensor) -> Tensor:
        params = self.params
        if params.temperature != 1:
            scores = scores / params.temperature
        if params.top_k:
            scores = _keep_top_k(scores, params.top_k)
        if params.top_p < 1:
            scores = _keep_top_p(scores, params.top_p)
        if params.min_p > 0:
            scores = _keep_min_p(scores, params.min_p)
        return scores

    def _penalize_rows(self, scores: Tensor, paths: Sequence[Sequence[int]]) -> None:
        """Changes `scores` in place.

        Path tokens start again from their logit with their full count, for the bits that they will have when
        committed.
        """
        in_paths = [list(dict.fromkeys(path)) for path in paths]
        logits_in_paths = [scores[r, ids] for r, ids in enumerate(in_paths)]
        if self._count_tensors is None:
            self._count_tensors = (
                torch.tensor(list(self._counts), dtype=torch.long),
                torch.tensor(list(self._counts.values()), dtype=torch.float32),
            )
        committed, committed_counts = (tensor.to(scores.device) for tensor in self._count_tensors)
        scores[:, committed] = self._penalized(scores[:, committed], committed_counts)
        for r, (path, ids, logits) in enumerate(zip(paths, in_paths, logits_in_paths, strict=True)):
            counts = [self._counts.get(token, 0) + path.count(token) for token in ids]
            scores[r, ids] = self._penalized(logits, logits.new_tensor(counts))

    def _penalized(self, logits: Tensor, counts: Tensor) -> Tensor:
        """Logits of tokens seen before; counts: float32, how often each is in the output."""
        params, penalty = self.params, self.params.repetition_penalty
        repeated = torch.where(logits < 0, logits * penalty, logits / penalty)
        return repeated - ((counts > 0) * params.presence_penalty + counts * params.frequency_penalty)

    def _banned(self, path: Sequence[int]) -> list[int]:
        history = self._end_of([*self._tail, *path])
        prefixes = (tuple(history[len(history) - n :]) for n in self._prefix_lengths if n <= len(history))
        return [token for prefix in prefixes for token in self._banned_after.get(prefix, ())]

    def _end_of(self, tokens: Sequence[int]) -> list[int]:
        """As many of the last tokens as the longest bad word looks back on."""
        longest = max(self._prefix_lengths, default=0)
        return list(tokens[max(len(tokens) - longest, 0) :])

    def _check_ids(self, what: str, ids: Iterable[int]) -> None:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"Token id {token} in {what}: give ids in [0, {self.vocab_size}).")

    def _require_mass(self, scores: Tensor) -> None:
        largest = scores.amax(dim=-1)
        if bool(torch.isfinite(largest).all()):
            return
        row = int((~torch.isfinite(largest)).nonzero()[0])
        if largest[row] == -math.inf:
            raise NumericalError(f"Row {row}: every token is banned. Relax bad_words or the logit mask.")
        raise NumericalError(
            f"Row {row}: the largest logit is {float(largest[row])}. Run the model in a wider dtype, or "
            "bring the penalties and logit_bias closer to their defaults."
        )


def probabilities(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, float [..., V] → float32 [..., V]; NaN in rows of -inf alone."""
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def sample_from_weights(weights: Tensor, u: float) -> int:
    """Draws a token by inverting the cumulative distribution, in float64.

    Args:
        weights: float [V], not negative; they need not sum to 1.
        u: uniform in (0, 1).

    Returns:
        A token whose weight is not 0.

    Raises:
        NumericalError: if the weights have a NaN, an infinity, a negative entry, or no mass.
    """
    cumulative = weights.to(torch.float64).cumsum(dim=0)
    total = float(cumulative[-1])
    if not (0 < total < math.inf and bool((weights >= 0).all())):
        raise NumericalError(
            f"No token can be drawn from weights of total {total}, smallest {float(weights.min())}. "
            "Look for NaN logits, a mask that bans every token, or an empty residual."
        )
    # The first entry above the point is where the sum grew, so its weight is not 0.
    point = min(u * total, math.nextafter(total, 0.0))
    return int(torch.searchsorted(cumulative, point, right=True))


def log_probability(logits: Tensor, tokens: Tensor | Sequence[int]) -> Tensor:
    """Log-softmax of each row at one token, without the softmax of the others.

    Args:
        logits: float [R, V].
        tokens: int64 [R], or R token ids.

    Returns:
        float32 [R], in nats. A row's result is the same bits whatever rows share the call.
    """
    columns = torch.as_tensor(tokens, dtype=torch.long, device=logits.device).unsqueeze(-1)
    chosen = logits.gather(-1, columns).squeeze(-1).to(torch.float32)
    # Row by row: a reduction over all rows at once may split its sums by their number.
    normalizers = [torch.logsumexp(row.to(torch.float32), dim=0) for row in logits]
    return chosen - torch.stack(normalizers) if normalizers else chosen


def _keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Keeps each row's k largest scores and those tied with the k-th. Source: Fan, Lewis and Dauphin 2018."""
    smallest = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return torch.where(scores < smallest, -math.inf, scores)


def _keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Keeps each row's fewest largest scores whose probability reaches top_p. Source: Holtzman et al. 2020.

    Of tied scores the lower token id comes first, as with argmax.
    """
    output = torch.full_like(scores, -math.inf)
    for row, mass, kept in zip(scores, probabilities(scores), output, strict=True):
        # Sorting a whole vocabulary takes as long as a small model's pass, so only likely tokens are sorted.
        # Those below the last floor hold less than 1 - top_p together, so the nucleus is always above it.
        for floor in (LIKELY, (1 - top_p) / len(row)):
            candidates = (mass >= floor).nonzero().squeeze(-1)
            if mass[candidates].sum(dtype=torch.float64) >= top_p:
                break
        ranked = candidates[row[candidates].sort(descending=True, stable=True).indices]
        reached = mass[ranked].cumsum(dim=0, dtype=torch.float64)
        nucleus = ranked[: int(torch.searchsorted(reached, top_p)) + 1]
        kept[nucleus] = row[nucleus]
    return output


def _keep_min_p(scores: Tensor, min_p: float) -> Tensor:
    """Keeps tokens at least min_p times as probable as the row's first. Source: Nguyen et al. 2024."""
    floor = scores.amax(dim=-1, keepdim=True) + math.log(min_p)
    return torch.where(scores < floor, -math.inf, scores)


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_finite(value: float) -> bool:
    return abs(value) <= FLOAT32_MAX


def _is_token_ids(word: object) -> bool:
    return isinstance(word, tuple) and len(word) > 0 and all(map(_is_count, word))
