"""The public face, on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from specdec import (
    BatchError,
    Chat,
    ConfigError,
    EngineConfig,
    InvalidRequestError,
    NumericalError,
    SamplingParams,
    SpeculativeGenerator,
)
from specdec.models.loading import LoadedModel
from tests.engines import NonsenseDrafter, hopeless

REPEAT = "Count: 1 2 3 1 2 3 1 2 3"
CHAT = [{"role": "user", "content": "Say the word tree three times."}]
SHORT = SamplingParams(max_tokens=12)


@pytest.fixture(scope="module")
def generator(embedded: LoadedModel) -> Iterator[SpeculativeGenerator]:
    with SpeculativeGenerator(embedded, config=EngineConfig(num_blocks=256, max_num_seqs=4)) as generator:
        yield generator


def test_text_chat_and_token_ids_are_prompts(generator: SpeculativeGenerator) -> None:
    ids = generator.tokenizer.encode(REPEAT)
    text = generator.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    chat_ids = generator.tokenizer.encode(text, add_special_tokens=False)
    by_text, by_ids, by_chat, by_chat_ids = generator.generate([REPEAT, ids, CHAT, chat_ids], SHORT)
    assert by_text.token_ids == by_ids.token_ids
    assert by_chat.token_ids == by_chat_ids.token_ids
    assert by_text.text == generator.tokenizer.decode(by_text.token_ids, skip_special_tokens=True)
    assert "tree" in by_chat.text.lower()


def test_one_prompt_of_each_kind_needs_no_list(generator: SpeculativeGenerator) -> None:
    params = SamplingParams(max_tokens=3)
    for prompt in (REPEAT, CHAT, generator.tokenizer.encode(REPEAT)):
        assert len(generator.generate(prompt, params)) == 1
    assert generator.generate([], params) == []


def test_streams_say_what_generate_says(generator: SpeculativeGenerator) -> None:
    prompts = [REPEAT, "Once upon a time", "🙂🙂🙂 means"]
    expected = generator.generate(prompts, SHORT)
    texts, tokens = ["", "", ""], [[], [], []]  # type: ignore[var-annotated]
    for event in generator.stream(prompts, SHORT):
        texts[event.index] += event.text
        tokens[event.index] += event.token_ids
        if event.generation is not None:
            assert event.generation.text == texts[event.index]
    assert texts == [generation.text for generation in expected]
    assert tokens == [generation.token_ids for generation in expected]


def test_pieces_tell_drafted_tokens_from_the_targets_own(generator: SpeculativeGenerator) -> None:
    events = list(generator.stream(REPEAT, SHORT))
    drafted = "".join(p.text for event in events for p in event.pieces if p.drafted)
    own = "".join(p.text for event in events for p in event.pieces if not p.drafted)
    generation = events[-1].generation
    assert generation is not None
    assert len(drafted) + len(own) == len(generation.text)
    assert len(generator.tokenizer.encode(drafted)) >= generation.stats.accepted_tokens > 0


def test_two_streams_share_one_engine(generator: SpeculativeGenerator) -> None:
    want = [generation.text for generation in generator.generate([REPEAT, "Once upon a time"], SHORT)]
    first, second = generator.stream(REPEAT, SHORT), generator.stream("Once upon a time", SHORT)
    texts = ["", ""]
    for a, b in zip(first, second, strict=False):
        texts[0] += a.text
        texts[1] += b.text
    texts[0] += "".join(event.text for event in first)
    texts[1] += "".join(event.text for event in second)
    assert texts == want


def test_leaving_a_stream_frees_its_blocks(generator: SpeculativeGenerator) -> None:
    for _ in generator.stream([REPEAT, REPEAT], SamplingParams(max_tokens=50)):
        break
    assert not generator.engine.has_work
    assert generator.engine.cache.num_free_blocks == 256


def test_stop_strings_end_the_text_also_across_tokens(generator: SpeculativeGenerator) -> None:
    [full] = generator.generate(REPEAT, SHORT)
    [stopped] = generator.generate(REPEAT, SamplingParams(max_tokens=12, stop=["2 3"]))
    assert stopped.text == full.text[: full.text.index("2 3")]
    assert stopped.finish_reason == "stop"
    assert len(generator.tokenizer.encode("2 3")) > 1
    assert stopped.token_ids == full.token_ids[: len(stopped.token_ids)]


def test_a_stop_string_that_can_never_appear_is_refused_with_what_can(generator: SpeculativeGenerator) -> None:
    """The model ends its turn with token 2, <|im_end|>, which has no text unless it is asked for."""
    for stop in ("<|im_end|>", "a <|im_start|>"):
        with pytest.raises(InvalidRequestError, match=r"stop = .* can never appear.*Use stop_token_ids=\[[12]\]"):
            generator.generate(CHAT, SamplingParams(stop=stop))
    stops = [
        {},
        {"stop": "<|im_end|>"},
        {"stop_token_ids": [2]},
        {"stop": "<|im_end|>", "include_stop_str_in_output": True},
    ]
    params = [SamplingParams(max_tokens=40, skip_special_tokens=False, **one) for one in stops]  # type: ignore[arg-type]
    free, by_text, by_id, shown = generator.generate([CHAT] * 4, params)
    assert by_text.finish_reason == by_id.finish_reason == free.finish_reason == "stop"
    assert free.text == by_text.text == by_id.text
    assert free.token_ids == by_text.token_ids == shown.token_ids
    assert shown.text == free.text + "<|im_end|>"


def test_a_stop_token_is_shown_if_it_is_asked_for(generator: SpeculativeGenerator) -> None:
    [stop] = generator.tokenizer.encode("3", add_special_tokens=False)
    params = SamplingParams(max_tokens=12, stop_token_ids=[stop])
    cut, whole = generator.generate([REPEAT] * 2, [params, replace(params, include_stop_str_in_output=True)])
    assert whole.text == cut.text + "3" == generator.generate(REPEAT, SHORT)[0].text.partition("3")[0] + "3"


def test_bad_words_stay_out(generator: SpeculativeGenerator) -> None:
    [free] = generator.generate(REPEAT, SHORT)
    [clean] = generator.generate(REPEAT, SamplingParams(max_tokens=12, bad_words=["2"]))
    assert "2" in free.text
    assert "2" not in clean.text


def test_a_bad_prompt_stops_the_batch_before_any_work(generator: SpeculativeGenerator) -> None:
    with pytest.raises(InvalidRequestError, match="Prompt 1: The prompt is empty"):
        generator.generate([REPEAT, ""], SHORT)
    with pytest.raises(InvalidRequestError, match="2 prompts but 1 sampling parameters"):
        generator.generate([REPEAT, REPEAT], [SHORT])
    with pytest.raises(InvalidRequestError, match="Prompt 0"):
        generator.stream(["", REPEAT], SHORT)  # at the call, not at the first event
    assert not generator.engine.has_work


def test_errors_can_be_returned_beside_the_results(generator: SpeculativeGenerator) -> None:
    good, bad = generator.generate([REPEAT, ""], SHORT, on_error="return")
    assert good.error is None
    assert good.text
    assert isinstance(bad.error, InvalidRequestError)
    assert bad.finish_reason == "error"


def test_a_request_that_fails_on_the_way_does_not_lose_the_others(generator: SpeculativeGenerator) -> None:
    lost = hopeless(generator.loaded.model.vocab_size, max_tokens=12)
    with pytest.raises(BatchError, match=r"1 of 2 requests failed; prompt 1: .* every token is banned") as caught:
        generator.generate([REPEAT, REPEAT], [SHORT, lost])
    good, bad = caught.value.generations
    assert good.text == generator.generate(REPEAT, SHORT)[0].text
    assert isinstance(bad.error, NumericalError)


def test_a_second_drafter_shares_the_weights(generator: SpeculativeGenerator) -> None:
    other = generator.with_drafter(NonsenseDrafter())
    assert other.loaded.model is generator.loaded.model
    assert other.generate(REPEAT, SHORT)[0].token_ids == generator.generate(REPEAT, SHORT)[0].token_ids


def test_many_prompts_show_a_progress_bar(generator: SpeculativeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    one = SamplingParams(max_tokens=1)
    generator.generate([REPEAT], one)
    assert "generating" not in capsys.readouterr().out
    [again] = generator.generate([REPEAT], one, progress=True)
    assert "1/1" in (shown := capsys.readouterr().out)
    assert again.stats.cached_tokens == again.stats.prompt_tokens - 1
    assert f"generating, {again.stats.prefix_hit_rate:.0%} of prompts cached, " in " ".join(shown.split())
    assert "s saved" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"drafter": None}, "drafter = None cannot work. Give the name of a drafter, a drafter, or a list of these"),
        ({"drafter": 5}, "drafter = 5 cannot work"),
        ({"drafter": []}, r"drafter = \[\] cannot work"),
        ({"drafter": ["ngram", None]}, "drafter = .* cannot work"),
        ({"drafter": NonsenseDrafter}, "drafter = <class .* cannot work"),
        ({"rule": None}, "rule = None cannot work. Give the name of a rule, 'auto', or a rule"),
        ({"rule": 5}, "rule = 5 cannot work"),
        ({"policy": None}, "policy = None cannot work. Give the name of a policy, or a policy"),
        ({"policy": ["always"]}, "policy = .'always'. cannot work"),
        ({"drafter_options": 5}, "drafter_options = 5 cannot work. Give the drafter's options by name, or None"),
        ({"drafter_options": {5: 6}}, "drafter_options = {5: 6} cannot work"),
    ],
)
def test_parts_of_other_types_are_refused(embedded: LoadedModel, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeculativeGenerator(embedded, **parts)


def test_unknown_names_and_options_are_refused_with_the_valid_ones(embedded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"Unknown drafter 'ngrams'. Valid names: cascade, early_exit, .*ngram, none"):
        SpeculativeGenerator(embedded, "ngrams")
    with pytest.raises(ConfigError, match=r"Unknown rule 'tokens'. Valid names: "):
        SpeculativeGenerator(embedded, rule="tokens")
    with pytest.raises(ConfigError, match="num_drafts"):
        SpeculativeGenerator(embedded, "ngram", drafter_options={"num_drafts": 3})
    with pytest.raises(ConfigError, match="go with the name of one drafter"):
        SpeculativeGenerator(embedded, NonsenseDrafter(), drafter_options={"num_draft_tokens": 3})
    with pytest.raises(ConfigError, match="temperature"):
        SpeculativeGenerator(embedded, rule="greedy").generate(REPEAT, SamplingParams(temperature=1.0))


def test_what_a_tokenizer_returns_is_a_prompt(generator: SpeculativeGenerator) -> None:
    texts = [REPEAT, "Once upon a time"]
    want = [generation.token_ids for generation in generator.generate(texts, SHORT)]
    tokenizer = generator.tokenizer
    single = generator.generate(tokenizer(REPEAT), SHORT)
    tensors = generator.generate(tokenizer(texts, padding=True, return_tensors="pt"), SHORT)
    ids = generator.generate(tokenizer(REPEAT, return_tensors="pt").input_ids, SHORT)
    assert [one.token_ids for one in (*single, *tensors, *ids)] == [want[0], *want, want[0]]


def test_a_chat_that_the_template_refuses_is_that_prompts_error(generator: SpeculativeGenerator) -> None:
    template = (
        "{% for m in messages %}{{ m.role + m.content if m.role == 'user' else raise_exception('No ' + m.role) }}"
    )
    template += "{% endfor %}"
    good, critic = ([{"role": role, "content": "Hi"}] for role in ("user", "critic"))
    chats = [Chat(good, template=template), Chat(critic, template=template), [{"role": "user"}], [CHAT], CHAT, None]
    results = generator.generate(chats, SHORT, on_error="return")  # type: ignore[arg-type]
    assert [one.error is None for one in results] == [True, False, False, False, True, False]
    assert str(results[1].error).startswith("Prompt 1: Cannot apply the chat template: No critic.")
    assert results[4].token_ids == generator.generate(CHAT, SHORT)[0].token_ids
    with pytest.raises(InvalidRequestError, match=r"Prompt 0: .*No critic"):
        generator.stream(chats[1], SHORT)
    assert not generator.engine.has_work


def test_a_hostile_template_costs_its_prompt_alone(generator: SpeculativeGenerator) -> None:
    hostile = [
        "{{ 'x' * 10**9 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ]
    results = generator.generate([*(Chat(CHAT, template=one) for one in hostile), CHAT], SHORT, on_error="return")
    assert [isinstance(one.error, InvalidRequestError) for one in results] == [True, True, True, False]
    assert "tree" in results[3].text.lower()


def test_an_answer_can_be_begun_for_the_model(generator: SpeculativeGenerator) -> None:
    begun = [*CHAT, {"role": "assistant", "content": "Tree, tree and"}]
    [generation] = generator.generate(Chat(begun, continue_final_message=True), SHORT)
    assert generation.text.strip().lower().startswith("tree")
