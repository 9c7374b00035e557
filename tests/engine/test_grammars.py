"""Requests with a grammar: exact under every lossless rule, and their texts those of constrained plain decoding.

The law is that of p, restricted at each step to the tokens that may follow, and normalised. What may follow is read off
a list of all texts of the language, in fractions; no grammar engine takes part in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jsonschema
import pytest

from specdec import DraftRequest, DraftTree, Engine, EngineConfig, Grammar, InvalidRequestError, SamplingParams
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.request import Request
from specdec.proof.evidence import Evidence
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling.compiling import GrammarCompiler
from specdec.verify.base import Rule
from specdec.verify.tree import ROOT
from tests.engines import DRAFTERS, drain, outputs, run
from tests.texts import CASES, KINDS, Limited, Text, check_law, check_parts, target
from tests.tiny import llama
from tests.toytokenizers import byte_level, of_merges

pytestmark = pytest.mark.fewer(2)

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")

A, B, END = range(3)
PIECES = ["a", "b", ""]
LANGUAGE = {"ab", "abb", "ba"}
GRAMMAR = Grammar.regex("abb?|ba")
FIXED = {"chain": DraftTree.chain([B, B]), "tree": DraftTree((A, END, B, B, A), (ROOT, ROOT, ROOT, 0, 1))}


def may_follow(text: Text) -> set[int]:
    """By looking at the list."""
    if END in text:
        return {A, B, END}
    written = "".join(PIECES[token] for token in text)
    longer = {token for token in (A, B) if any(each.startswith(written + PIECES[token]) for each in LANGUAGE)}
    return (longer | ({END} if written in LANGUAGE else set())) or {A}


CONSTRAINT = GrammarCompiler(of_merges("ab$", [], end="$"), 3, [END]).compile(GRAMMAR)
WARM = SamplingParams(temperature=1.0, constraint=CONSTRAINT)
SCENE = Limited(3, WARM, frozenset([END]), may_follow, FIXED)


QUICK = {("rrs", "aware", "tree"), ("token", "aware", "chain"), ("rrs", "deterministic", "tree")}
"""The others take seconds each."""


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_every_rules_law_is_p_masked_and_renormalised_step_by_step(name: str, kind: str, shape: str) -> None:
    check_law(SCENE, name, kind, shape)


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in CASES
        if case[0] in ("token", "rrs", "traversal")
    ],
)
def test_so_is_that_of_the_engines_parts(name: str, kind: str, shape: str) -> None:
    """Masks of every node, ends inside drafts, refusals and rollback, for all random numbers."""
    check_parts(SCENE, name, kind, shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_so_is_that_of_gumbel(kind: str, shape: str) -> None:
    """Its noise is a vector, so texts are sampled; wrongly rejected once in a million runs."""
    evidence = Evidence({text: float(mass) for text, mass in SCENE.law(3).items()})
    rule: Rule = RULES.create("gumbel")
    for seed in range(300):
        evidence.add(SCENE.text(rule, kind, shape, RandomSource(seed), 3))
    assert not evidence.rejects(1e-6)


def test_it_is_not_the_law_of_valid_texts_under_the_model() -> None:
    """To condition the model's own law on a valid text gives other chances. No masks can: what comes after a token
    weighs on it then."""
    stepwise = SCENE.law(4)

    def free(text: Text) -> Fraction:
        mass = Fraction(1)
        for place, token in enumerate(text):
            mass *= target(3)(text[:place])[token]
        return mass

    total = sum(free(text) for text in stepwise)
    conditioned = {text: free(text) / total for text in stepwise}
    assert sum(stepwise.values()) == sum(conditioned.values()) == 1
    distance = sum(abs(stepwise[text] - conditioned[text]) for text in stepwise) / 2
    assert float(distance) > 0.05


TOKENIZER = byte_level()
EOS: int = TOKENIZER.eos_token_id
V = 412
"""More than the tokenizer has."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "the name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["believer", "unbelievable", "fox"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["the name", "kind", "n"],
    "additionalProperties": False,
}
JSON = SamplingParams(max_tokens=96, grammar=SCHEMA)
PROMPTS = ["The quick brown", "unbelievable believers", "{", "def f(x):"]


def engine(drafter: str = "none", rule: str = "auto", **sizes: int) -> Engine:
    made = DRAFTERS[drafter]() if "model" not in drafter else None
    if made is None:
        from specdec.drafters.model import ModelDrafter

        made = ModelDrafter(llama(1, vocab_size=V), num_draft_tokens=3, branches=3 if "tree" in drafter else 1)
    config = EngineConfig(**{"block_size": 4, "num_blocks": 256, "max_batch_tokens": 128, **sizes})
    return Engine(llama(0, vocab_size=V), made, rule, config, TOKENIZER, [EOS])


