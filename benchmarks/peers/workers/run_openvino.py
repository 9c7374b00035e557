"""Worker: OpenVINO GenAI."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from worker_protocol import Generate, serve


def start(settings: dict[str, Any]) -> Generate:
    """Loads the intermediate representation; computes, and keeps its cache, in bfloat16."""
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # or it would find the prompt in its cache when it comes the second time
    speculates = settings["mode"] == "ngram"
    pipeline = genai.LLMPipeline(
        f"{settings['models']}/openvino",
        "CPU",
        scheduler_config=scheduler,
        prompt_lookup=speculates,
        INFERENCE_PRECISION_HINT="bf16",
        KV_CACHE_PRECISION="bf16",
        INFERENCE_NUM_THREADS=settings["threads"],
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        config = genai.GenerationConfig(max_new_tokens=max_tokens, do_sample=False)
        config.apply_chat_template = False
        config.stop_token_ids = set(settings["eos"])
        if speculates:
            config.num_assistant_tokens, config.max_ngram_size = settings["num_draft_tokens"], 3
        result = pipeline.generate(openvino.Tensor(np.array(prompts, dtype=np.int64)), config)
        return [list(tokens) for tokens in result.tokens]

    return generate


if __name__ == "__main__":
    serve(start, ["openvino-genai", "openvino"])
