"""A server under load, for real: the engine answers recorded requests with the model. Only its passes take time.

A run has a clock of its own, which stands still between passes, and skips the time in which nobody waits. So several
ways to serve can take turns, pass by pass, on one machine: each meets the machine as fast as the others do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from experiments._serving import Arrival, MakePace, Served
from experiments._texts import Text
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Drafter, Needs
from specdec.engine.limits import DraftLimits
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.models.loading import LoadedModel
from specdec.policy.base import Policy


class RealServer:
    """One engine, as `experiments._serving.Server`.

    Args:
        loaded: the model that said the recorded texts.
        drafter: one that needs nothing of the target.
        policy: how much is drafted.
        pace: how large passes are.
        config: sizes.
    """

    def __init__(
        self, loaded: LoadedModel, drafter: Drafter, policy: Policy, pace: MakePace, config: EngineConfig
    ) -> None:
        self._generator = SpeculativeGenerator(loaded, drafter, rule="greedy", policy=policy, config=config)
        self._engine = self._generator.engine
        limits = DraftLimits([(drafter, Needs())])
        self._engine.scheduler.pace = pace(self._engine.cache, limits, config.max_batch_tokens, lambda: self.now)
        self._before = 0.0  # the present pass
        self._began: float | None = None
        self._texts: dict[int, Text] = {}
        self._first: dict[int, float] = {}

    @property
    def now(self) -> float:
        """Seconds by this server's own clock."""
        return self._before + (perf_counter() - self._began if self._began is not None else 0.0)

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[list[Served]]:
        """All requests; after each pass those that ended with it.

        Raises:
            AssertionError: if a text is not the recorded one.
        """
        coming = deque(sorted(arrivals, key=lambda one: one.at))
        with self._generator:
            while coming or self._engine.has_work:
                if not self._engine.has_work:
                    self._before = max(self._before, coming[0].at)
                while coming and coming[0].at <= self.now:
                    self._take_in(coming.popleft())
                outputs = self._step()
                for output in outputs:
                    self._first.setdefault(output.request.id, self.now)
                yield [self._served(output.request) for output in outputs if output.finish_reason is not None]

    def _take_in(self, arrival: Arrival) -> None:
        params = SamplingParams(max_tokens=len(arrival.text.answer), temperature=0, ignore_eos=True)
        request = self._engine.make_request(list(arrival.text.prompt), params)
        request.made = arrival.at
        self._texts[request.id] = arrival.text
        self._engine.add(request)

    def _step(self) -> list[StepOutput]:
        """The clock runs meanwhile."""
        self._began = perf_counter()
        try:
            return self._engine.step()
        finally:
            self._before, self._began = self.now, None

    def _served(self, request: Request) -> Served:
        assert tuple(request.output) == self._texts.pop(request.id).answer, "The model does not say what was recorded."
        first = self._first.pop(request.id)
        return Served(request.made, first, self.now, request.stats.output_tokens, request.stats.passes)


def in_turns(servers: Mapping[str, RealServer], arrivals: Sequence[Arrival]) -> dict[str, list[Served]]:
    """The same requests for each server. The next pass is always that of the server whose clock is furthest behind.

    Returns:
        Name of the server → its requests, in the order in which they end.
    """
    runs = {name: server.run(arrivals) for name, server in servers.items()}
    served: dict[str, list[Served]] = {name: [] for name in servers}
    while runs:
        name = min(runs, key=lambda one: servers[one].now)
        if (ended := next(runs[name], None)) is None:
            del runs[name]
        else:
            served[name] += ended
    return served
