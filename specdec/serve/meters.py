"""Counters and gauges for Prometheus, under the names that vLLM gives them, so that others' tools read them. What vLLM
has no name for begins with specdec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from specdec.engine import Engine
from specdec.engine.goals import Goals
from specdec.engine.outputs import StepOutput
from specdec.stats import NOBODY

SECONDS = tuple(float(f"{10 ** (step / 6):.2g}") for step in range(-18, 16))
"""Bounds of buckets, from a millisecond to five minutes: six a decade, so that a quantile is known to about a fifth."""
Metric = TypeVar("Metric", Counter, Gauge)
LABELS = ("model_name", "engine")
OWN_ENDS = ("stop", "length")
"""Ways to end by which a request is held to its goals: not those of requests that failed or that nobody wanted."""


@dataclass
class Times:
    """When a request came, and when its first and its last tokens were there, in seconds by one clock.

    Args:
        queued: when it came.
        last: the same, until it has tokens.
        first: None, until it has tokens.
    """

    queued: float
    last: float
    first: float | None = None


class Meters:
    """What a server counts. Written in one thread.

    α is accepted / draft tokens, and the share accepted at a position is the position's count / drafts. τ is the sum of
    `specdec_drafter_tokens` / the sum of `specdec_drafter_steps`; vLLM's, of steps with a draft alone, is
    1 + accepted tokens / drafts.

    Args:
        engine: whose queue and cache are shown, and whose goals are held against what requests get.
        model: label of every figure.
        number: of the engine, another one.
    """

    def __init__(self, engine: Engine, model: str, number: int = 0) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model, str(number))
        self._drafts = self._counter("vllm:spec_decode_num_drafts", "Drafts that were verified.")
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Draft tokens that were verified.")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Draft tokens that were accepted.")
        self._accepted_at = self._counters(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens that were accepted, by their position in the draft.",
            "position",
        )
        drafters = (NOBODY, *(drafter.name for drafter in engine.drafters))
        self._steps = self._counters(
            "specdec_drafter_steps", "Steps, by the drafter whose draft was verified.", "drafter", drafters
        )
        self._given = self._counters(
            "specdec_drafter_tokens", "Tokens that these steps gave, by drafter.", "drafter", drafters
        )
        self._prompt = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("vllm:generation_tokens", "Tokens that were generated.")
        self._looked_up = self._counter("vllm:prefix_cache_queries", "Tokens of prompts, looked up in the cache.")
        self._found = self._counter("vllm:prefix_cache_hits", "Tokens of prompts that were found in the cache.")
        self._preempted = self._counter("vllm:num_preemptions", "Requests that lost their place in the cache.")
        self._refused = self._counter("specdec_refused_texts", "Texts refused with 429: too many ran or waited.")
        self._success = self._counters("vllm:request_success", "Requests that ended.", "finished_reason")
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Between the outputs of two steps.")
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", "From the first token to the last, for each token after the first."
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "Until a request ended.")
        self._watch(engine)
        self._goals = _each(engine.config.goals)
        if self._goals:
            self._judge(engine.config.goals)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)

    def refused(self, count: int) -> None:
        """So many texts were refused, because as many as may ran or waited already."""
        self._refused.inc(count)

    def gained(self, output: StepOutput, times: Times, now: float) -> None:
        """A request gained tokens.

        Args:
            output: what.
            times: of the request; they are brought up to date.
            now: seconds.
        """
        (self._first if times.first is None else self._between).observe(now - times.last)
        times.first, times.last = times.first or now, now
        self._generated.inc(len(output.token_ids))
        self._of(self._steps, output.drafter).inc()
        self._of(self._given, output.drafter).inc(len(output.token_ids))
        if len(output.draft):
            self._drafts.inc()
            self._drafted.inc(len(output.draft))
            self._accepted.inc(len(output.path))
            for position in range(len(output.path)):
                self._of(self._accepted_at, str(position)).inc()

    def ended(self, output: StepOutput, times: Times, now: float) -> None:
        """A request ended, which gained what it gained at these times."""
        stats = output.request.stats
        self._of(self._success, str(output.finish_reason)).inc()
        self._prompt.inc(stats.prompt_tokens)
        self._looked_up.inc(stats.prompt_tokens)
        self._found.inc(stats.cached_tokens)
        self._preempted.inc(stats.preemptions)
        self._whole.observe(now - times.queued)
        if times.first is None:
            return
        tokens = len(output.request.output)
        if tokens > 1:
            self._per_token.observe((times.last - times.first) / (tokens - 1))
        if self._goals and output.finish_reason in OWN_ENDS:
            self._judged.inc()
            for name, goal in self._goals.items():
                self._of(self._met, name).inc(goal.met(times.queued, times.first, times.last, tokens))

    def _watch(self, engine: Engine) -> None:
        """Gauges that look at the engine whenever they are read."""
        scheduler, cache = engine.scheduler, engine.cache
        self._gauge("num_requests_running", "Requests that run.").set_function(lambda: len(scheduler.running))
        self._gauge("num_requests_waiting", "Requests that wait.").set_function(lambda: len(scheduler.waiting))
        self._gauge("kv_cache_usage_perc", "Share of the cache's blocks that requests hold.").set_function(
            lambda: 1 - cache.num_free_blocks / cache.num_blocks
        )

    def _judge(self, goals: Goals) -> None:
        """Counters of goals that were met, and gauges of the goals themselves."""
        self._judged = self._counter("specdec_goal_requests", "Requests that came to their own end, held to the goals.")
        self._met = self._counters("specdec_goal_met", "Of those: met this goal, or all of them.", "goal", self._goals)
        told = Gauge("specdec_goal_seconds", "What a goal asks for.", (*LABELS, "goal"), registry=self._registry)
        for name, milliseconds in (("ttft", goals.ttft_ms), ("tpot", goals.tpot_ms)):
            if milliseconds is not None:
                self._of(told, name).set(1e-3 * milliseconds)

    def _of(self, family: Metric, value: str) -> Metric:
        """The one of a family that has this label."""
        return family.labels(*self._labels, value)

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(name, says, LABELS, registry=self._registry).labels(*self._labels)

    def _counters(self, name: str, says: str, label: str, known: Iterable[str] = ()) -> Counter:
        """One for each value of a label; those that are known are told before they count."""
        made = Counter(name, says, (*LABELS, label), registry=self._registry)
        for value in known:
            self._of(made, value)
        return made

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(f"vllm:{name}", says, LABELS, registry=self._registry).labels(*self._labels)

    def _histogram(self, name: str, says: str) -> Histogram:
        made = Histogram(f"vllm:{name}", says, LABELS, buckets=SECONDS, registry=self._registry)
        return made.labels(*self._labels)


def _each(goals: Goals) -> dict[str, Goals]:
    """Each goal alone, and all of them; nothing if there is none."""
    alone = {"ttft": Goals(ttft_ms=goals.ttft_ms), "tpot": Goals(tpot_ms=goals.tpot_ms), "all": goals}
    return {name: goal for name, goal in alone.items() if goal}
