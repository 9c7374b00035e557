"""Which replica answers a call: the one that has answered calls with the same beginning, and so holds its keys and
values, unless it has much more to do than another."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Any

BEGINNING = 256
"""Characters of a prompt that calls must have in common to go to one replica: a few blocks of the cache."""
MOST_AHEAD = 8
"""Calls that a replica may run more than the least busy one, and still be asked for the sake of its cache."""


def beginning(body: bytes) -> str:
    """The beginning of what a call asks. It is empty if the call asks nothing that can be read: then its refusal is the
    same everywhere.

    Args:
        body: of /v1/chat/completions, /v1/completions or /tokenize.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(call, dict):
        return ""
    salt = call.get("cache_salt")
    return f"{salt}\0{_written(call.get('messages', call.get('prompt')))[:BEGINNING]}"


def _written(asked: Any) -> str:
    """Text, token ids or messages as text that begins alike if they do."""
    return asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)


def ranked(key: str, running: Sequence[int], down: Collection[int] = ()) -> list[int]:
    """All replicas, the one to be asked first.

    Rendezvous hashing (Thaler and Ravishankar 1998): each replica has a score for each key, and the largest wins. If
    one is lost, only its own keys go elsewhere.

    Args:
        key: beginning of a call.
        running: calls that each replica has to do.
        down: those that cannot be asked now; they come last.
    """
    free = min((calls for index, calls in enumerate(running) if index not in down), default=0)

    def place(index: int) -> tuple[bool, bool, int, int]:
        busy = running[index] - free > MOST_AHEAD
        score = int.from_bytes(blake2b(f"{index}\0{key}".encode(errors="replace"), digest_size=8).digest(), "big")
        return index in down, busy, running[index] if busy else 0, -score

    return sorted(range(len(running)), key=place)
