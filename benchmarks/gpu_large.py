"""What passes and drafts cost where the weights are many: 8 billion random ones. See gpu_check.py, which runs this.

Random weights agree on nothing, so nearly no draft is accepted. What is measured is seconds: of a pass, of a step with
a head's trees and of a plain one. Their ratio is the mean accepted length from which on such a head pays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from specdec import Engine, EngineConfig, SamplingParams
from specdec.cache.paged import PagedCache
from specdec.drafters.base import Drafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.none import NoDrafter
from specdec.heads.config import HeadConfig
from specdec.heads.eagle3 import Eagle3Head
from specdec.kernels.device import wait_for
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.triton import TritonModel

SIZES = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
"""Of Llama-3-8B."""
KNOWN, NODES, DEPTHS = 32000, 12, (5, 8)
CONTEXT, PROMPT, STEPS, REPEATS, ROUNDS = 512, 64, 48, 15, 3
PASSES = ((1, 1), (1, 4), (1, 8), (1, 13), (1, 16), (1, 32), (8, 1), (8, 4), (8, 13))
"""Texts, and rows of each."""
BATCHES = (1, 8)


def large() -> dict[str, list[dict[str, Any]]]:
    """Passes beside the floor, and steps with heads beside plain ones."""
    config = LlamaConfig(**SIZES)
    model = made(config, "cuda")
    floor = model.num_bytes / bandwidth("cuda", 1 << 31)
    return {"passes": list(passes(model, floor)), "steps": list(steps(model, config))}


def made(config: LlamaConfig, device: str) -> TritonModel:
    """A model of random weights."""
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return TritonModel(module, "random weights")


def bandwidth(device: str, size: int) -> float:
    """Bytes a second that a copy of so many reads and writes."""
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / timed({0: lambda: target.copy_(source)}, device)[0]


def timed(calls: dict[Any, Callable[[], object]], device: str, repeats: int = REPEATS) -> dict[Any, float]:
    """Median seconds of each call, which take turns; the first three rounds compile and capture."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 3):
        for name, call in calls.items():
            wait_for(device)
            began = time.perf_counter()
            call()
            wait_for(device)
            if turn >= 3:
                times[name].append(time.perf_counter() - began)
    return {name: median(own) for name, own in times.items()}


def passes(model: TritonModel, floor: float, context: int = CONTEXT) -> Iterator[dict[str, Any]]:
    """Verifying passes, of which the maxima are told, over reading all weights once."""
    texts, most = (max(pair[side] for pair in PASSES) for side in (0, 1))
    cache = PagedCache(model.kv_layout, texts * -(-(context + most) // 16))
    for text in range(texts):
        cache.add(text)
        cache.reserve(text, context)
        cache.commit(text, context)
        cache.reserve(text, most)

    def run(texts: int, rows: int) -> None:
        tokens = list(range(rows))
        parts = [SequenceRows(tokens, cache.slots(text), context, logit_rows=range(rows)) for text in range(texts)]
        model.run(RaggedBatch.build(parts), cache.target, Wants("argmax"))

    found = timed({pair: partial(run, *pair) for pair in PASSES}, str(model.kv_layout.device))
    for (batch, rows), seconds in found.items():
        yield {"batch": batch, "rows": rows, "pass, ms": 1e3 * seconds, "× floor": seconds / floor,
               "× one row": seconds / found[batch, 1]}  # fmt: skip


def steps(model: TritonModel, config: LlamaConfig, known: int = KNOWN) -> Iterator[dict[str, Any]]:
    """Steps of the engine: with trees of an EAGLE-3 head that are always full, over plain ones.

    Args:
        model, config: the target, and transformers' description of it.
        known: tokens that the head knows.
    """
    layers = config.num_hidden_layers
    shape = HeadConfig.like(config, "eagle3", taps=(2, layers // 2, layers - 3), draft_vocab_size=known)
    ids = torch.arange(known)
    with torch.device(model.kv_layout.device):
        head = Eagle3Head(shape, ids)
    drafters: dict[str, Callable[[], Drafter]] = {"none": NoDrafter}
    for depth in DEPTHS:
        drafters[f"head, depth {depth}"] = partial(HeadDrafter, head, depth, NODES, floor=0.0, deepen=0.0)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, config.vocab_size, (8, PROMPT), generator=generator).tolist()
    params = SamplingParams(max_tokens=STEPS)
    for batch in BATCHES:
        sizes = EngineConfig(num_blocks=8 * 16, max_num_seqs=batch, prefix_cache=False)
        engines = {name: Engine(model, make(), config=sizes) for name, make in drafters.items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for turn in range(ROUNDS + 1):  # the first compiles and captures
            for name, engine in engines.items():
                own = _decoded(engine, prompts[:batch], params)
                if turn:
                    found[name].append(own)
        plain = median(seconds for seconds, _ in found["none"])
        for name, each in found.items():
            seconds = median(step for step, _ in each)
            yield {"batch": batch, "drafter": name, "step, ms": 1e3 * seconds, "× plain step": seconds / plain,
                   "τ": median(tau for _, tau in each)}  # fmt: skip


def _decoded(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> tuple[float, float]:
    """Seconds of a step that only decodes, the median of those of one run, and tokens that a pass emitted."""
    requests = [engine.make_request(prompt, params) for prompt in prompts]
    for request in requests:
        engine.add(request)
    times = []
    while engine.has_work:
        began, decodes = time.perf_counter(), all(request.output for request in requests)
        engine.step()
        wait_for(engine.model.kv_layout.device)
        if decodes and engine.has_work:
            times.append(time.perf_counter() - began)
    stats = [request.stats for request in requests]
    return median(times), sum(each.output_tokens for each in stats) / sum(each.passes for each in stats)
