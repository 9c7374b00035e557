"""Who begins next of those that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from specdec.engine.request import Request

LOOKED_AT = 32
"""So many of those that wait are compared, the first ones: to look for all would take longer than it saves."""
MOST_OVERTAKEN = 64
"""So many younger requests may begin before a request does."""


def choose(waiting: Sequence[Request], found: Callable[[Request], int]) -> Request:
    """The request that finds most of its tokens in the cache; of equals the first one (Zheng et al. 2023, section 3.2).

    What is served one after the other then shares most, and is in the cache while it is wanted: for a batch of requests
    it is a walk through the tree of their beginnings, branch by branch, which computes each of them once, if the cache
    holds the longest of the requests (their theorem 3.1).

    That alone lets a request wait for ever whose text nobody shares. So one that was overtaken `MOST_OVERTAKEN` times
    goes first, and one that has lost its place in the cache does so before all.

    Args:
        waiting: at least one, in order of arrival behind those that have lost their places.
        found: how many tokens of a request are in the cache.
    """
    if waiting[0].stats.preemptions or len(waiting) == 1:
        return waiting[0]
    for request in waiting:
        if request.overtaken >= MOST_OVERTAKEN:
            return request
    return max(islice(waiting, LOOKED_AT), key=found)


def overtake(waiting: Sequence[Request], chosen: Request) -> None:
    """Notes that `chosen` begins before the others that stand in front of it."""
    for request in waiting:
        if request is chosen:
            return
        request.overtaken += 1
