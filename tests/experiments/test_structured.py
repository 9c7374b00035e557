"""The study of structured output: its schemas, its counts by hand, and its page on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence

import jsonschema
import pytest

from experiments import structured
from experiments._schemas import tasks
from experiments._words import parsed
from specdec import Grammar
from specdec.errors import ConfigError
from specdec.models.loading import LoadedModel
from specdec.sampling.compiling import GrammarCompiler
from specdec.sampling.constraints import Choices
from tests.tiny import llama
from tests.toytokenizers import byte_level

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")

TOKENIZER = byte_level()


def test_schemas_are_many_different_and_sound() -> None:
    made = tasks(200)
    assert made == tasks(200)
    assert len({one.question for one in made}) == 200
    for one in made:
        jsonschema.Draft202012Validator.check_schema(one.schema)
    compiler = GrammarCompiler(TOKENIZER, 412, [TOKENIZER.eos_token_id])
    for one in made[:20]:
        assert compiler.compile(Grammar.json(one.schema))


@pytest.mark.parametrize(
    ("tokens", "counts"),
    [([1, 2, 3, 9], (3, 3, 1)), ([4, 5, 9], (0, 0, 3)), ([1, 2], (2, 2, 1))],
    ids=["a forced run", "none", "cut"],
)
def test_forced_runs_are_counted_as_by_hand(tokens: Sequence[int], counts: tuple[int, int, int]) -> None:
    """Of [1 2 3] alone, everything is forced but the end; of [4 5] or [4 6], a choice at each token is not."""
    texts = [[1, 2, 3]] if tokens[0] == 1 else [[4, 5], [4, 6], [7]]
    drafted, kept, passes = structured.forced_share(Choices(texts, [9], 10), tokens)
    assert (drafted, kept, passes) == counts


def test_a_few_schemas_on_a_tiny_model_give_the_page() -> None:
    """Its chat template aside, the tiny model is as good as any: what it finishes is valid."""
    study = structured.Study(schemas=4, max_tokens=80, drafters=("ngram",), rounds=2)
    TOKENIZER.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    loaded = LoadedModel(llama(0, vocab_size=412, max_context=2048), TOKENIZER, (TOKENIZER.eos_token_id,))
    ways, asked = structured.measured(study, loaded)
    assert [len(way.answers) for way in ways] == [4] * 5
    for way in ways[1:]:
        for answer, task in zip(way.answers, asked, strict=True):
            assert answer.finish_reason == "length" or structured.valid(answer, task.schema)
    assert ways[2].tau > ways[1].tau == 1.0
    assert [one.text for one in ways[2].answers] == [one.text for one in ways[1].answers]
    assert all(0 < way.grammar_seconds < sum(way.seconds) for way in ways[1:])
    page = structured.report(study, loaded, ways, asked)
    assert "| canonical | 100.0% (" in page
    assert page.count("\n| ngram | ") == 2


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="Valid names: schemas, max_tokens"):
        parsed(["schema=3"], structured.WORDS)
    with pytest.raises(ConfigError, match="schemas = 'many'"):
        parsed(["schemas=many"], structured.WORDS)
    assert parsed(["drafters=ngram,suffix"], structured.WORDS) == {"drafters": ("ngram", "suffix")}
