"""specdec behind NVIDIA's Triton Inference Server: writes a model repository and starts the real tritonserver on it.

python -m experiments.triton_repository [out=build/triton] [target=MODEL] [drafter=served] [served=ngram] [rule=auto]
    [dtype=float32] [home=.venv-triton]

`drafter` is the target's: a name, or "served" for the drafter that the model `drafter` runs, which `served` names.
The server comes from PyPI, into the environment `home`, once. With home=null it is not started: the repository is all.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments._triton.repository import write
from experiments._triton.server import HOME, TritonServer
from experiments._words import Makers, or_none, parsed, several
from specdec.errors import SpecdecError

WORDS: Makers = {
    **several(("target", "drafter", "served", "rule", "dtype"), str),
    "out": Path,
    "home": or_none(Path),
}


def main(words: Sequence[str]) -> None:
    """Writes, starts, and serves until a signal comes."""
    options = parsed(words, WORDS)
    out, home = options.pop("out", Path("build/triton")), options.pop("home", HOME)
    write(out, **options)
    print(f"The models are in {out}.")
    if home is None:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with TritonServer(out, home, log=out.with_suffix(".log")) as server:
        print(f"HTTP at {server.url}, gRPC at {server.grpc}, metrics at {server.metrics_url}, log in {server.log}.")
        print("Ctrl-C ends the server.", flush=True)
        with suppress(KeyboardInterrupt):
            sys.exit(f"The server has ended with code {server.process.wait()}. Its log is {server.log}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SpecdecError as error:
        sys.exit(str(error))
