"""Counters and gauges for Prometheus, under the names that vLLM gives them, so that others' tools read them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from specdec.engine import Engine
from specdec.engine.outputs import StepOutput

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
LABELS = ("model_name", "engine")


class Meters:
    """What a server counts. Written in one thread.

    α is accepted / draft tokens, τ is 1 + accepted tokens / drafts, and the share accepted at a position is the
    position's count / drafts.

    Args:
        engine: whose queue and cache are shown.
        model: label of every figure.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model, "0")
        self._drafts = self._counter("spec_decode_num_drafts", "Drafts that were verified.")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "Draft tokens that were verified.")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Draft tokens that were accepted.")
        self._accepted_at = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens that were accepted, by their position in the draft.",
            (*LABELS, "position"),
            registry=self._registry,
        )
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens", "Tokens that were generated.")
        self._looked_up = self._counter("prefix_cache_queries", "Tokens of prompts that were looked up in the cache.")
        self._found = self._counter("prefix_cache_hits", "Tokens of prompts that were found in the cache.")
        self._preempted = self._counter("num_preemptions", "Requests that lost their place in the cache.")
        self._success = Counter(
            "vllm:request_success", "Requests that ended.", (*LABELS, "finished_reason"), registry=self._registry
        )
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Between the outputs of two steps.")
        self._per_token = self._histogram("request_time_per_output_token_seconds", "A request's time over its tokens.")
        self._whole = self._histogram("e2e_request_latency_seconds", "Until a request ended.")
        scheduler, cache = engine.scheduler, engine.cache
        self._gauge("num_requests_running", "Requests that run.").set_function(lambda: len(scheduler.running))
        self._gauge("num_requests_waiting", "Requests that wait.").set_function(lambda: len(scheduler.waiting))
        self._gauge("kv_cache_usage_perc", "Share of the cache's blocks that requests hold.").set_function(
            lambda: 1 - cache.num_free_blocks / cache.num_blocks
        )

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)

    def gained(self, output: StepOutput, seconds: float, first: bool) -> None:
        """A request gained tokens.

        Args:
            output: what.
            seconds: since its last tokens, or since it was queued.
            first: whether they are its first.
        """
        (self._first if first else self._between).observe(seconds)
        self._generated.inc(len(output.token_ids))
        if len(output.draft):
            self._drafts.inc()
            self._drafted.inc(len(output.draft))
            self._accepted.inc(len(output.path))
            for position in range(len(output.path)):
                self._accepted_at.labels(*self._labels, str(position)).inc()

    def ended(self, output: StepOutput, seconds: float) -> None:
        """A request ended, so long after it was queued."""
        stats = output.request.stats
        self._success.labels(*self._labels, output.finish_reason).inc()
        self._prompt.inc(stats.prompt_tokens)
        self._looked_up.inc(stats.prompt_tokens)
        self._found.inc(stats.cached_tokens)
        self._preempted.inc(stats.preemptions)
        self._whole.observe(seconds)
        if stats.output_tokens:
            self._per_token.observe(seconds / stats.output_tokens)

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(f"vllm:{name}", says, LABELS, registry=self._registry).labels(*self._labels)

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(f"vllm:{name}", says, LABELS, registry=self._registry).labels(*self._labels)

    def _histogram(self, name: str, says: str) -> Histogram:
        made = Histogram(f"vllm:{name}", says, LABELS, buckets=SECONDS, registry=self._registry)
        return made.labels(*self._labels)
