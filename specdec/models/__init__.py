"""Who computes logits."""

from specdec.models.base import CausalLM, RaggedBatch, SequenceRows

__all__ = ["CausalLM", "RaggedBatch", "SequenceRows"]
