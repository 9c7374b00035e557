"""What goes wrong around a server, tried again and again: who loses what, and does it answer afterwards as before?

python -m experiments.faults [tries=20] [requests=20000] [model=FOLDER] [results=docs/results/faults.json]
    [markdown=docs/serving.md]

`specdec serve` runs in a process of its own on a tiny random model, or on `model`. Beside every fault requests
run whose tokens and log-probabilities are known from the Python API. Then the server must hold nothing, and give the
same answers again. Where `results` is there already, only the faults that it lacks are tried, and the memory again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments._faults import Fault, crowd, harm, leave_a_stream, leave_before_the_answer, nothing, overflow
from experiments._guests import Fate, Guest, Known, known
from experiments._memory import memory
from experiments._results import publish
from experiments._words import Makers, parsed, several
from specdec.errors import ConfigError
from specdec.measure.markdown import table
from specdec.measure.results import read
from specdec.testing.server import POLL, ServerProcess
from specdec.testing.tiny import save

HEAD = "## Faults\n"
TOKENS = 12
"""Of the shortest known text."""
LATE_TOKENS = 200
"""Of those that a signal interrupts."""
BLOCKS = 2048
SECONDS = 600
"""That an answer may take on a busy machine."""
OPTIONS = ("name=tiny", "device.threads=1", "policy=always", f"engine.num_blocks={BLOCKS}", "max_waiting=24")
FULL = Path("/dev/full")
"""A file to which nothing can be written, since its disk is full."""
FAULTS: dict[str, tuple[Fault, Path | None]] = {
    "clients leave their streams": (leave_a_stream, None),
    "clients leave before their answer": (leave_before_the_answer, None),
    "more calls than places (429)": (crowd, None),
    "bodies, prompts and lists too large": (overflow, None),
    "hostile neighbours: huge biases, bad grammars, broken UTF-8": (harm, None),
    "the disk of the log is full": (nothing, FULL),
}
"""Name → what is done, and the file that the log goes to."""
SIGNALS = {"SIGTERM under load": signal.SIGTERM, "SIGKILL under load": signal.SIGKILL}
REPLICA = "SIGKILL of a replica under load"
Tally = Counter[str]
"""Counts: tries, beside, lost, other, broken, leaked, after."""


def of_bytes() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the bytes, and an end token. It keeps nothing: a BPE model would keep 10,000 words
    for each thread that encodes, which is all that a server's memory then shows."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|end|>"]
    made = Tokenizer(models.WordLevel({piece: token for token, piece in enumerate(pieces)}, unk_token=pieces[-1]))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.Split(Regex("."), "isolated"),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=pieces[-1])


@contextmanager
def guest(server: ServerProcess) -> Iterator[Callable[[Callable[[Guest], Awaitable[Any]]], Any]]:
    """Runs coroutines that are given a client of the server."""
    with asyncio.Runner() as runner:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        http = httpx.AsyncClient(base_url=server.url, timeout=SECONDS, limits=limits)
        yield lambda do: runner.run(do(Guest(http)))
        runner.run(http.aclose())


async def all_fates(guest: Guest, texts: Sequence[Known], turn: int) -> list[Fate]:
    """Of all known requests at once; every other one is a stream."""
    return await asyncio.gather(*(guest.fate(one, bool((place + turn) % 2)) for place, one in enumerate(texts)))


async def settled(guest: Guest, server: ServerProcess) -> int:
    """Waits until nothing runs; blocks that requests hold all the same."""
    while True:
        found = await asyncio.to_thread(server.metrics)
        if not found["vllm:num_requests_running"] + found["vllm:num_requests_waiting"]:
            return round(found["vllm:kv_cache_usage_perc"] * BLOCKS)
        await asyncio.sleep(POLL)


def tried(fault: Fault, server: ServerProcess, texts: Sequence[Known], tries: int) -> Tally:
    """A fault that the server outlives."""
    tally = Tally()

    async def once(guest: Guest, turn: int) -> None:
        broken, fates = await asyncio.gather(fault(guest, turn), all_fates(guest, texts, turn))
        tally.update(tries=1, broken=broken, leaked=await settled(guest, server))
        _count(tally, fates)
        again = await all_fates(guest, texts, turn)
        tally["after"] += sum(fate is not Fate.SAME for fate in again)
        tally["broken"] += (await guest.http.get("/health")).status_code != 200

    with guest(server) as run:
        for turn in range(tries):
            run(lambda one, turn=turn: once(one, turn))
    return tally


def _count(tally: Tally, fates: Sequence[Fate]) -> None:
    tally.update(beside=len(fates), lost=fates.count(Fate.LOST), other=fates.count(Fate.OTHER))


def signalled(model: Path, number: signal.Signals, texts: Sequence[Known], tries: int) -> Tally:
    """A signal while all texts are streamed; then another server at the same address, which must give them again."""
    tally = Tally()
    server = ServerProcess(str(model), *OPTIONS)
    for turn in range(tries):
        with server, guest(server) as run:
            strike = partial(server.process.send_signal, number)
            fates = run(lambda one, strike=strike: interrupted(one, strike, texts))
            status = server.process.wait(SECONDS)
        tally["tries"] += 1
        tally["broken"] += status not in (0, -number)
        _count(tally, fates)
        server = ServerProcess(str(model), *OPTIONS, port=server.port)
        with guest(server) as run:
            again = run(lambda one, turn=turn: all_fates(one, texts, turn))
            tally["leaked"] += run(lambda one, server=server: settled(one, server))
        tally["after"] += sum(fate is not Fate.SAME for fate in again)
    server.kill()
    return tally


async def interrupted(guest: Guest, strike: Callable[[], None], texts: Sequence[Known]) -> list[Fate]:
    """Fates of requests that have begun when it strikes."""
    begun = [asyncio.Event() for _ in texts]
    running = asyncio.gather(*(guest.fate(one, True, event) for one, event in zip(texts, begun, strict=True)))
    await asyncio.gather(*(event.wait() for event in begun))
    strike()
    return await running


def replaced(server: ServerProcess, texts: Sequence[Known], tries: int) -> Tally:
    """SIGKILL of one replica after the other while all texts are streamed, and asked for whole. Streams may break that
    it has begun; what it has not begun to answer is asked of the other one. Another process takes its place."""
    tally = Tally()

    async def once(guest: Guest, turn: int) -> None:
        before = server.replicas()
        whole = [asyncio.ensure_future(guest.fate(one, False)) for one in texts]
        fates = await interrupted(guest, partial(os.kill, before[turn % len(before)], signal.SIGKILL), texts)
        unbroken = await asyncio.gather(*whole)
        _count(tally, [*fates, *unbroken])
        tally.update(tries=1, broken=sum(fate is Fate.LOST for fate in unbroken))
        while len(after := server.replicas()) < len(before) or after == before:
            await asyncio.sleep(POLL)
        again = await all_fates(guest, texts, turn)
        tally["after"] += sum(fate is not Fate.SAME for fate in again)
        tally["leaked"] += await settled(guest, server)

    with guest(server) as run:
        for turn in range(tries):
            run(lambda one, turn=turn: once(one, turn))
    return tally


def study(
    model: Path, tries: int, requests: int, before: Mapping[str, Mapping[str, int]] | None = None
) -> Iterator[dict[str, Any]]:
    """All faults, each so many times, and the memory after so many requests.

    Args:
        model: folder of the model.
        tries, requests: how many.
        before: faults that a run before found, which is gone on with.

    Yields:
        faults: name → tally, of those that have been tried; memory: see `experiments._memory`, None before the end.
    """
    texts, late = known(model, TOKENS), known(model, LATE_TOKENS)
    faults = {name: Counter(tally) for name, tally in (before or {}).items() if tally["tries"] == tries}
    for log in (None, FULL):
        left = [name for name, (_, where) in FAULTS.items() if where == log and name not in faults]
        if not left:
            continue
        with ServerProcess(str(model), *OPTIONS, log=log) as server:
            for name in left:
                faults[name] = tried(FAULTS[name][0], server, texts, tries)
                yield {"faults": faults, "memory": None}
    for name, number in SIGNALS.items():
        if name not in faults:
            faults[name] = signalled(model, number, late, tries)
            yield {"faults": faults, "memory": None}
    if REPLICA not in faults:
        with ServerProcess(str(model), *OPTIONS, "replicas=2", seconds=SECONDS) as server:
            faults[REPLICA] = replaced(server, late, tries)
            yield {"faults": faults, "memory": None}
    with ServerProcess(str(model), *OPTIONS) as server:
        yield {"faults": faults, "memory": memory(server, requests)}


def told(found: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [
        ["fault", "tries", "requests beside it", "lost", "other bits", "other answers than promised", "blocks leaked",
         "other bits afterwards"],
    ]  # fmt: skip
    keys = ("tries", "beside", "lost", "other", "broken", "leaked", "after")
    rows += [[name, *(str(tally.get(key, 0)) for key in keys)] for name, tally in found["faults"].items()]
    text = f"{table(rows)}\n"
    if SIGNALS.keys() & found["faults"].keys():
        text += (
            "\nSIGKILL may lose only the requests that run at that moment. After a signal the next server at the same "
            "address is asked.\n"
        )
    if REPLICA in found["faults"]:
        text += (
            "\nOf two replicas the killed one may lose only streams that it has begun. A call whose answer comes as "
            "a whole is never lost. When another process has taken its place, both are asked.\n"
        )
    if (grown := found["memory"]) is None:
        return text
    return text + (
        "\n{requests} short requests: the server's memory is {first:.0f} MiB after the first {every} and {last:.0f} "
        "MiB at the end. Over the second half it grows by {slope:.0f} ± {error:.0f} bytes a request (least squares, "
        "standard error). This model's tokenizer keeps nothing. A BPE tokenizer keeps up to 10,000 words for each "
        "thread that encodes (the cache of the `tokenizers` library): a server grows until those are full.\n"
    ).format(first=grown["mebibytes"][0], last=grown["mebibytes"][-1], **grown)


WORDS: Makers = several(("model", "results", "markdown")) | several(("tries", "requests"), int)


def main(words: Sequence[str]) -> None:
    """Tries all, prints, writes what was asked for."""
    options = parsed(words, WORDS)
    with tempfile.TemporaryDirectory() as folder:
        if (model := options.get("model")) is None:
            model = Path(folder) / "model"
            save(model, of_bytes(), max_context=2048)
        results = options.get("results")
        before = read(results)["results"]["faults"] if results and results.exists() else None
        for found in study(model, options.get("tries", 20), options.get("requests", 20_000), before):
            text = told(found)
            print(text, flush=True)
            publish("experiments.faults", words, options, found, text, HEAD)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
