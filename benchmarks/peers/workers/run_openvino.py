"""Worker: OpenVINO GenAI."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from token_losses import losses_of
from worker_protocol import Engine, serve

FOLDERS = {"bf16": "openvino", "int8": "openvino-int8", "int4": "openvino-int4"}


def start(settings: dict[str, Any]) -> Engine:
    """Loads the intermediate representation; computes, and keeps its cache, in bfloat16."""
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # or it would find the prompt in its cache when it comes the second time
    speculates = settings["mode"] == "ngram"
    folder = f"{settings['models']}/{FOLDERS[settings['dtype']]}"
    device = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
        "INFERENCE_NUM_THREADS": settings["threads"],
    }
    pipeline = genai.LLMPipeline(folder, "CPU", scheduler_config=scheduler, prompt_lookup=speculates, **device)

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        config = genai.GenerationConfig(max_new_tokens=max_tokens, do_sample=False)
        config.apply_chat_template = False
        config.stop_token_ids = set(settings["eos"])
        if speculates:
            config.num_assistant_tokens, config.max_ngram_size = settings["num_draft_tokens"], 3
        result = pipeline.generate(openvino.Tensor(np.array(prompts, dtype=np.int64)), config)
        return [list(tokens) for tokens in result.tokens]

    def losses(text: list[int]) -> list[float]:
        model = openvino.Core().compile_model(f"{folder}/openvino_model.xml", "CPU", device)
        size = len(text)
        inputs = {
            "input_ids": np.array([text], dtype=np.int64),
            "attention_mask": np.ones((1, size), dtype=np.int64),
            "position_ids": np.arange(size, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        return losses_of(model(inputs)["logits"][0], text)

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["openvino-genai", "openvino"])
