"""Worker: ONNX Runtime GenAI."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from token_losses import losses_of
from worker_protocol import Engine, serve


def start(settings: dict[str, Any]) -> Engine:
    """Loads the model that GenAI's builder made."""
    config = genai.Config(f"{settings['models']}/onnxruntime-{settings['dtype']}")
    session = {"intra_op_num_threads": settings["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = genai.Model(config)

    def begun(tokens: list[int], room: int) -> Any:
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(tokens) + room, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(np.array([tokens], dtype=np.int32))
        return generator

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        [prompt] = prompts
        generator, output = begun(prompt, max_tokens), list[int]()
        while not generator.is_done():
            generator.generate_next_token()
            output.append(int(generator.get_next_tokens()[0]))
            if output[-1] in settings["eos"]:
                break
        return [output]

    def losses(text: list[int]) -> list[float]:
        return losses_of(begun(text, 1).get_output("logits")[0], text)

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["onnxruntime-genai", "onnxruntime"])
