"""Compiled grammars: their masks are those that a list of all texts gives, and those of a second implementation.

The list is brute force: a token may come next if some text of the language begins with what is written and its piece.
xgrammar follows a grammar by code of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from specdec import Grammar, InvalidRequestError
from specdec.sampling.compiling import KEPT, GrammarCompiler
from specdec.sampling.follower import Follower
from specdec.sampling.matching import MOST_FORCED, GrammarConstraint
from tests.toytokenizers import TRAINED, byte_level, of_merges

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
xgrammar = pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")

LETTERS = of_merges("ab,$", [("a", "b"), ("ab", "a")], end="$")
PIECES = ["a", "b", ",", "$", "ab", "aba"]
END, V = 3, 8
"""Two tokens more than the tokenizer has."""
LANGUAGES = {
    "regex": (Grammar.regex("(ab?,){1,2}"), {"a,", "ab,", "a,a,", "a,ab,", "ab,a,", "ab,ab,"}),
    "choice": (Grammar.choice(["ab", "aba", "b,,"]), {"ab", "aba", "b,,"}),
    "forced": (Grammar.choice(["abab,aba", "abab,ab,"]), {"abab,aba", "abab,ab,"}),
    "ebnf": (Grammar.ebnf('root ::= pair ("," pair)?\npair ::= [ab]{2} # two'), {
        *(x + y for x, y in product("ab", repeat=2)),
        *(f"{x}{y},{z}{w}" for x, y, z, w in product("ab", repeat=4)),
    }),
    "lark": (Grammar.lark('start: "a" inner "b" | ","\ninner: "a" inner "b" | ","'), {",", "a,b", "aa,bb", "aaa,bbb"}),
    "escapes": (Grammar.ebnf('root ::= "\\u0061" [\\u0062,]'), {"ab", "a,"}),
}  # fmt: skip


@cache
def compiler(size: int = V, ends: tuple[int, ...] = (END,), tokenizer: Any = LETTERS) -> GrammarCompiler:
    """One for each vocabulary."""
    return GrammarCompiler(tokenizer, size, ends)


def following(texts: set[str], path: Sequence[int]) -> set[int]:
    """By looking at the list."""
    written = "".join(PIECES[token] for token in path)
    more = {token for token in range(6) if token != END and any(t.startswith(written + PIECES[token]) for t in texts)}
    return more | ({END} if written in texts else set())


def allowed(constraint: GrammarConstraint, path: Sequence[int] = ()) -> set[int]:
    return set(constraint.masks(path, range(-1, len(path) - 1))[-1].nonzero().flatten().tolist())


def paths(texts: set[str], length: int) -> list[tuple[int, ...]]:
    """All that may be written in so many tokens."""
    found: list[tuple[int, ...]] = [()]
    for path in found:
        if len(path) < length:
            found += [(*path, token) for token in sorted(following(texts, path) - {END})]
    return found


@pytest.mark.parametrize("name", LANGUAGES)
def test_masks_are_those_of_the_list_of_all_texts(name: str) -> None:
    """Of every path, drafted, committed, or both."""
    grammar, texts = LANGUAGES[name]
    if name == "lark":
        texts = {f"{'a' * n},{'b' * n}" for n in range(6)}
    ways = paths(texts, 3)
    assert len(ways) > 3
    for path in ways:
        for committed in range(len(path) + 1):
            constraint = compiler().compile(grammar).fork()
            for token in path[:committed]:
                constraint.advance(token)
            assert allowed(constraint, path[committed:]) == following(texts, path), path


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_tree_has_the_rows_of_its_paths_and_leaves_no_trace(name: str) -> None:
    """Trees with forbidden tokens and ends, one after the other, beside committed tokens and forks."""
    grammar, texts = LANGUAGES[name]
    if name == "lark":
        texts = {f"{'a' * n},{'b' * n}" for n in range(16)}
    draw = random.Random(7)
    for _ in range(20):
        constraint, written = compiler().compile(grammar).fork(), list[int]()
        while END not in written and len(written) < 8:
            tokens = [draw.randrange(6) for _ in range(12)]
            parents = [draw.randrange(-1, node) for node in range(12)]
            rows = constraint.masks(tokens, parents)
            prefixes: list[list[int]] = [[]]
            for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
                above = prefixes[parent + 1]
                prefixes.append([*above, token])
                if all(t in following(texts, [*written, *above[:i]]) for i, t in enumerate(above)) and END not in above:
                    assert rows[node + 1].any() == (token == END or bool(following(texts, [*written, *above, token])))
                    if token in following(texts, [*written, *above]) and token != END:
                        assert set(rows[node + 1].nonzero().flatten().tolist()) == following(
                            texts, [*written, *above, token]
                        )
            assert set(rows[0].nonzero().flatten().tolist()) == following(texts, written)
            constraint.forced()
            other = constraint.fork()
            token = draw.choice(sorted(following(texts, written)))
            constraint.advance(token)
            assert allowed(other) == following(texts, written)
            written.append(token)
        if END in written:
            assert constraint.masks((), ()).all()


@pytest.mark.parametrize("spelling", ["any", "canonical"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_one_token_is_allowed_where_the_mask_allows_it(name: str, spelling: Any) -> None:
    """Whether the mask was worked out before or not, and at places that were committed or are drafted."""
    grammar, texts = LANGUAGES[name]
    grammar = grammar.spelt(spelling)
    for path in paths(texts, 3):
        for committed in range(len(path) + 1):
            fresh, known = (compiler().compile(grammar).fork() for _ in range(2))
            for at, token in enumerate(path):
                if not known.masks((), ())[0, token]:
                    break  # another spelling than the canonical one
                if at < committed:
                    fresh.advance(token)
                    known.advance(token)
            else:
                rest = path[committed:]
                rows = known.masks(rest, range(-1, len(rest) - 1))
                if all(rows[at, token] for at, token in enumerate(rest)):
                    asked = {token for token in range(V) if fresh.allows(rest, token)}
                    assert asked == set(rows[-1].nonzero().flatten().tolist()), (path, committed)
                    assert asked == {token for token in range(V) if known.allows(rest, token)}
                    assert set(fresh.allowed_after(rest).nonzero().flatten().tolist()) == asked


@pytest.mark.parametrize("spelling", ["any", "canonical"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_as_many_tokens_are_kept_as_the_masks_allow(name: str, spelling: Any) -> None:
    """Of all texts of three tokens, ends and tokens that say nothing among them, before and after a first token."""
    grammar = LANGUAGES[name][0].spelt(spelling)
    for first in (None, *sorted(allowed(compiler().compile(grammar)))):
        for text in product(range(V), repeat=3):
            constraint = compiler().compile(grammar).fork()
            if first is not None:
                constraint.advance(first)
            other = constraint.fork()
            kept = 0
            while kept < 3 and bool(other.masks((), ())[0, text[kept]]):
                other.advance(text[kept])
                kept += 1
            assert constraint.kept(text) == kept, (first, text)
            ends = next((at + 1 for at, token in enumerate(text) if token == END), 3)
            assert constraint.draftable(text) == min(kept, ends), (first, text)


def test_in_free_text_no_mask_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it takes longest. One token, what is forced and what is likely are told without."""
    tokenizer = byte_level()
    made = compiler(len(tokenizer), (tokenizer.eos_token_id,), tokenizer)
    constraint = made.compile(Grammar.json({"type": "string", "maxLength": 40})).fork()
    quote, letter = (tokenizer.encode(text)[-1] for text in ('"', "a"))
    constraint.advance(quote)
    monkeypatch.setattr(Follower, "mask", None)
    assert constraint.allows((), letter)
    assert constraint.allows((letter, letter), quote)
    assert constraint.forced() == []
    assert constraint.likely(8, 8) == []
    assert constraint.forced([letter, letter]) == []
    assert not constraint.free([tokenizer.eos_token_id])
    assert not constraint.free([quote, letter])
    assert constraint.allows((), letter)


