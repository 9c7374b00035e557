"""How requests leave an engine, and how all of them begin anew.

These are functions of its parts. What holds the engine itself keeps its cache alive until Python looks for cycles.
"""

from __future__ import annotations

from specdec.engine.drafting import Drafting
from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduler
from specdec.engine.settling import Settling
from specdec.kernels.cpu.threads import end_blocks


def forget(drafting: Drafting, request: Request) -> None:
    """The request lost its place in the cache."""
    drafting.forget(request.id)


def finish(scheduler: Scheduler, drafting: Drafting, request: Request) -> None:
    """Frees everything that a request holds."""
    scheduler.finish(request)
    drafting.end(request.id, request.tokens)


def restore(settling: Settling, scheduler: Scheduler, drafting: Drafting) -> None:
    """Requests begin anew from their tokens; the one that was being written ends, and those that had ended go."""
    end_blocks()
    settling.restore()
    scheduler.restart()
    for request in scheduler.live:
        if request.finished:
            finish(scheduler, drafting, request)
        else:
            drafting.forget(request.id)
