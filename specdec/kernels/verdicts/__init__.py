"""From logits to a verdict on the GPU. The reference is the rules themselves, specdec/verify."""

RULES = {"greedy": 0, "gumbel": 1, "token": 2, "block": 3}
"""Kernels and their numbers. A rule says which one is its own (`Rule.kernel`). Known without Triton, too."""
