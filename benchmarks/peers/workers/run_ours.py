"""Worker: specdec."""

from __future__ import annotations

from typing import Any

import torch
from worker_protocol import Engine, serve

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.models.loading import load

DTYPES = {"bf16": "bfloat16", "int8": "int8", "gguf": "gguf", "int4": "int4"}


def start(settings: dict[str, Any]) -> Engine:
    """Loads the embedded model."""
    torch.set_num_threads(settings["threads"])
    drafters = {
        "plain": lambda: "none",
        "ngram": lambda: NgramDrafter(num_draft_tokens=settings["num_draft_tokens"]),
        "tables": lambda: CascadeDrafter(("suffix", "recycling")),
        "head": lambda: CascadeDrafter(("head", "suffix", "recycling")),
    }
    generator = SpeculativeGenerator(
        load(dtype=DTYPES[settings["dtype"]]),
        drafters[settings["mode"]](),
        config=EngineConfig(max_num_seqs=settings["max_batch"], prefix_cache=False),  # prompts come again and again
        policy="always" if settings["mode"] == "plain" else "product",
    )

    rounds = 0

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=max_tokens, cache_salt=str(rounds))
        generations = generator.generate(prompts, params, progress=False)
        return [generation.token_ids for generation in generations]

    def losses(text: list[int]) -> list[float]:
        [generation] = generator.generate([text], SamplingParams(max_tokens=1, prompt_logprobs=0), progress=False)
        return [-found for found in generation.prompt_logprobs or () if found is not None]

    def forget() -> None:
        nonlocal rounds
        rounds += 1  # drafters share what they learn among requests of one salt

    return Engine(generate, losses, forget)


if __name__ == "__main__":
    serve(start, ["specdec-lab", "torch"])