def test_after_an_end_everything_may_follow_whether_it_is_drafted_or_committed() -> None:
    constraint = compiler().compile(Grammar.choice(["ab"])).fork()
    assert constraint.masks([4, END, 0], [-1, 0, 1])[2:].all()
    constraint.advance(4)
    constraint.advance(END)
    assert constraint.masks([5], [-1]).all()
    constraint.advance(5)
    assert constraint.fork().masks((), ()).all()
    assert constraint.forced() == []


def test_forced_runs_are_what_the_tokenizer_makes_of_forced_text() -> None:
    made = compiler().compile(Grammar.choice(["ab,b,", "ab,b,a"])).fork()
    run = made.forced()
    assert "ab,b,".startswith("".join(PIECES[token] for token in run))
    assert len(run) >= 1
    assert all(token in allowed(made, run[:place]) for place, token in enumerate(run))
    assert compiler().compile(Grammar.choice(["b,", "a"])).fork().forced() == []
    assert compiler().compile(Grammar.choice(["b,", "a"])).fork().forced([1]) == [2, END]
    assert compiler(ends=(END, 5)).compile(Grammar.choice(["b,"])).fork().forced() == [1, 2]
    assert compiler().compile(Grammar.choice(["b,"])).fork().forced([2]) == []
    assert len(compiler().compile(Grammar.lark('start: "b" start')).fork().forced()) == MOST_FORCED