def served(made: Engine, params: SamplingParams | list[SamplingParams]) -> list[Request]:
    return run(made, [TOKENIZER.encode(prompt) for prompt in PROMPTS], params)


def text(request: Request) -> str:
    return str(TOKENIZER.decode(request.output, skip_special_tokens=True))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafter", [name for name in DRAFTERS if name != "none"])
def test_texts_are_those_of_constrained_plain_decoding(drafter: str, temperature: float) -> None:
    """Chains and trees, with q and without, in a batch; and what is complete is valid."""
    params = [replace(JSON, temperature=temperature, seed=seed) for seed in range(len(PROMPTS))]
    plain = served(engine(rule="gumbel"), params)
    assert all(one.finish_reason == "stop" for one in plain)
    for one in plain:
        jsonschema.validate(json.loads(text(one)), SCHEMA)
    assert outputs(served(engine(drafter, "gumbel"), params)) == outputs(plain)


@pytest.mark.parametrize("rule", [name for name in RULES.names() if RULES.get(name).lossless and name != "greedy"])
def test_every_rule_keeps_to_the_grammar(rule: str) -> None:
    """With drafts drawn from a model."""
    params = [replace(JSON, temperature=1.0, seed=seed) for seed in range(len(PROMPTS))]
    for one in served(engine("model", rule), params):
        assert one.finish_reason == "stop"
        jsonschema.validate(json.loads(text(one)), SCHEMA)


@pytest.mark.parametrize("drafter", ["none", "ngram", "model tree"])
def test_a_text_that_reaches_its_length_ends_by_length(drafter: str) -> None:
    whole = outputs(served(engine(drafter), JSON))
    for most in (1, 5, 17):
        requests = served(engine(drafter), replace(JSON, max_tokens=most))
        assert [one.finish_reason for one in requests] == ["length"] * len(PROMPTS)
        assert outputs(requests) == [tokens[:most] for tokens in whole]


def test_a_stop_string_ends_a_text_inside_the_grammar() -> None:
    for drafter in ("none", "ngram"):
        for one in served(engine(drafter), replace(JSON, stop=["kind"])):
            assert one.finish_reason == "stop"
            assert text(one).startswith('{"the name": "')
            assert "kind" not in text(one).removesuffix("kind")


@pytest.mark.parametrize("drafter", ["ngram", "model"])
def test_preemption_and_cached_prefixes_change_nothing(drafter: str) -> None:
    params = [replace(JSON, temperature=1.0, seed=seed) for seed in range(len(PROMPTS))]
    plain = outputs(served(engine(rule="gumbel"), params))
    tight = engine(drafter, "gumbel", num_blocks=30)
    requests = served(tight, params)
    assert sum(one.stats.preemptions for one in requests) > 0
    assert outputs(requests) == plain
    again = served(tight, params)
    assert sum(one.stats.cached_tokens for one in again) > 0
    assert outputs(again) == plain


def test_a_bad_grammar_is_refused_before_it_is_queued() -> None:
    made = engine()
    for grammar in (Grammar.regex("("), Grammar.json({"not": {}}), Grammar.lark("start: nothing")):
        with pytest.raises(InvalidRequestError, match="grammar, of kind"):
            made.make_request([1], SamplingParams(grammar=grammar))
    assert not made.has_work


@pytest.mark.parametrize("drafter", ["none", "ngram", "model"])
def test_one_that_comes_to_a_dead_end_ends_its_own_request(drafter: str) -> None:
    """No token of the vocabulary spells what has to come last."""
    dead = replace(JSON, grammar=Grammar.regex("the fox\U0001f98a"), allowed_token_ids=None)
    params = [JSON, replace(dead, bad_words=[[TOKENIZER.encode("\U0001f98a")[-1]]]), JSON, JSON]
    good = outputs(served(engine(), JSON))
    requests = served(engine(drafter), params)
    assert [tokens for place, tokens in enumerate(outputs(requests)) if place != 1] == good[:1] + good[2:]
    assert requests[1].finish_reason == "error"
    assert "banned" in str(requests[1].error)
    assert "the fox".startswith(text(requests[1])[:7])  # a draft meets it a few tokens before


def test_an_engine_without_a_tokenizer_says_so() -> None:
    made = Engine(llama(0), NoDrafter(), eos=[0])
    with pytest.raises(InvalidRequestError, match="tokenizer"):
        made.make_request([1], SamplingParams(grammar=["a"]))
    drain(made)


def test_a_fork_of_a_text_goes_on_apart() -> None:
    """n texts of one prompt, with their own seeds."""
    params = replace(JSON, temperature=1.0, seed=3, n=3).samples()
    prompt = TOKENIZER.encode(PROMPTS[0])
    together = run(engine("ngram", "gumbel"), [prompt] * 3, params)
    assert [run(engine(rule="gumbel"), [prompt], one)[0].output for one in params] == outputs(together)
    assert len({tuple(one.output) for one in together}) > 1


