"""Logits → scores: penalties, bias and bans, then temperature and the filters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from specdec.errors import ConfigError, NumericalError
from specdec.kernels.filters.reference import keep_min_p, keep_top_k, keep_top_p
from specdec.kernels.rows import argmax, divided, forbid
from specdec.sampling.constraints import allowed_rows, below_banned, forbidden_nodes
from specdec.sampling.params import SamplingParams


class LogitsTransform:
    """One request's map from logits to scores. Target and drafter share it, which keeps p and q comparable.

    In this order, each step only if it is on: repetition penalty, presence and frequency penalties, logit
    bias; what may not be emitted (bad words, tokens that are not allowed, an end before the least length, suppressed
    beginnings, the constraint); then, unless greedy, temperature, top-k, top-p, min-p. Every row is computed on its
    own: its scores are the same bits whatever rows share the call, and whether its last tokens are drafted or not.

    Args:
        params: the request's settings.
        prompt: the request's prompt.
        vocab_size: V.
        bad_words: token ids of the entries that `params.bad_words` holds as strings. Those that it holds as
            token ids are banned too.
        ends: ids of the tokens that end the text, none of which comes before `params.min_tokens` tokens.

    Raises:
        ConfigError: if a token id is not in [0, V), or if strings in `params.bad_words` were not tokenized.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        vocab_size: int,
        bad_words: Sequence[Sequence[int]] = (),
        ends: Collection[int] = (),
    ) -> None:
        if params.grammar is not None:
            raise ConfigError("A grammar must be compiled first. Give what it is compiled to as the constraint.")
        self.params, self.vocab_size = params, vocab_size
        self.constraint = None if params.constraint is None else params.constraint.fork()
        if not bad_words and any(isinstance(word, str) for word in params.bad_words):
            raise ConfigError("bad_words holds strings: tokenize them and pass their ids to LogitsTransform.")
        words = [*(word for word in params.bad_words if not isinstance(word, str)), *map(tuple, bad_words)]
        self._check_ids("bad_words", (token for word in words for token in word))
        self._check_ids("logit_bias", params.logit_bias or ())
        self._check_ids("prompt", prompt)
        self._check_ids("the tokens that end a text", ends)
        self._check_ids("suppress_tokens", params.suppress_tokens)
        self._check_ids("begin_suppress_tokens", params.begin_suppress_tokens)
        self._check_ids("allowed_token_ids", params.allowed_token_ids or ())

        bias = params.logit_bias or {}
        self._bias_ids = torch.tensor(list(bias), dtype=torch.long)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32)
        self._banned_after: dict[tuple[int, ...], list[int]] = {}
        for word in words:
            self._banned_after.setdefault(tuple(word[:-1]), []).append(word[-1])
        self._prefix_lengths = sorted({len(prefix) for prefix in self._banned_after})

        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        self._penalizes = penalties != (1, 0, 0)
        self._early = [(params.min_tokens, sorted(ends)), (1, list(params.begin_suppress_tokens))]
        self._early = [(until, ids) for until, ids in self._early if until and ids]
        self._first_free = max((until for until, _ in self._early), default=0)
        self._num_output = 0
        self._outside: Tensor | None = None
        if params.allowed_token_ids is not None or params.suppress_tokens:
            self._outside = torch.full((vocab_size,), params.allowed_token_ids is not None)
            self._outside[list(params.allowed_token_ids or ())] = False
            self._outside[list(params.suppress_tokens)] = True
        filters = params.top_k or params.top_p < 1 or params.min_p > 0
        self.confines_winners = self.constraint is not None and (params.greedy or not filters)
        """Whether a token that wins without the constraint, by its score or under noise, wins with it if it may stand
        there: no filter is worked out over what the constraint leaves."""
        self._forbids = bool(words) or self._outside is not None or self.constraint is not None
        self._edits_always = self._penalizes or bool(bias) or bool(words) or self._outside is not None
        # Keys: every token in the prompt or the output. Values: how often it is in the output.
        self._counts: dict[int, int] = dict.fromkeys(prompt, 0) if self._penalizes else {}
        self._count_tensors: tuple[Tensor, Tensor] | None = None
        self._tail = self._end_of(prompt)

    @property
    def edits(self) -> bool:
        """Whether single logits are changed, from the committed tokens on."""
        return self.constraint is not None or self.edits_unconfined

    @property
    def edits_unconfined(self) -> bool:
        """Whether anything but the constraint changes them."""
        return self._edits_always or self._num_output < self._first_free

    @property
    def identity(self) -> bool:
        """Whether scores are the logits themselves, whatever the path."""
        return self.params.greedy and not self.edits

    def append(self, tokens: Sequence[int]) -> None:
        """Commits output tokens: later rows follow them.

        Raises:
            ConfigError: if a token id is not in [0, V).
        """
        self._check_ids("output", tokens)
        self._num_output += len(tokens)
        self._tail = self._end_of([*self._tail, *tokens])
        if self.constraint is not None:
            for token in tokens:
                self.constraint.advance(token)
        if self._penalizes:
            for token in tokens:
                self._counts[token] = self._counts.get(token, 0) + 1
            self._count_tensors = None

    def scores(
        self,
        logits: Tensor,
        paths: Sequence[Sequence[int]],
        parents: Sequence[int] | None = None,
        confined: bool = True,
    ) -> Tensor:
        """Log-probabilities up to a constant per row, -inf where the probability is 0.

        Args:
            logits: any float dtype [R, V]; never modified. Returned as it is if float32 with every step off.
            paths: R paths; row r follows the committed tokens and then the draft tokens `paths[r]`.
            parents: if the rows are those of a tree, the row above each one, -1 for row 0. A row below a token that is
                banned where it stands is never read: it can have no token left, and comes out as zeros.
            confined: whether to the constraint; if not, that is left to the caller.

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
        edits = self.edits
        scores = logits.to(torch.float32, copy=edits)
        if self._penalizes:
            self._penalize_rows(scores, paths)
        if len(self._bias):
            scores[:, self._bias_ids.to(scores.device)] += self._bias.to(scores.device)
        self._ban(scores, paths)
        if self.constraint is not None and confined:
            forbid(scores, allowed_rows(self.constraint, paths, parents))
        if edits and parents is not None:
            scores[below_banned(scores, paths, parents)] = 0.0
        self.require_mass(largest for _, largest in map(argmax, scores))
        return scores if self.params.greedy else self._warp(scores)

    def scores_of_some(self, logits: Tensor) -> Tensor:
        """As `scores`, where no token but some has any mass: what is left of these. For transforms without `edits`.

        Args:
            logits: float [R, n] of n tokens, in the order of their ids.

        Returns:
            float32 [R, n].

        Raises:
            NumericalError: if a row has NaN or +inf, or no token left.
        """
        scores = logits.to(torch.float32)
        self.require_mass(largest for _, largest in map(argmax, scores))
        return scores if self.params.greedy else self._warp(scores)

    def forbidden(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        """Nodes of a draft tree that the constraint takes from it; see `forbidden_nodes`."""
        return [] if self.constraint is None else forbidden_nodes(self.constraint, tokens, parents)

    def require_mass(self, largest: Iterable[float]) -> None:
        """Raises NumericalError unless every row's largest score, as given, is finite."""
        for index, value in enumerate(largest):
            if value == -math.inf:
                raise NumericalError(
                    f"Row {index}: every token is banned. Relax bad_words, suppress_tokens, allowed_token_ids, "
                    "min_tokens, the constraint or the grammar."
                )
            if not math.isfinite(value):
                raise NumericalError(
                    f"Row {index}: the largest logit is {value}. Check the weights, use a wider dtype "
                    "(dtype='float32'), or bring penalties and logit_bias closer to their defaults."
                )

    def require_start(self) -> None:
        """Raises NumericalError if no token is left that the text may begin with."""
        if self._forbids or self._num_output < self._first_free:
            self.scores(torch.zeros(1, self.vocab_size), [()])

    def _ban(self, scores: Tensor, paths: Sequence[Sequence[int]]) -> None:
        """Takes all mass, in place, from what may not be emitted at the place of each row, the constraint aside."""
        if self._banned_after:
            for r, path in enumerate(paths):
                scores[r, self._banned(path)] = -math.inf
        if self._outside is not None:
            self._outside = self._outside.to(scores.device)
            scores.masked_fill_(self._outside, -math.inf)
        if self._num_output < self._first_free:
            for r, path in enumerate(paths):
                for until, ids in self._early:
                    if self._num_output + len(path) < until:
                        scores[r, ids] = -math.inf

    def _warp(self, scores: Tensor) -> Tensor:
        params = self.params
        if params.temperature != 1:
            scores = divided(scores, params.temperature)
        if params.top_k:
            scores = keep_top_k(scores, params.top_k)
        if params.top_p < 1:
            scores = keep_top_p(scores, params.top_p)
        if params.min_p > 0:
            scores = keep_min_p(scores, params.min_p)
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
