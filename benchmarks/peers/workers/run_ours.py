"""Worker: specdec."""

from __future__ import annotations

from typing import Any

import torch
from worker_protocol import Generate, serve

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.models.loading import load

DTYPES = {"bf16": "bfloat16", "int8": "int8"}


def start(settings: dict[str, Any]) -> Generate:
    """Loads the embedded model."""
    torch.set_num_threads(settings["threads"])
    speculates = settings["mode"] == "ngram"
    generator = SpeculativeGenerator(
        load(dtype=DTYPES[settings["dtype"]]),
        "ngram" if speculates else "none",
        drafter_options={"num_draft_tokens": settings["num_draft_tokens"]} if speculates else None,
        config=EngineConfig(max_num_seqs=settings["max_batch"], prefix_cache=False),  # prompts come again and again
        policy="product" if speculates else "always",
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        generations = generator.generate(prompts, SamplingParams(max_tokens=max_tokens), progress=False)
        return [generation.token_ids for generation in generations]

    return generate


if __name__ == "__main__":
    serve(start, ["specdec-lab", "torch"])
