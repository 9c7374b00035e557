"""What every worker does beside its engine: one JSON object a line, in and out. Needs the standard library only.

The settings come as the first argument. When the engine is loaded, the versions go out. From then on every request,
{"prompts": [token ids], "max_tokens": n}, is answered by {"outputs": [token ids], "seconds": of the engine's call}, and
{"text": token ids} by {"losses": of each token but the first}, and {"forget": true} by {}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from time import perf_counter
from typing import Any, NamedTuple

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, max_tokens) → new tokens of each prompt, greedy."""
Losses = Callable[[list[int]], list[float]]
"""Text → -log p of each of its tokens but the first, in nats."""


class Engine(NamedTuple):
    """What an engine is asked for."""

    generate: Generate
    losses: Losses
    forget: Callable[[], None] = lambda: None
    """No later request may gain from what is known of earlier ones: the same prompts come again."""


def serve(load: Callable[[dict[str, Any]], Engine], packages: list[str]) -> None:
    """Answers requests until the parent closes the pipe.

    Args:
        load: settings → the engine.
        packages: whose versions are reported.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # engines print as they like; that must not get between the answers
    engine = load(json.loads(sys.argv[1]))
    print(json.dumps({"versions": {name: version(name) for name in packages}}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if "forget" in request:
            engine.forget()
            print("{}", file=answers)
            continue
        if "text" in request:
            print(json.dumps({"losses": engine.losses(request["text"])}), file=answers)
            continue
        began = perf_counter()
        outputs = engine.generate(request["prompts"], request["max_tokens"])
        seconds = perf_counter() - began
        print(json.dumps({"outputs": outputs, "seconds": seconds}), file=answers)
