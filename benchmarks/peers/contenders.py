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
PEERS = ("transformers", "llamacpp", "openvino", "vllm")


class Named(Protocol):
    """A contender of any comparison."""

    @property
    def engine(self) -> str:
        """Ours or a peer's."""

    @property
    def name(self) -> str:
        """Key in reports."""


C = TypeVar("C", bound=Named)


@dataclass(frozen=True)
class Contender:
    """One way to decode.

    Args:
        engine: "ours" or a peer.
        mode: "plain" or "ngram", which every engine but ours and vLLM calls prompt lookup.
        dtype: of the weights.
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
    def command(self) -> list[str]:
        """Starts the worker in the engine's environment."""
        python = sys.executable if self.engine == OURS else str(python_of(self.engine))
        return [python, str(WORKERS / f"run_{self.engine}.py")]


CONTENDERS = (
    Contender(OURS, "plain", "bf16", batched=True),
    Contender(OURS, "ngram", "bf16", batched=True),
    Contender(OURS, "plain", "int8", batched=True),
    Contender(OURS, "ngram", "int8", batched=True),
    Contender("transformers", "plain", "bf16"),
    Contender("transformers", "ngram", "bf16"),
    Contender("llamacpp", "plain", "bf16"),
    Contender("llamacpp", "plain", "q8_0"),
    Contender("llamacpp", "ngram", "bf16", num_draft_tokens=2),
    Contender("openvino", "plain", "bf16"),
    Contender("openvino", "ngram", "bf16"),
    Contender("vllm", "plain", "bf16", batched=True),
    Contender("vllm", "ngram", "bf16", batched=True),
)
BASELINE = CONTENDERS[0].name


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
