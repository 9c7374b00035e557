"""Who computes logits."""

from specdec.models.base import CausalLM, PassOutput, Wants
from specdec.models.batch import RaggedBatch, SequenceRows

__all__ = ["CausalLM", "PassOutput", "RaggedBatch", "SequenceRows", "Wants"]
