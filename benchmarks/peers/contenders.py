"""Who takes part, and how each one is told to decode."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-peers"
"""Environments of the peers, their model files, and their logs."""
MODELS = HOME / "models"
WORKERS = Path(__file__).parent / "workers"
OURS = "ours"
PEERS = ("transformers", "llamacpp", "openvino", "vllm", "onnxruntime")


class Named(Protocol):
    """A contender of any comparison."""

    @property
    def engine(self) -> str:
        """Ours or a peer's."""

    @property
    def name(self) -> str:
        """Key in reports."""


C = TypeVar("C", bound=Named)


BITS = {"bf16": 16, "int8": 8, "q8_0": 8, "int4": 4, "gguf": 4, "q4_0": 4, "q4_1": 4}
"""Bits of the weights, but for scales, and for embedding and head, which have 8 where the others have 4."""


@dataclass(frozen=True)
class Contender:
    """One way to decode.

    Args:
        engine: "ours" or a peer.
        mode: "plain"; "ngram", which every engine but ours and vLLM calls prompt lookup; of ours also "tables"
            (`suffix`, then `recycling`) and "head" (the trained head, then both). Ours size their drafts by cost.
        dtype: of the weights. "gguf" and "q4_1" are the blocks of the embedded file as they are.
        batched: can be given several prompts at once.
        num_draft_tokens: how many tokens a lookup copies. 5 is the default of ours, OpenVINO's and vLLM's examples;
            llama.cpp's documentation recommends 2 on a CPU.
    """

    engine: str
    mode: str
    dtype: str
    batched: bool = False
    num_draft_tokens: int = 5

    @property
    def name(self) -> str:
        """Key of the contender in reports."""
        return f"{self.engine}-{self.mode}-{self.dtype}"

    @property
    def plain(self) -> str:
        """Name of the same engine without speculation."""
        return f"{self.engine}-plain-{self.dtype}"

    @property
    def bits(self) -> int:
        """Its class: only those of one class are compared at equal precision."""
        return BITS[self.dtype]

    @property
    def command(self) -> list[str]:
        """Starts the worker in the engine's environment."""
        python = sys.executable if self.engine == OURS else str(python_of(self.engine))
        return [python, str(WORKERS / f"run_{self.engine}.py")]


CONTENDERS = (
    *(
        Contender(OURS, mode, dtype, True)
        for dtype in ("bf16", "int8")
        for mode in ("plain", "ngram", "tables", "head")
    ),
    *(Contender(OURS, mode, "gguf", True) for mode in ("plain", "ngram", "tables", "head")),
    *(Contender(OURS, mode, "int4", True) for mode in ("plain", "tables")),
    *(Contender("transformers", mode, "bf16") for mode in ("plain", "ngram")),
    *(
        Contender("llamacpp", mode, dtype, num_draft_tokens=2)
        for dtype in ("bf16", "q8_0", "q4_0", "q4_1")
        for mode in ("plain", "ngram")
    ),
    *(Contender("openvino", mode, dtype) for dtype in ("bf16", "int8", "int4") for mode in ("plain", "ngram")),
    *(Contender("vllm", mode, dtype, True) for dtype in ("bf16", "int8") for mode in ("plain", "ngram")),
    Contender("onnxruntime", "plain", "int4"),
)
FLAGS = {
    OURS: "bfloat16 cache; no prefix cache",
    "transformers": "`generate`, bfloat16",
    "llamacpp": "compiled for this processor; repacks weights where it has kernels for that; lookup of 2 tokens",
    "openvino": "bfloat16 arithmetic and cache; weights compressed by NNCF (8 bits by row, 4 bits by groups of 32, "
    "both asymmetric); lookup of 5 tokens",
    "vllm": "threads bound to cores, Intel's OpenMP, compiled; int8 is W8A8 (rows, tokens), the head in bfloat16; "
    "ngram of 5 tokens",
    "onnxruntime": "GenAI's model builder, blocks of 32, 8-bit activations (accuracy level 4); it has no lookup",
}
"""How each engine is set up."""
BASELINE = CONTENDERS[0].name
"""Runs beside the contenders of every class."""


def environment(engine: str, threads: int) -> dict[str, str]:
    """What an engine is told by variables: the threads, and what its own documentation recommends."""
    general = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if engine != "vllm":
        return general
    libraries = [str(path) for path in (HOME / "vllm" / "lib").glob("libiomp5.so")]
    libraries += filter(None, [find_library("tcmalloc_minimal")])  # Debian's libtcmalloc-minimal4, if it is there
    return general | {
        "LD_PRELOAD": ":".join(libraries),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads])),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and front end in one process, as with the others
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(HOME / "vllm-cache"),  # what it has compiled
    }


def python_of(peer: str) -> Path:
    """Interpreter of a peer's environment."""
    return HOME / peer / "bin" / "python"


def chosen(names: Iterable[str] | None) -> list[Contender]:
    """As `named`, of `CONTENDERS`."""
    return named(names, CONTENDERS, (OURS, *PEERS))


def named(names: Iterable[str] | None, contenders: Sequence[C], engines: Iterable[str]) -> list[C]:
    """The contenders of these names; an engine's name stands for all of its contenders, None for all there are.

    Raises:
        ValueError: for a name that fits none.
    """
    if names is None:
        return list(contenders)
    wanted = set(names)
    valid = {contender.name for contender in contenders} | {*engines}
    if unknown := sorted(wanted - valid):
        raise ValueError(f"There is no contender {unknown[0]!r}. Valid names: {', '.join(sorted(valid))}.")
    return [contender for contender in contenders if {contender.name, contender.engine} & wanted]
