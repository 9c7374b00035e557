"""Worker: transformers' `generate`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from worker_protocol import Engine, serve


def start(settings: dict[str, Any]) -> Engine:
    """Loads the safetensors folder."""
    torch.set_num_threads(settings["threads"])
    model = AutoModelForCausalLM.from_pretrained(f"{settings['models']}/bf16", dtype=torch.bfloat16).eval()
    options = {"prompt_lookup_num_tokens": settings["num_draft_tokens"]} if settings["mode"] == "ngram" else {}

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        [prompt] = prompts
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            full = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=settings["eos"],
                pad_token_id=settings["eos"][0],
                **options,
            )
        return [full[0, len(prompt) :].tolist()]

    def losses(text: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = model(torch.tensor([text])).logits[0, :-1].float()
        return list(torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]), reduction="none").tolist())

    return Engine(generate, losses)


if __name__ == "__main__":
    serve(start, ["transformers", "torch"])
