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
    [0.55, 0.05, -0.2, -0.42, -0.45, -0.66, -0.63, -0.62, -0.85],  # 1 token, row, another request
    [1.22, 1.04, 0.43, 0.24, -0.18, -0.32, -0.47, -0.49, -0.94],  # 1 token, row, own
    [0.44, 0.04, -0.16, -0.34, -0.36, -0.53, -0.5, -0.5, -0.68],  # 1 token, refused row, another request
    [0.98, 0.83, 0.34, 0.19, -0.14, -0.26, -0.38, -0.39, -0.75],  # 1 token, refused row, own
    [0.43, 0.46, -0.24, -0.29, -0.44, -0.52, -0.3, -0.35, -0.81],  # 1 token, prompt, another request
    [1.19, 0.48, 0.12, -0.09, -0.26, -0.4, -0.51, -1.12, -0.91],  # 1 token, prompt, own
    [1.42, 0.31, -0.02, -0.04, -0.21, -0.5, -0.5, -0.46, -0.97],  # 2 tokens, row, another request
    [1.68, -0.13, -0.19, -0.36, -0.23, -0.27, -0.52, -0.38, -1.39],  # 2 tokens, row, own
    [1.14, 0.25, -0.02, -0.03, -0.17, -0.4, -0.4, -0.37, -0.78],  # 2 tokens, refused row, another request
    [1.34, -0.1, -0.15, -0.29, -0.18, -0.22, -0.42, -0.3, -1.11],  # 2 tokens, refused row, own
    [0.68, 0.43, 0.66, 0.25, 0.18, -0.05, 0.06, -0.31, -0.79],  # 2 tokens, prompt, another request
    [1.66, 0.53, -0.18, -0.18, -0.18, -0.58, -1.55, -0.62, -1.05],  # 2 tokens, prompt, own
    [1.62, 0.59, 0.12, -0.21, -0.23, -0.17, -0.36, -0.46, -1.19],  # 3 tokens, row, another request
    [1.89, -0.87, -1.0, -1.13, -1.11, -1.57, -1.08, -1.62, -2.07],  # 3 tokens, row, own
    [1.3, 0.47, 0.1, -0.17, -0.18, -0.14, -0.29, -0.37, -0.95],  # 3 tokens, refused row, another request
    [1.51, -0.7, -0.8, -0.9, -0.89, -1.26, -0.86, -1.3, -1.66],  # 3 tokens, refused row, own
    [0.77, 0.84, 1.1, 1.24, 1.1, 0.2, -0.92, 0.48, -0.56],  # 3 tokens, prompt, another request
    [1.61, 0.54, 0.55, -0.1, -0.4, -0.2, 0.99, 0.84, -1.08],  # 3 tokens, prompt, own
    [0.02, -0.64, -0.64, -0.98, -0.98, -1.36, -1.37, -1.52, -1.68],  # the token alone
    [1.25, 0.9, 0.73, 0.54, 0.31, 0.19, 0.04, 0.0, -0.14],  # the row before
    [1.35, 0.96, 0.65, 0.49, 0.36, 0.38, 0.14, 0.0, 0.55],  # the row before that
]
LENGTHS = [-2.86, -2.45, -1.98, -1.85]
