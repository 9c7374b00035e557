"""The study of the prefix cache: its optimum by hand and by brute force, and its rows on a tiny model."""

from __future__ import annotations

from random import Random

import pytest

from experiments import prefix
from experiments._words import parsed
from experiments._workloads import WORKLOADS
from specdec.errors import ConfigError
from specdec.models.loading import LoadedModel
from tests.tiny import llama
from tests.toytokenizers import byte_level


def test_the_optimum_by_hand() -> None:
    """The second finds 1 2 of the first's text, the third 1 2 3 of it, the last all but its last token."""
    texts = [([1, 2], [1, 2, 3, 9]), ([1, 2, 4], [1, 2, 4, 9]), ([1, 2, 3, 9], [1, 2, 3, 9, 9]), ([1, 2], [1, 2, 9])]
    assert prefix.found_at_best(texts) == 0 + 2 + 3 + 1


def test_the_optimum_is_that_of_a_set_of_all_beginnings() -> None:
    draw = Random(1)
    for _ in range(50):
        prompts = [[draw.randrange(2) for _ in range(draw.randint(1, 6))] for _ in range(6)]
        texts = [(prompt, [*prompt, *(draw.randrange(2) for _ in range(draw.randint(1, 3)))]) for prompt in prompts]
        known, found = set[tuple[int, ...]](), 0
        for prompt, text in texts:
            found += sum(tuple(prompt[:size]) in known for size in range(1, len(prompt)))
            known.update(tuple(text[:size]) for size in range(1, len(text)))
        assert prefix.found_at_best(texts) == found


@pytest.mark.parametrize("name", ["self-consistency", *(
    pytest.param(name, marks=pytest.mark.slow) for name in WORKLOADS if name != "self-consistency"
)])  # fmt: skip
def test_workloads_run_and_find_what_can_be_found(name: str) -> None:
    """On a tiny model: the optimum is no more than all, and the cache comes near it: what a running
    request has read is found in whole blocks."""
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    loaded = LoadedModel(llama(0, vocab_size=412, max_context=2048), tokenizer, (tokenizer.eos_token_id,))
    row = prefix.measured(loaded, name, 2)
    assert row.requests >= 10
    assert 0.6 * row.optimum <= row.cached_tokens <= row.optimum < row.prompt_tokens
    assert bool(row.first) == (name in ("agents", "tree of thought", "multi-turn chat"))
    assert bool(row.optimum > 0.1 * row.prompt_tokens) == (name != "little shared")
    assert prefix.report(prefix.Study(), [row]).count(f"| {name} | {row.requests} |") == 1


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="Valid names: few-shot"):
        prefix.Study(**parsed(["workloads=poems"], prefix.WORDS))
    with pytest.raises(ConfigError, match="Valid names: workloads"):
        parsed(["count=3"], prefix.WORDS)