@pytest.mark.parametrize("name", LANGUAGES)
def test_canonical_spelling_leaves_all_texts_and_one_token_where_text_is_forced(name: str) -> None:
    """By brute force: the texts that can be written are those of the language. One token is left only where
    one byte alone may come next; elsewhere all that the list of texts gives."""
    grammar, texts = LANGUAGES[name]
    if name == "lark":
        texts = {f"{'a' * n},{'b' * n}" for n in range(8)}
    made, written, whole = compiler().compile(grammar.spelt("canonical")).fork(), set[str](), set[str]()
    ways: list[tuple[int, ...]] = [()]
    for path in ways:
        text = "".join(PIECES[token] for token in path)
        free, found = following(texts, path), allowed(made, path)
        written |= {text} if END in found else set()
        bytes_next = {"".join(PIECES[token] if token != END else "$")[:1] for token in free}
        assert found == free or (len(bytes_next) == len(found) == 1 and found <= free)
        forced = made.forced(path)
        assert all(allowed(made, (*path, *forced[:place])) == {token} for place, token in enumerate(forced))
        assert made.sole(path) == (forced[0] if forced and forced[0] != END else None)
        ways += [(*path, token) for token in sorted(found - {END}) if len(path) < 5]
    whole = {text for text in texts if len(text) <= 5}
    assert whole <= written <= texts


def test_likely_texts_are_the_forced_one_and_the_few_that_it_leaves_a_choice_of() -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    made = compiler(512, (end,), tokenizer)
    schema = {"type": "object", "properties": {"fox": {"enum": ["red", "green", "believer"]}, "n": {"type": "integer"}},
              "required": ["fox"], "additionalProperties": False}  # fmt: skip

    def said(grammar: Grammar, path: Sequence[int] = ()) -> list[str]:
        constraint = made.compile(grammar).fork()
        for token in path:
            constraint.advance(token)
        return [made.vocabulary.said(chain).decode() for chain in constraint.likely(64, 64)]

    grammar = Grammar.json(schema).spelt("canonical")
    first, *choices = said(grammar)
    assert first == '{"fox": "'
    assert [text.removeprefix(first)[:1] for text in choices] == ["b", "g", "r"]
    assert all(any((first + word).startswith(text) for word in ("believer", "green", "red")) for text in choices)
    brackets = Grammar.choice(["abab,aba", "abab,ab,"])
    assert (
        next(compiler().vocabulary.said(chain) for chain in compiler().compile(brackets).fork().likely(2, 2)) == b"abab"
    )
    forced = made.compile(grammar).fork().forced()
    behind = [*forced, *made.vocabulary.encode('red"')]
    assert {text[:1] for text in said(grammar, behind)} == {",", "}"}
    assert said(Grammar.choice(["fox", "fo"]), made.vocabulary.encode("fo")) == [
        "x",
        tokenizer.convert_ids_to_tokens(end),
    ]
    assert said(Grammar.regex("[a-z]+")) == [], "of many there is no guess"
    assert said(Grammar.regex("[a-z]+"), [end]) == []


