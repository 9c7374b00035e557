"""Which sublayers of a model a draft can do without: a search by what the rest of it still predicts, and what it costs.

A candidate is judged without decoding (SWIFT, Xia et al. 2025): of answers that the whole model has given, how many
tokens does the part of it predict in one pass? With that share α and the measured seconds of a pass, the speed of a
chain of γ drafts is (1 - α^(γ+1)) / (1 - α) / (γ t + T(γ + 1)) (Leviathan et al. 2023), of which the best γ counts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any

from specdec.analysis.theory import expected_tokens
from specdec.cache import PagedCache
from specdec.errors import ConfigError
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.policy.cost import measure
from specdec.policy.curve import CostCurve

Sublayers = tuple[tuple[int, ...], tuple[int, ...]]
"""Layers without attention, and layers without feed-forward part."""
ROUNDS = 30
"""Of measuring."""
MOST_ROWS = 256
"""Of a pass over answers."""


@dataclass(frozen=True)
class Text:
    """What the whole model was asked, and what it answered: token ids, at least one each."""

    prompt: Sequence[int]
    answer: Sequence[int]


class Answers:
    """Texts whose prompts the whole model has read, for parts of it to go on with.

    Args:
        model: the whole model.
        texts: its own greedy answers.
    """

    def __init__(self, model: CausalLM, texts: Sequence[Text]) -> None:
        blocks = sum(-(-(len(text.prompt) + len(text.answer)) // 16) for text in texts)
        self._model, self._texts = model, texts
        self._cache = PagedCache(model.kv_layout, blocks)
        for sequence, text in enumerate(texts):
            self._cache.add(sequence)
            read = text.prompt[:-1]
            for start in range(0, len(read), MOST_ROWS):
                piece = read[start : start + MOST_ROWS]
                self._cache.reserve(sequence, len(piece))
                rows = SequenceRows(piece, self._cache.slots(sequence), start)
                model.run(RaggedBatch.build([rows]), self._cache.target)
                self._cache.commit(sequence, len(piece))
            self._cache.reserve(sequence, len(text.answer))

    def agreement(self, part: CausalLM) -> float:
        """Share of the answers' tokens that a part of the model predicts, each after those before it."""
        right = sum(self._right(part, sequence) for sequence in range(len(self._texts)))
        return right / sum(len(text.answer) for text in self._texts)

    def seconds(self, parts: Sequence[CausalLM]) -> list[float]:
        """Seconds of a pass of one row by each part of the model. They take turns, and of each the least time counts:
        whatever else the machine does only adds to it."""
        least = [inf] * len(parts)
        for _ in range(ROUNDS):
            for index, part in enumerate(parts):
                began = perf_counter()
                self._run(part, 0, 1)
                least[index] = min(least[index], perf_counter() - began)
        return least

    def _right(self, part: CausalLM, sequence: int) -> int:
        answer = self._texts[sequence].answer
        return sum(a == b for a, b in zip(self._run(part, sequence, len(answer)), answer, strict=True))

    def _run(self, part: CausalLM, sequence: int, count: int) -> Sequence[int]:
        """What a part says in the place of each of an answer's first tokens."""
        text = self._texts[sequence]
        tokens = [text.prompt[-1], *text.answer][:count]
        slots = self._cache.slots(sequence)
        rows = SequenceRows(tokens, slots, len(text.prompt) - 1, logit_rows=range(count))
        batch = RaggedBatch.build([rows])
        return part.run(batch, self._cache.target, Wants(logits="argmax")).maxima.tokens


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Args:
        whole: of a pass of the whole model.
        attention, mlp: what a pass of one row saves for each attention, and each feed-forward part, that is left out.
    """

    whole: CostCurve
    attention: float
    mlp: float

    @classmethod
    def of(cls, model: CausalLM, answers: Answers) -> Costs:
        """Measures the whole model, and what is saved without all attentions, without all feed-forward parts, and
        without all but one of both: the first two are scaled to the third, so that no part takes less than nothing."""
        layers = range(model.kv_layout.num_layers)
        less = [model.without(*skips) for skips in ((layers, ()), ((), layers), (layers, layers[1:]))]
        whole, no_attention, no_mlp, bare = answers.seconds([model, *less])
        attention, mlp = max(whole - no_attention, 0.0), max(whole - no_mlp, 0.0)
        curve = measure(model)
        scale = curve(1) * max(1 - bare / whole, 0.0) / (attention + mlp or 1.0) / len(layers)
        return cls(curve, scale * attention, scale * mlp)

    def draft(self, skips: Sublayers) -> float:
        """A draft token without these sublayers."""
        return self.whole(1) - len(skips[0]) * self.attention - len(skips[1]) * self.mlp


@dataclass(frozen=True)
class Candidate:
    """A part of the model.

    Args:
        skips: what it leaves out.
        agreement: α, share of the model's own tokens that it predicts.
        cost: c, seconds of a draft token over those of a plain pass.
        num_draft_tokens: γ, the best.
        speedup: expected, over plain decoding.
    """

    skips: Sublayers
    agreement: float
    cost: float
    num_draft_tokens: int
    speedup: float

    @classmethod
    def of(cls, skips: Sublayers, agreement: float, costs: Costs, longest: int) -> Candidate:
        """With its best γ, from 1 to `longest`."""
        seconds, plain = costs.draft(skips), costs.whole(1)
        speedups = {
            gamma: expected_tokens(agreement, gamma) * plain / (gamma * seconds + costs.whole(gamma + 1))
            for gamma in range(1, longest + 1)
        }
        best = max(speedups, key=lambda gamma: speedups[gamma])
        return cls(skips, agreement, seconds / plain, best, speedups[best])


def search(num_layers: int, judge: Callable[[Sublayers], Candidate], trials: int, seed: int = 0) -> list[Candidate]:
    """Looks for the sublayers whose absence makes the fastest draft: Bayesian optimisation by a tree-structured Parzen
    estimator (Bergstra et al. 2011) over one yes or no for each, which begins with each sublayer alone.

    Args:
        num_layers: of the model.
        judge: of a candidate.
        trials: how many to judge.
        seed: of the search.

    Returns:
        All that were judged, the fastest first; none twice.

    Raises:
        ConfigError: if optuna is not installed.
    """
    optuna = require_optuna()
    names = [f"{kind} {layer}" for kind in ("attention", "mlp") for layer in range(num_layers)]
    found: dict[Sublayers, Candidate] = {}

    def objective(trial: Any) -> float:
        left_out = {name for name in names if trial.suggest_categorical(name, [False, True])}
        attention, mlp = ([n for n in range(num_layers) if f"{kind} {n}" in left_out] for kind in ("attention", "mlp"))
        skips = tuple(attention), tuple(mlp)
        if not 0 < len(left_out) < len(names):
            raise optuna.TrialPruned
        if skips not in found:
            found[skips] = judge(skips)
        return found[skips].speedup

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name in names[:trials]:
            study.enqueue_trial({each: each == name for each in names})
    study.optimize(objective, n_trials=trials)
    return sorted(found.values(), key=lambda each: -each.speedup)


def require_optuna() -> Any:
    """The library that searches.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells what its own parts call old
            import optuna
    except ImportError as error:
        raise ConfigError("The search needs optuna: pip install 'specdec-lab[optuna]'.") from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna
