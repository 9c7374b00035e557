"""Loads models that it is told of, one a line, and says how each ended. Run as a process of its own: it may die.

It limits itself: memory and processor time beyond what a sound model could need end it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

MEMORY = 5 * 2**29
"""Bytes of addresses beyond those of the libraries; a cache alone may take one GiB."""
SECONDS = 10.0
"""Of the processor, for one model."""


def main() -> None:
    """Reads paths from stdin, writes a JSON object for each to the descriptor that stdout was.

    The first argument is a sound model, loaded once before anything is limited.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")

    import torch

    from specdec.measure.summary import peak_host_memory

    torch.set_num_threads(1)
    assert outcome(sys.argv[1])["how"] == "ok"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = outcome(line.rstrip("\n"))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer["peak"] = peak_host_memory()
        print(json.dumps(answer), file=answers, flush=True)


def outcome(path: str) -> dict[str, Any]:
    """Four tokens of a text and four of a chat, greedily: "ok", "refused" by an error of ours, or "raw"."""
    from specdec import SamplingParams, SpeculativeGenerator
    from specdec.errors import SpecdecError

    params = SamplingParams(max_tokens=4)
    try:
        with SpeculativeGenerator.from_pretrained(path) as generator:
            generator.generate("a b ab c", params)
            if generator.tokenizer.chat_template:
                generator.generate([{"role": "user", "content": "a b"}], params)
    except SpecdecError as error:
        return {"how": "refused", "type": type(error).__name__, "message": str(error)}
    except BaseException as error:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {"how": "raw", "type": type(error).__name__, "message": f"{error} ({where})"[:300]}
    return {"how": "ok", "type": "", "message": ""}


if __name__ == "__main__":
    main()