def test_special_tokens_are_no_text_and_unused_ones_are_nothing() -> None:
    tokenizer = byte_level()
    [user] = tokenizer.convert_tokens_to_ids(["<|user|>"])
    made = compiler(512, (tokenizer.eos_token_id,), tokenizer).compile(Grammar.regex("(?s:.)*")).fork()
    mask = made.masks((), ())[0]
    assert mask[tokenizer.eos_token_id]
    assert not mask[user]
    assert not mask[len(tokenizer) :].any()
    assert int(mask.sum()) > 150


SCHEMAS: dict[str, Any] = {
    "object": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
               "required": ["name", "n"], "additionalProperties": False},
    "enum": {"enum": ["red", "green", "red hot", 7, None]},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_masks_of_schemas_are_those_of_another_implementation(name: str, kind: str) -> None:
    """On random walks through the schema; special tokens aside, which xgrammar takes for text,
    and the character DEL, which llguidance wants escaped."""
    tokenizer = TRAINED[kind]()
    end, size = tokenizer.eos_token_id, len(tokenizer) + 3
    made = compiler(size, (end,), tokenizer)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size, stop_token_ids=[end])
    other = xgrammar.GrammarCompiler(info, max_threads=1).compile_json_schema(
        Grammar.json(SCHEMAS[name]).text, any_whitespace=False, separators=(", ", ": ")
    )
    delete = [token for token, piece in enumerate(made.vocabulary.pieces) if b"\x7f" in piece]
    usable = torch.from_numpy(np.unpackbits(made.vocabulary.usable, count=size, bitorder="little")).bool()
    draw = random.Random(3)
    for _ in range(6):
        constraint, matcher = made.compile(Grammar.json(SCHEMAS[name])).fork(), xgrammar.GrammarMatcher(other)
        for _ in range(24):
            packed = xgrammar.allocate_token_bitmask(1, size)
            matcher.fill_next_token_bitmask(packed)
            theirs = torch.tensor([bool(packed[0, t // 32] >> (t % 32) & 1) for t in range(size)]) & usable
            theirs[delete] = False
            ours = constraint.masks((), ())[0]
            assert ours.tolist() == theirs.tolist()
            token = draw.choice(ours.nonzero().flatten().tolist())
            if token == end:
                break
            constraint.advance(token)
            assert matcher.accept_token(token)


def test_the_schema_true_is_any_json() -> None:
    tokenizer = byte_level()
    one = compiler(len(tokenizer), (tokenizer.eos_token_id,), tokenizer).compile(Grammar.json("true"))
    other = compiler(len(tokenizer), (tokenizer.eos_token_id,), tokenizer).compile(Grammar.json("{}"))
    for token in tokenizer.encode('{"a": [1, null, "x"]}'):
        assert allowed(one) == allowed(other)
        one.advance(token)
        other.advance(token)
    assert tokenizer.eos_token_id in allowed(one)


def test_a_format_that_json_schema_does_not_define_says_nothing() -> None:
    """Section 7.2.3 of its validation, 2020-12: no reader may stop there. Data that looks like a format stays."""
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    made = compiler(len(tokenizer), (end,), tokenizer)
    own = {"type": "string", "format": "mongo-id", "maxLength": 4}
    schema = {
        "properties": {"format": own, "more": {"anyOf": [own]}, "kind": {"const": {"format": "mongo-id"}}},
        "required": ["format", "more", "kind"],
        "additionalProperties": False,
    }
    text = '{"format": "any", "more": "any", "kind": {"format": "mongo-id"}}'
    assert made.compile(Grammar.json(schema)).valid((), tokenizer.encode(text)) == len(tokenizer.encode(text))
    dates = made.compile(Grammar.json({"type": "string", "format": "date"}))
    assert dates.valid((), tokenizer.encode('"any"')) < len(tokenizer.encode('"any"'))
    with pytest.raises(InvalidRequestError, match="uri-reference"):
        made.compile(Grammar.json({"type": "string", "format": "uri-reference"}))


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar.regex("("), "unclosed group"),
        (Grammar.lark("start: other"), "unknown name"),
        (Grammar.ebnf("root ::= other"), "other"),
        (Grammar.ebnf("root ::= ("), r"Expected '\)'"),
        (Grammar.ebnf("root ::= " + "(" * 5000), "RecursionError"),
        (Grammar.json({"not": {"type": "string"}}), 'Unimplemented keys: .*"not"'),
        (Grammar.json({"type": "nonsense"}), "nonsense"),
        (Grammar.json({"$ref": "https://example.org/schema"}), "retrieving it failed"),
        (Grammar.json("false"), "it cannot be read: .*object schema"),
        (Grammar.regex("z"), "dead end"),
        (Grammar.regex("(" * 400 + "a" + ")" * 400), "invalid regex"),
        (Grammar.lark("start: " + "(" * 400 + '"a"' + ")" * 400), "nested"),
    ],
    ids=lambda one: one.text[:20] if isinstance(one, Grammar) else "",
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(grammar: Grammar, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"(?s)grammar, of kind {grammar.kind}: .*{message}"):
        compiler().compile(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.regex("(a+)+b"),
        Grammar.regex("((a{0,1000}){0,1000}b){9}"),
        Grammar.regex("(.*a.{20000}){1,3}"),
        Grammar.ebnf("root ::= " + "(" * 40 + '[^a]? "b"' + ")*" * 40),
        Grammar.ebnf("root ::= " + " ".join(["[^a]{1,50}"] * 200)),
        Grammar.ebnf('root ::= root root | "a" root | [^b]+ | ""'),
        Grammar.json({"type": "string", "pattern": "^" + "(.{1,100}){1,100}" * 5}),
        Grammar.json({"type": "array", "minItems": 10**6, "items": {"type": "integer"}}),
    ],
    ids=lambda one: one.text[:20],
)
def test_one_that_explodes_is_followed_or_refused(grammar: Grammar) -> None:
    """At the door or on the way, by counts of work: nothing here takes a second."""
    tokenizer = byte_level()
    try:
        constraint = compiler(512, (tokenizer.eos_token_id,), tokenizer).compile(grammar).fork()
        for _ in range(30):
            choices = constraint.masks((), ())[0].nonzero().flatten().tolist()
            constraint.advance(choices[-1])
    except InvalidRequestError as error:
        said = str(error)
        assert "Make it simpler" in said or "Correct it" in said


def test_grammars_are_compiled_once_and_only_so_many_are_kept() -> None:
    made = GrammarCompiler(LETTERS, V, (END,))
    first = made.compile(Grammar.regex("a+"))
    assert made.compile(Grammar.regex("a+")) is first
    for number in range(KEPT):
        made.compile(Grammar.regex(f"a{{{number + 1}}}"))
    assert made.compile.cache_info().currsize == KEPT
    assert made.compile(Grammar.regex("a+")) is not first


def test_who_has_no_tokenizer_no_end_or_no_extra_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="needs the model's tokenizer"):
        compiler(tokenizer=None).compile(Grammar.regex("a"))
    with pytest.raises(InvalidRequestError, match="needs the model's end token"):
        compiler(ends=()).compile(Grammar.regex("a"))
    for kind in ("Unigram", "WordPiece"):
        with pytest.raises(InvalidRequestError, match="need a tokenizer whose tokens spell the text"):
            compiler(200, (1,), TRAINED[kind]()).compile(Grammar.regex("a"))
    with pytest.raises(InvalidRequestError, match="Cannot read the tokenizer"):
        compiler(tokenizer=object()).compile(Grammar.regex("a"))
    monkeypatch.setattr("specdec.sampling.compiling.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'specdec-lab\[grammar\]'"):
        GrammarCompiler(LETTERS, V, (END,)).compile(Grammar.regex("a"))
