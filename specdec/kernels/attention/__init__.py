"""Attention over a paged KV cache, for prefill chunks, decoding, chains and trees alike."""

from specdec.kernels.attention.reference import SequenceKeys, paged_attention

__all__ = ["SequenceKeys", "paged_attention"]
