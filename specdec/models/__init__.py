"""Who computes logits."""

from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows

__all__ = ["CausalLM", "RaggedBatch", "SequenceRows"]
