"""Attention over a paged KV cache, for prefill chunks, decoding, chains and trees alike."""

from specdec.kernels.attention.columns import SequenceColumns
from specdec.kernels.attention.reference import SequenceKeys, paged_attention, sequence_keys

__all__ = ["SequenceColumns", "SequenceKeys", "paged_attention", "sequence_keys"]
