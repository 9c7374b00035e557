"""A server under load, for real: recorded requests come by the clock, and the engine answers them with the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep

from experiments._serving import Arrival, MakePace, Served
from experiments._texts import Text
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Drafter, Needs
from specdec.engine.limits import DraftLimits
from specdec.engine.request import Request
from specdec.models.loading import LoadedModel
from specdec.policy.base import Policy


@dataclass(eq=False)
class _Asked:
    text: Text
    first: float | None = None


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
        self._engine.scheduler.pace = pace(self._engine.cache, limits, config.max_batch_tokens, perf_counter)

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[Served]:
        """All requests, in the order in which they end; seconds from the beginning.

        Raises:
            AssertionError: if a text is not the recorded one.
        """
        coming, asked = deque(sorted(arrivals, key=lambda one: one.at)), dict[int, _Asked]()
        with self._generator:
            began = perf_counter()
            while coming or self._engine.has_work:
                while coming and coming[0].at <= perf_counter() - began:
                    arrival = coming.popleft()
                    asked[self._take_in(arrival, began)] = _Asked(arrival.text)
                if not self._engine.has_work:
                    sleep(max(began + coming[0].at - perf_counter(), 0.0))
                    continue
                for output in self._engine.step():
                    now, one = perf_counter() - began, asked[output.request.id]
                    one.first = now if one.first is None else one.first
                    if output.finish_reason is not None:
                        yield _served(output.request, began, one, now)

    def _take_in(self, arrival: Arrival, began: float) -> int:
        params = SamplingParams(max_tokens=len(arrival.text.answer), temperature=0, ignore_eos=True)
        request = self._engine.make_request(list(arrival.text.prompt), params)
        request.made = began + arrival.at
        self._engine.add(request)
        return request.id


def _served(request: Request, began: float, one: _Asked, now: float) -> Served:
    assert tuple(request.output) == one.text.answer, "The model does not say what was recorded."
    assert one.first is not None
    return Served(request.made - began, one.first, now, request.stats.output_tokens, request.stats.passes)