def test_forced_text_is_drafted_counted_and_accepted() -> None:
    """By every step's own draft, and in the figures of the request. The texts are those without any draft."""
    plain = served(engine(), JSON)
    requests = served(engine("nonsense"), JSON)
    assert outputs(requests) == outputs(plain)
    for one, alone in zip(requests, plain, strict=True):
        forced = one.stats.of("forced")
        assert forced.drafted_tokens >= 20
        assert 0 < forced.accepted_tokens <= forced.drafted_tokens
        assert sum(each.steps for each in one.stats.by_drafter) == one.stats.passes < alone.stats.passes
    assert all(one.stats.drafted_tokens == 0 for one in plain)
    capped = served(engine("nonsense"), replace(JSON, num_draft_tokens=0))
    assert all(one.stats.drafted_tokens == 0 for one in capped)


def test_a_forced_text_of_a_model_that_spells_it_otherwise_is_its_own() -> None:
    """The draft is the tokenizer's spelling, the model likes single letters: it is refused, and costs no text."""
    letters = {token: 50.0 for token in range(len(TOKENIZER)) if len(TOKENIZER.decode([token])) == 1}
    params = replace(JSON, grammar=["unbelievable believers"], logit_bias=letters)
    [plain, *_] = outputs(served(engine(), params))
    [request, *_] = served(engine("ngram"), params)
    assert request.output == plain
    assert len(plain) == len("unbelievable believers") + 1
    forced = request.stats.of("forced")
    assert forced.drafted_tokens > forced.accepted_tokens


@pytest.mark.parametrize("drafter", ["ngram", "nonsense"])
def test_canonical_forced_text_is_always_accepted(drafter: str) -> None:
    """However the model would like to spell it; drafts change no text, and what is complete is valid. Chains alone are
    drafted under a rule that judges no trees, so that every drafted token is a forced one."""
    letters = {token: 9.0 for token in range(len(TOKENIZER)) if len(TOKENIZER.decode([token])) == 1}
    grammar = Grammar.json(SCHEMA).spelt("canonical")
    params = [replace(JSON, grammar=grammar, logit_bias=letters, temperature=1.0, seed=n) for n in range(len(PROMPTS))]
    plain = served(engine(rule="gumbel"), params)
    requests = served(engine(drafter, "gumbel"), params)
    assert outputs(requests) == outputs(plain)
    assert all(jsonschema.validate(json.loads(text(one)), SCHEMA) is None for one in requests)
    chains = [one.stats.of("forced") for one in served(engine("ngram", "token"), params)]
    assert all(one.drafted_tokens == one.accepted_tokens >= 10 for one in chains)


def test_a_drafter_goes_on_below_forced_text() -> None:
    """Behind a key comes the only word that the model likes, which the text has before: key and word are one draft."""
    keys = {key: {"type": "string", "maxLength": 9} for key in ("a", "b")}
    schema = {"type": "object", "properties": keys, "required": ["a", "b"], "additionalProperties": False}
    [fox, *_] = TOKENIZER.encode("fox")
    params = replace(JSON, grammar=Grammar.json(schema).spelt("canonical"), logit_bias={fox: 40.0})
    prompt = TOKENIZER.encode('{"a": "fox", "b": "fox')
    config = EngineConfig(num_blocks=256)
    [request] = run(
        Engine(llama(0, vocab_size=V), NgramDrafter(24, 1), "auto", config, TOKENIZER, [EOS]), [prompt], params
    )
    assert request.stats.of("forced+ngram").accepted_tokens > 0
    assert outputs(run(engine(), [prompt], params)) == [request.output]


class Changing(NgramDrafter):
    """Returns another draft than it was given."""

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        return [DraftTree.chain([1, 2, 3]) for _ in trees]


class Failing(NgramDrafter):
    """Raises."""

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        raise ValueError("no")


@pytest.mark.parametrize("kind", [Changing, Failing])
def test_what_a_drafter_makes_of_a_forced_draft_is_checked(kind: type[NgramDrafter]) -> None:
    """It costs what it would have added, and no text."""
    made = Engine(llama(0, vocab_size=V), kind(24), "auto", EngineConfig(num_blocks=256), TOKENIZER, [EOS])
    requests = served(made, JSON)
    assert outputs(requests) == outputs(served(engine(), JSON))
    assert "extend" in made.drafting.faults["ngram"]
    assert all(one.stats.of("forced").accepted_tokens for one in requests)


def test_a_draft_of_a_grammar_blind_drafter_loses_what_may_not_follow() -> None:
    made = Engine(llama(0, vocab_size=V), NgramDrafter(4, 1), "auto", None, TOKENIZER, [EOS])
    [request] = run(made, [TOKENIZER.encode("then thence then")], replace(JSON, grammar=["then then then"]))
    assert text(request) == "then then then"
