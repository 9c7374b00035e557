"""Worker: llama.cpp through its Python binding."""

from __future__ import annotations

from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from token_losses import losses_of
from worker_protocol import Engine, serve


def start(settings: dict[str, Any]) -> Engine:
    """Loads the GGUF file."""
    lookup = None
    if settings["mode"] == "ngram":
        lookup = LlamaPromptLookupDecoding(num_pred_tokens=settings["num_draft_tokens"])
    options = {"n_threads": settings["threads"], "n_threads_batch": settings["threads"], "verbose": False}
    file = f"{settings['models']}/{settings['dtype']}.gguf"
    model = Llama(
        file,
        n_ctx=settings["context"],
        draft_model=lookup,
        logits_all=lookup is not None,  # else the binding leaves no room for the verdicts behind its first 512 tokens
        **options,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        [prompt] = prompts
        model.reset()  # or it would find the prompt in its cache when it comes the second time
        output: list[int] = []
        for token in model.generate(prompt, temp=0.0):
            output.append(int(token))
            if token in settings["eos"] or len(output) == max_tokens:
                break
        return [output]

    def losses(text: list[int]) -> list[float]:
        reader = Llama(file, n_ctx=len(text), logits_all=True, **options)
        reader.eval(text)
        return losses_of(reader.scores[: len(text)], text)

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["llama-cpp-python"])
