"""`specdec serve` beside vLLM's and llama.cpp's servers, under the load of aiperf; and what tools see of our drafts.

python -m benchmarks.serve [--data FILE --every 12] [--requests 16] [--rounds 3] [--max-tokens 64] [--clients 1,8]
    [--rates 1] [--goal-ttft-ms 1000] [--goal-itl-ms 50] [--contenders ours,vllm-plain] [--json FILE] [--markdown FILE]

aiperf, vLLM and llama.cpp are installed into environments of their own (`benchmarks.peers.install`). Every server is a
process with its weights loaded at a port of this machine. Only the one that is asked runs, and aiperf beside it: the
client's share of the processors is told. A closed loop asks again when it is answered. An open one asks at random times
of a stated rate, answered or not. In every round each server gets each load, with the same prompts and the same seed of
arrivals; the order changes. At the end `vllm bench serve` asks our servers that draft. What a tool says of drafts is
compared with the server's counters.

A server or a tool that cannot be installed, or that fails on the way, is reported as such and the others go on.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import WorkerError
from benchmarks.serve.contenders import MODEL, Limits, chosen
from benchmarks.serve.load import Goals, Load
from benchmarks.serve.session import Plan, compare
from benchmarks.serve.table import markdown
from specdec.measure.environment import command, machine
from specdec.measure.results import save
from specdec.prompts import load_prompts


def arguments() -> argparse.Namespace:
    """The command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    def clients(text: str) -> list[Load]:
        return [Load(clients=int(number)) for number in filter(None, text.split(","))]

    def rates(text: str) -> list[Load]:
        return [Load(rate=float(number)) for number in filter(None, text.split(","))]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="JSON lines; the four shipped prompts if left out")
    parser.add_argument("--every", type=int, default=1, help="only every N-th prompt: a sample with the file's mixture")
    parser.add_argument("--requests", type=int, default=Plan.requests, help="of a run")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--max-tokens", type=int, default=Plan.max_tokens)
    parser.add_argument("--clients", type=clients, default="1,8", help="of closed loops, with commas")
    parser.add_argument("--rates", type=rates, default="1", help="of open loops, requests per second, with commas")
    parser.add_argument("--goal-ttft-ms", type=float, default=Goals.ttft_ms)
    parser.add_argument("--goal-itl-ms", type=float, default=Goals.itl_ms)
    parser.add_argument("--contenders", type=names, help="contenders or engines, with commas; all if left out")
    parser.add_argument("--threads", type=int, default=Limits.threads, help="of each server")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measures; says why it cannot."""
    try:
        measure(arguments())
    except (ValueError, WorkerError) as error:
        sys.exit(str(error))


def measure(args: argparse.Namespace) -> None:
    """After every round it prints, and writes what was asked for, so that a long run may be cut short.

    Raises:
        ValueError, WorkerError: if it cannot be done.
    """
    load = os.getloadavg()[0]  # of the last minute, before any of ours adds to it
    goals = Goals(args.goal_ttft_ms, args.goal_itl_ms)
    plan = Plan((*args.clients, *args.rates), args.rounds, args.requests, args.max_tokens, goals)
    limits = Limits(threads=args.threads)
    prompts = [record.prompt for record in load_prompts(args.data)[:: args.every]]
    about: dict[str, Any] = {"model": MODEL, "load": load, **asdict(limits), **asdict(plan)}

    def keep(found: dict[str, Any]) -> None:
        text = markdown(about | found)
        print(machine(), "", text, sep="\n", flush=True)
        save(args.json, "benchmarks.serve", found, **about)
        if args.markdown is not None:
            head = f"## Servers\n\n`{command('benchmarks.serve')}`; {machine()}."
            args.markdown.write_text(f"{head}\n\n{text}", encoding="utf-8")

    compare(chosen(args.contenders), prompts, limits, plan, keep)


if __name__ == "__main__":
    main()
