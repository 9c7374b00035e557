"""How large a draft may be asked for."""

from __future__ import annotations

from specdec.checks import several, whole

MOST_NODES = 1024
"""Tokens of the largest draft."""
DEPTH = whole(1, MOST_NODES).but(f"an integer from 1 to {MOST_NODES}; for plain decoding use drafter='none'")
BRANCHES = whole(1, MOST_NODES).but(f"an integer from 1 to {MOST_NODES}; 1 proposes chains")
CHOICES = several(
    several(whole(0, MOST_NODES), "", least=1, most=64),
    "the tree's branches, each a list of at most 64 ranks that count from 0, such as [[0, 0], [1]]",
    least=1,
    most=MOST_NODES,
).or_none(" for the tree of num_draft_tokens and branches")
