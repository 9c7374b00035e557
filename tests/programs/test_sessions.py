"""Sessions: what they generate is what one plain call gives, forks are sessions of their own, and `gather` changes
nothing but the order of passes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec import InvalidRequestError, NumericalError, SamplingParams, Session, gather
from specdec.programs import Program
from specdec.programs.borders import Borders
from tests.engines import hopeless
from tests.programs.scenes import generator, tokenizer
from tests.toytokenizers import LINES, TRAINED

GREEDY = SamplingParams(max_tokens=10)
DRAWN = SamplingParams(max_tokens=10, temperature=0.9, seed=7)
START = "The quick brown fox"


def encoded(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False))


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_session_says_what_one_plain_call_says(params: SamplingParams) -> None:
    with generator() as one, generator("none", prefix_cache=False) as plain:
        session = one.session(START, params).append(" jumps over")
        first = session.gen().result()
        [told] = plain.generate(START + " jumps over", params)
        assert (first.text, first.token_ids) == (told.text, told.token_ids)
        assert session.tokens == encoded(START + " jumps over") + told.token_ids
        before = session.append(" lazy.").tokens
        second = session.gen().result()
        assert second.token_ids == plain.generate([before], params)[0].token_ids
        assert second.stats.cached_tokens >= len(before) - 16 - 4  # all but the border is found


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback", "Unigram"])
def test_a_border_is_healed(kind: str) -> None:
    """Wherever a text is cut, both parts together have the tokens of the whole."""
    one, text = TRAINED[kind](), LINES[2].strip()
    whole = one.encode(text, add_special_tokens=False)
    for cut in range(1, len(text)):
        first = one.encode(text[:cut], add_special_tokens=False)
        assert Borders(one).join(first, text[cut:]) == whole


@given(st.lists(st.text("ab é😀\n'un", max_size=6), max_size=6), st.integers(0, 3))
def test_no_appended_text_is_lost(texts: list[str], kept: int) -> None:
    tokens = list[int]()
    for text in texts:
        before, tokens = tokens[:kept], Borders(tokenizer()).join(tokens, text, kept)
        assert tokens[: len(before)] == before
    assert tokenizer().decode(tokens) == "".join(texts)


def test_tokens_that_no_text_is_encoded_to_stay() -> None:
    """Half of a character, and a word spelt letter by letter."""
    half, spelt = encoded("😀")[:1], [encoded(letter)[0] for letter in "believe"]
    assert len(encoded("😀")) > 1
    assert encoded("believe") != spelt
    with generator() as one:
        for odd in (half, spelt):
            assert one.session(odd).append(" in").tokens[: len(odd)] == odd


def test_what_ends_a_text_is_no_part_of_it() -> None:
    with generator() as one:
        whole = one.session(START).gen(SamplingParams(max_tokens=40, ignore_eos=True)).result()
        stop, token = whole.text[7:10], whole.token_ids[5]
        session = one.session(START)
        said = session.gen(SamplingParams(max_tokens=40, stop=stop)).result()
        assert said.finish_reason == "stop"
        assert session.text == START + said.text
        assert stop not in said.text
        session = one.session(START)
        said = session.gen(SamplingParams(max_tokens=40, stop_token_ids=[token], ignore_eos=True)).result()
        assert said.token_ids[-1] == token
        assert session.tokens == encoded(START) + said.token_ids[:-1]


def test_a_chat_goes_on_as_its_template_says() -> None:
    messages = [{"role": "user", "content": "the fox"}]
    with generator() as one:
        session = one.session(messages)
        answer = session.gen(SamplingParams(max_tokens=8, ignore_eos=True)).result()
        session.append([{"role": "user", "content": "and then"}])
        chat = [*messages, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "and then"}]
        assert session.text == tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert session.tokens[: len(answer.token_ids)] == one.encode(messages)[: len(answer.token_ids)]
        assert session.gen(GREEDY).result().stats.prefix_hit_rate > 0.5
        with pytest.raises(InvalidRequestError, match="began with a text"):
            one.session("text").append(messages)


def test_forks_are_sessions_of_their_own_with_seeds_of_their_own() -> None:
    with generator() as one, generator("none", prefix_cache=False) as plain:
        parent = one.session(START, DRAWN)
        children = parent.fork(3)
        texts = gather(*(child.gen() for child in children))
        for place, (child, text) in enumerate(zip(children, texts, strict=True)):
            [alone] = plain.generate(START, SamplingParams(max_tokens=10, temperature=0.9, seed=7 + place))
            assert text.token_ids == alone.token_ids
            assert child.tokens == encoded(START) + alone.token_ids
        assert len({text.text for text in texts}) == 3
        assert parent.tokens == encoded(START)
        grandchildren = [grand for child in parent.fork(3) for grand in child.fork(3)]
        assert len({tuple(text.token_ids) for text in gather(*(one.gen() for one in grandchildren))}) == 9


def debate(session: Session, rounds: int) -> Program:
    """Several texts, of which the one that scores best goes on."""
    for _ in range(rounds):
        children = session.fork(2)
        yield [child.gen() for child in children]
        scores = yield [child.score(" the end") for child in children]
        session = max(zip(scores, children, strict=True), key=lambda pair: pair[0].total)[1]
        yield session.append(" the other").select([" fox", " dog"])
    return session.text


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_programs_in_one_batch_say_what_they_say_one_after_the_other(params: SamplingParams) -> None:
    starts = ["The quick", "Über allen", "def f(x):", "unbelievable", "in allen"]
    with generator("none", prefix_cache=False) as one:
        alone = [gather(debate(one.session(start, params), 2))[0] for start in starts]
        passes = len(one.engine.model.rows)
    with generator(max_num_seqs=10) as one:
        assert gather(*(debate(one.session(start, params), 2) for start in starts)) == alone
        assert len(one.engine.model.rows) < passes / 2


def test_programs_call_programs_and_need_not_wait() -> None:
    def outer(session: Session) -> Program:
        inner = yield from debate(session, 1)
        return inner, (yield session.gen(GREEDY)).text

    def nothing() -> Iterator[Any]:
        return 3
        yield

    with generator() as one:
        [(inner, text), three, call] = gather(outer(one.session(START)), nothing(), one.session(START).gen(GREEDY))
        assert inner.startswith(START)
        assert three == 3
        assert call.text == text
        assert gather() == []


def test_an_error_reaches_its_program_and_the_others_can_go_on() -> None:
    bad = hopeless(400, max_tokens=4)

    def careful(session: Session) -> Program:
        try:
            yield session.gen(bad)
        except NumericalError as error:
            return f"caught: {error}"

    def careless(session: Session) -> Program:
        yield session.gen(bad)

    with generator() as one:
        caught, said = gather(careful(one.session(START)), one.session(START).gen(GREEDY))
        assert caught.startswith("caught")
        assert said.text
        slow = one.session("The").gen(SamplingParams(max_tokens=200, ignore_eos=True))
        with pytest.raises(NumericalError):
            gather(careless(one.session(START)), slow)


def test_a_word_waits_for_the_one_before_and_dropped_calls_are_aborted() -> None:
    with generator() as one:
        session = one.session(START)
        call = session.gen(GREEDY)
        assert not call.done
        assert session.append(" end").text.startswith(START)
        assert call.done
        one.session("in").gen(GREEDY)  # nobody holds it
        gc.collect()
        one.generate("x", GREEDY)
        assert not one.engine.has_work
        assert one.loop._mail == {}


def test_calls_leave_nothing_behind() -> None:
    with generator() as one:
        for place in range(25):
            session = one.session(f"{place}")
            gather(session.select([" a", " b"]), session.fork(1)[0].score(" c"), one.session("x").gen(GREEDY))
        gc.collect()
        assert one.loop._mail == {}
        assert not one.engine.has_work
        one.engine.cache.check_integrity()
        assert one.engine.cache.num_free_blocks == one.engine.cache.num_blocks


def test_what_is_no_program_is_refused() -> None:
    def odd() -> Iterator[Any]:
        yield 3

    with generator() as one, generator() as other:
        for work in (3, debate, "text"):
            with pytest.raises(InvalidRequestError, match="nor a generator"):
                gather(work)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="A program yields 3"):
            gather(odd())
        with pytest.raises(InvalidRequestError, match="several generators"):
            gather(one.session("in").gen(GREEDY), other.session("in").gen(GREEDY))
        with pytest.raises(InvalidRequestError, match=r"Fork it: fork\(2\)"):
            one.session("in").gen(SamplingParams(n=2, temperature=1.0))
        with pytest.raises(InvalidRequestError, match="n = 0"):
            one.session("in").fork(0)
