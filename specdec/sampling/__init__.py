"""From logits to the distribution a request asked for, one way for the target (p) and the drafter (q)."""

from specdec.sampling.constraints import Choices, Constraint
from specdec.sampling.draws import log_probability, probabilities, sample_from_weights, top_log_probabilities
from specdec.sampling.grammar import Grammar
from specdec.sampling.params import SamplingParams
from specdec.sampling.transform import LogitsTransform

__all__ = [
    "Choices",
    "Constraint",
    "Grammar",
    "LogitsTransform",
    "SamplingParams",
    "log_probability",
    "probabilities",
    "sample_from_weights",
    "top_log_probabilities",
]
