"""What the drafters are told: of every pass, of requests that start anew, and of those that ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from specdec.drafters.base import Drafter, Needs, Outcome
from specdec.engine.faults import Contained, Faults


class Telling:
    """Tells the drafters, and knows which of them have lost track of a request because they raised an error then.

    Args:
        drafters: with what each of them asked to see.
        faults: where errors go.
    """

    def __init__(self, drafters: Sequence[tuple[Drafter, Needs]], faults: Faults) -> None:
        self._drafters = {drafter.name: (drafter, needs) for drafter, needs in drafters}
        self._leads = {drafter.name: drafter.lead for drafter, _ in drafters}
        self._listeners = [
            (name, *each) for name, each in self._drafters.items() if type(each[0]).observe is not Drafter.observe
        ]
        """Those that would take notice of an outcome."""
        self._faults = faults
        self._lost: set[tuple[str, int]] = set()
        self.given = Needs.together([needs for _, needs in drafters])
        """What they see of a pass, all together."""

    @property
    def heard(self) -> bool:
        """Whether any of them takes notice of outcomes."""
        return bool(self._listeners)

    @property
    def any_lost(self) -> bool:
        """Whether any has lost track of a request."""
        return bool(self._lost)

    def lost(self, name: str, request_id: int) -> bool:
        """Whether a drafter, or one that it drafts with, has lost track of a request. It is not asked for it again."""
        return any((each, request_id) in self._lost for each in (name, *self._drafters[name][0].parts))

    def observe(self, outcomes: Sequence[Outcome], seconds: dict[str, float]) -> None:
        """Tells of a pass.

        Args:
            outcomes: for all requests in it.
            seconds: what each drafter takes for it is added.
        """
        for name, drafter, needs in self._listeners:
            views = [
                one.shown_to(needs, self.given).told_to(name, self._leads)
                for one in outcomes
                if (name, one.request_id) not in self._lost
            ]
            if not views:
                continue
            began = perf_counter()
            with Contained(self._faults, name, "observe") as contained:
                drafter.observe(views)
            seconds[name] = seconds.get(name, 0.0) + perf_counter() - began
            if contained.failed:
                self._lose(drafter, [one.request_id for one in views])

    def forget(self, request_id: int) -> None:
        """The request lost its place in the cache, and will start anew."""
        self._tell_all(request_id, lambda drafter: drafter.forget(request_id))

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """The request ended with these tokens."""
        text = tuple(tokens)
        self._tell_all(request_id, lambda drafter: drafter.end(request_id, text))

    def _tell_all(self, request_id: int, tell: Callable[[Drafter], None]) -> None:
        """Tells every drafter that the request's state is gone, so that none is behind with it any more."""
        for name, (drafter, _) in self._drafters.items():
            with Contained(self._faults, name, "forget or end"):
                tell(drafter)
            self._lost.discard((name, request_id))

    def _lose(self, drafter: Drafter, request_ids: Sequence[int]) -> None:
        """The drafter's state of these requests is not to be trusted: it lets go of them."""
        for request_id in request_ids:
            self._lost.add((drafter.name, request_id))
            with Contained(self._faults, drafter.name, "forget"):
                drafter.forget(request_id)
