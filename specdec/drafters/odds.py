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
RANKS = [
    [0.57, 0.29, 0.12, -0.32, -0.12, -0.33, -0.54, -0.52, -0.54],  # 1 token, row, another request
    [1.38, 0.58, 0.01, 0.19, -0.47, -0.3, -0.47, -0.39, -1.0],  # 1 token, row, own
    [0.63, 0.15, 0.15, -0.11, -0.37, -0.32, -0.51, -0.63, -0.52],  # 1 token, refused row, another request
    [2.57, 0.5, 0.16, -0.11, -0.81, -0.15, -0.16, -0.53, -1.21],  # 1 token, refused row, own
    [0.4, 0.67, 0.46, 0.15, 0.1, -0.29, -0.43, -0.31, -0.62],  # 1 token, prompt, another request
    [1.38, 0.55, -0.04, -0.68, -1.0, -0.88, -0.3, -0.78, -0.87],  # 1 token, prompt, own
    [1.32, 0.34, 0.19, 0.12, -0.13, -0.44, -0.61, -0.3, -1.0],  # 2 tokens, row, another request
    [1.57, 0.29, 0.01, -0.3, 0.18, -0.19, -0.57, -0.38, -1.29],  # 2 tokens, row, own
    [1.17, 0.39, 0.02, 0.08, 0.04, -0.29, -0.53, -0.37, -0.82],  # 2 tokens, refused row, another request
    [1.64, 0.42, -0.01, 0.48, -0.19, -0.8, -1.37, -0.94, -1.28],  # 2 tokens, refused row, own
    [1.1, 0.45, 0.76, -0.03, 0.23, -0.27, 0.09, -0.7, -0.82],  # 2 tokens, prompt, another request
    [1.74, 0.8, -0.15, -0.04, 0.24, -0.06, -1.42, -0.46, -1.08],  # 2 tokens, prompt, own
    [1.8, 0.96, 0.31, 0.09, -0.11, 0.0, -0.03, -0.17, -1.23],  # 3 tokens, row, another request
    [3.04, -0.5, -0.62, -0.91, -1.08, -1.54, -1.24, -1.51, -2.0],  # 3 tokens, row, own
    [1.61, 0.69, 0.36, 0.19, 0.0, -0.1, 0.37, -0.08, -1.06],  # 3 tokens, refused row, another request
    [2.06, 0.17, 0.17, -0.54, -0.59, -0.61, -2.03, -1.27, -1.46],  # 3 tokens, refused row, own
    [0.74, 1.28, 0.62, 1.03, 0.89, -1.06, -0.52, -1.14, -0.28],  # 3 tokens, prompt, another request
    [2.42, 0.68, 0.09, -0.11, 0.6, -0.3, 0.95, 0.1, -0.86],  # 3 tokens, prompt, own
    [0.1, -0.57, -0.68, -0.63, -1.12, -1.31, -0.98, -1.26, -1.64],  # the token alone
    [1.11, 0.87, 0.61, 0.37, 0.28, -0.0, -0.17, 0.0, -0.15],  # the row before
    [0.83, 0.44, 0.16, -0.01, -0.25, -0.15, -0.38, 0.0, 0.02],  # the row before that
]
LENGTHS = [-2.6, -2.09, -1.66, -1.72]
NOISE = (0.62, -1.11)
"""By T g, with g a token's noise and T the temperature, where they are known; and by T², since what is drawn is less
often what ranks high."""
