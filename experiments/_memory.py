"""Does a server grow? Its resident memory while it answers thousands of short requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import sqrt
from statistics import fmean
from typing import Any

import httpx
import psutil

from experiments._guests import PATH
from specdec.testing.server import ServerProcess

CLIENTS = 8
SAMPLES = 40
FRESH = httpx.Limits(max_keepalive_connections=0)
"""A connection for each request."""


def memory(server: ServerProcess, requests: int) -> dict[str, Any]:
    """Resident memory after every 40th of the requests, each of another text.

    Returns:
        requests, every: how many, and between two samples; mebibytes: the samples; slope, error: bytes a request over
        the second half, by least squares, and its standard error.
    """
    process, every = psutil.Process(server.process.pid), max(requests // SAMPLES, 1)
    places, samples = list(range(every, requests + 1, every)), list[int]()

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=FRESH) as http:
            for start in range(0, len(places) * every, every):
                await asyncio.gather(
                    *(_ask(http, range(start + one, start + every, CLIENTS)) for one in range(CLIENTS))
                )
                samples.append(process.memory_info().rss)

    asyncio.run(run())
    half = len(samples) // 2
    slope, error = line(places[half:], samples[half:])
    mebibytes = [round(one / 2**20, 2) for one in samples]
    return {"requests": requests, "every": every, "mebibytes": mebibytes, "slope": slope, "error": error}


async def _ask(http: httpx.AsyncClient, numbers: Sequence[int]) -> None:
    """One after the other."""
    for number in numbers:
        body = {"prompt": f"{number} is a number, and {number * 7919 % 10007} is", "max_tokens": 1 + number % 4,
                "seed": number, "stream": bool(number % 2)}  # fmt: skip
        (await http.post(PATH, json=body)).raise_for_status()


def line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope of the line of least squares, and its standard error; of three points or more."""
    x, y = fmean(xs), fmean(ys)
    spread = sum((one - x) ** 2 for one in xs)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread
    rest = sum((b - y - slope * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    return slope, sqrt(rest / (len(xs) - 2) / spread)
