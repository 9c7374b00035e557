"""From logits to a verdict on the GPU. The reference is the rules themselves, specdec/verify."""

RULES = {"greedy": 0, "gumbel": 1, "token": 2, "block": 3}
"""Rules that have a kernel, and their numbers there. Known without Triton, too."""
