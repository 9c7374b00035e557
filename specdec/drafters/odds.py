"""Log-odds that a token comes next, by its rank in a list that knows the last tokens; for `drafter=recycling`.

Printed by `python -m experiments.recycling --fit`: logistic regression over answers of SmolLM2-135M-Instruct to prompts
that it made up itself. A row has eight ranks; the last number is for tokens that the list does not have.
"""

from __future__ import annotations

NAMES = [
    *(
        f"{after} token{'s' * (after > 1)}, {origin}, {whose}"
        for after in (1, 2, 3)
        for origin in ("row", "refused row", "prompt")
        for whose in ("another request", "own")
    ),
    "the token alone",
    "the row before",
    "the row before that",
]
"""Of the sources, in their order (`specdec.kernels.successors`)."""
RANKS = [[1.3, 0.3, -0.1, -0.3, -0.5, -0.7, -0.8, -0.9, -1.2]] * 21
LENGTHS = [-3.0, -1.7, -1.2, -1.2]
