"""Damaged templates, and prompts of any shape: a text, ids or a chat, or one kind of error."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Chat, InvalidRequestError
from specdec.prompts.entry import read, split
from specdec.prompts.rendering import text_of
from tests.prompts.scenes import TEMPLATES, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # damaged text literals
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]
PIECES = (
    "{{", "}}", "{%", "%}", "{#", "'", '"', "-", "|", ".", "[", "]", "(", ")", "[0]", "|trim", "|tojson", "|length",
    "10**9", " * 10**9 ", "range(10**5)", " % ", "{% endfor %}", "{% endif %}", "{% else %}", "{{ messages }}",
    "{% for x in messages %}", "{% if messages %}", "{% set content = 1 %}", "{{ raise_exception('x') }}", "\\", "\n",
    " is string", "é🙂",
    "\x00", "loop.index0", "namespace(", ".pop()", "__class__", "{% generation %}", "{% endgeneration %}", "~ content",
)  # fmt: skip


def damaged(template: str, chance: random.Random) -> str:
    """With up to three places deleted, doubled, exchanged, or filled with a piece of a template."""
    for _ in range(chance.randint(1, 3)):
        at, end = sorted(chance.choices(range(len(template) + 1), k=2))
        end = min(end, at + chance.choice([0, 1, 3, 20]))
        part = template[at:end]
        filled = chance.choice(["", part * 2, chance.choice(PIECES), part[::-1], chance.choice(PIECES) + part])
        template = template[:at] + filled + template[end:]
    return template


def agrees_with_transformers(template: str) -> bool:
    """Whether there is a text, which then is that of transformers. What is refused is refused there, but for limits."""
    one = tokenizer(template)
    try:
        text = text_of(Chat(MESSAGES), one)
    except InvalidRequestError as error:
        if not any(limit in str(error) for limit in ("it takes more", "it makes more", "too deeply", "surrogates")):
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever jinja2 and templates raise
                one.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        return False
    assert one.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True) == text
    return True


@pytest.mark.parametrize("name", TEMPLATES)
def test_damaged_templates_make_the_text_of_transformers_or_are_refused(name: str) -> None:
    chance = random.Random(name)
    made = [agrees_with_transformers(damaged(TEMPLATES[name], chance)) for _ in range(40)]
    assert 0 < sum(made) < len(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_many_damaged_templates(name: str) -> None:
    chance = random.Random(name + " again")
    made = [agrees_with_transformers(damaged(TEMPLATES[name], chance)) for _ in range(600)]
    assert 60 < sum(made) < 540


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(),
    st.text(max_size=5), st.binary(max_size=5),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), torch.tensor(1), np.array([1, 2]), torch.zeros(2, 2),
                     np.array(["a"]), np.zeros((0, 3)), object(), len, int, "\ud800", range(3), {1, 2}]),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(
        ["role", "content", "input_ids", "attention_mask", "prompt", "prompt_token_ids", "tool_calls", "type", "text"]
    ),
    st.integers(),
    st.none(),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(anything)
def test_whatever_is_handed_in_is_read_or_refused(value: Any) -> None:
    for prompt in split(value):
        try:
            told = read(prompt)
        except InvalidRequestError:
            continue
        if isinstance(told, list):
            assert all(type(token) is int for token in told)
        else:
            assert isinstance(told, str | Chat)
