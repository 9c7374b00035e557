"""Worker: ONNX Runtime GenAI."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as genai
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
        logits = begun(text, 1).get_output("logits")[0, :-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, np.array(text[1:])[:, None], axis=1)[:, 0]
        return list((np.log(np.exp(logits).sum(axis=1)) - chosen).tolist())

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["onnxruntime-genai", "onnxruntime"])
