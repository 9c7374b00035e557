"""Losslessness on the real model, in float32: 8 prompts × 64 tokens. One worker runs this file (see the group)."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from specdec import Drafter, Engine, EngineConfig, SamplingParams
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.first_rows import shipped_rows
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.slem import SlemDrafter
from specdec.drafters.tli import TliDrafter
from specdec.models.loading import LoadedModel
from specdec.models.sources import embedded_folder
from specdec.prompts import load_prompts
from specdec.stores import Vocabulary
from tests.engines import outputs, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real model")]

LENGTH = 64
MORE_PROMPTS = [
    "Write a Python function that returns the n-th Fibonacci number.",
    "List the planets of the solar system in order, one per line.",
    "Translate to French: The cat sleeps on the warm roof.",
    "What is 17 plus 25? Explain how you add them.",
]


@pytest.fixture(scope="module")
def prompts(embedded: LoadedModel) -> list[list[int]]:
    texts = [*(record.prompt for record in load_prompts()), *MORE_PROMPTS]
    chats = [[{"role": "user", "content": text}] for text in texts]
    rendered = [embedded.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    return [embedded.tokenizer.encode(text, add_special_tokens=False) for text in rendered]


@pytest.fixture(scope="module")
def generated(embedded: LoadedModel, prompts: list[list[int]]) -> list[list[int]]:
    """transformers' own greedy `generate`, with its own attention, each prompt alone."""
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        full = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LENGTH,
            do_sample=False,
            eos_token_id=list(embedded.eos),
            pad_token_id=embedded.eos[0],
        )
        texts.append(full[0, len(prompt) :].tolist())
    return texts


def engine(embedded: LoadedModel, drafter: Drafter, rule: str = "auto", **sizes: int) -> Engine:
    config = EngineConfig(**{"num_blocks": 256, **sizes})
    return Engine(embedded.model, drafter, rule, config, embedded.tokenizer, embedded.eos)


def drafter(name: str, embedded: LoadedModel) -> Drafter:
    if name == "model":  # the target's first twenty layers, as an independent model with a cache of its own
        return ModelDrafter(embedded.model.truncated(20), num_draft_tokens=3)
    if name == "early exit":
        return EarlyExitDrafter(num_draft_tokens=2, num_layers=24)
    return NoDrafter() if name == "none" else NgramDrafter()


@pytest.mark.parametrize("name", ["none", "ngram", "early exit", "model"])
def test_greedy_output_is_that_of_transformers_generate(
    name: str, embedded: LoadedModel, prompts: list[list[int]], generated: list[list[int]]
) -> None:
    requests = run(engine(embedded, drafter(name, embedded)), prompts, SamplingParams(max_tokens=LENGTH))
    assert outputs(requests) == generated
    assert sum(len(text) for text in generated) > 300
    passes = sum(request.stats.passes for request in requests)
    accepted = sum(request.stats.accepted_tokens for request in requests)
    assert (accepted > 0) == (name != "none")
    assert passes < sum(map(len, generated)) or name == "none"


def test_one_at_a_time_and_preempted_greedy_output_is_the_same(
    embedded: LoadedModel, prompts: list[list[int]], generated: list[list[int]]
) -> None:
    params = SamplingParams(max_tokens=LENGTH)
    alone = engine(embedded, NgramDrafter(), max_num_seqs=1)
    assert outputs(run(alone, prompts, params)) == generated
    short_of_blocks = engine(embedded, NgramDrafter(), num_blocks=48)
    requests = run(short_of_blocks, prompts, params)
    assert sum(request.stats.preemptions for request in requests) > 0
    assert outputs(requests) == generated


def test_seeded_samples_do_not_depend_on_batch_preemption_or_drafter(
    embedded: LoadedModel, prompts: list[list[int]]
) -> None:
    params = [SamplingParams(max_tokens=48, temperature=0.8, top_p=0.95, seed=i) for i in range(len(prompts))]
    plain = outputs(run(engine(embedded, NoDrafter(), "gumbel"), prompts, params))
    assert outputs(run(engine(embedded, NgramDrafter()), prompts, params)) == plain  # auto is gumbel here
    alone = engine(embedded, NgramDrafter(), max_num_seqs=1)
    assert outputs(run(alone, prompts, params)) == plain
    requests = run(engine(embedded, NgramDrafter(), num_blocks=48), prompts, params)
    assert sum(request.stats.preemptions for request in requests) > 0
    assert outputs(requests) == plain
    with_model = engine(embedded, EarlyExitDrafter(num_draft_tokens=2, num_layers=24), "gumbel")
    assert outputs(run(with_model, prompts, params)) == plain


@pytest.mark.parametrize("kind", [TliDrafter, SlemDrafter])
def test_the_model_is_right_about_itself_by_way_of_text(
    kind: type[TliDrafter | SlemDrafter], embedded: LoadedModel, prompts: list[list[int]], generated: list[list[int]]
) -> None:
    """Its own draft model, which reads and writes texts as if its tokenizer were another: what its tokenizer makes of
    them is what they were written with, so each step gains γ + 1 tokens."""
    own = kind(embedded.model, num_draft_tokens=4, draft_tokenizer=embedded.tokenizer)
    requests = run(engine(embedded, own), prompts[:3], SamplingParams(max_tokens=40))
    for request, text in zip(requests, generated, strict=False):
        assert request.output == text[:40]
        assert request.stats.passes == -(-len(request.output) // 5)


def test_the_rows_that_ship_are_what_the_model_says_after_each_token(embedded: LoadedModel) -> None:
    """Against transformers in float32; the rows were found in bfloat16, so that close ones may have changed places."""
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    size = embedded.model.vocab_size
    rows = shipped_rows(Vocabulary.of_tokenizer(size, embedded.tokenizer), 8)
    assert rows is not None
    assert rows.shape == (size, 8)
    tokens = torch.arange(100, size, 401)
    pairs = torch.stack([torch.full_like(tokens, embedded.tokenizer.bos_token_id), tokens], 1)
    with torch.inference_mode():
        largest = module(pairs).logits[:, -1].topk(8).indices.tolist()
    found = [rows[token].tolist() for token in tokens.tolist()]
    same = sum(len(set(a) & set(b)) for a, b in zip(largest, found, strict=True))
    assert same > 0.9 * 8 * len(tokens)
    assert sum(a[0] == b[0] for a, b in zip(largest, found, strict=True)) > 0.9 * len(tokens)
