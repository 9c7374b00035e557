"""The simulation of policies, on texts made by hand: steps against a table, and what each policy loses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from experiments import policies
from experiments._results import HEAD
from experiments._simulation import Simulation, Step
from experiments._texts import Text, read, record, save
from specdec import Drafter, DraftRequest, DraftTree, Outcome, SamplingParams, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.errors import ConfigError
from specdec.models.loading import load
from specdec.policy.always import AlwaysPolicy
from specdec.policy.curve import CostCurve
from specdec.prompts import load_prompts
from specdec.testing import PoisonDrafter

CURVE = CostCurve((1, 11), (1.0, 2.0))
"""A tenth of a pass for every row more."""


class Twice(Drafter):
    """Says the last two tokens again, and notes what it is told."""

    name = "twice"

    def __init__(self) -> None:
        super().__init__(2)
        self.told: list[Outcome] = []
        self.ended: list[tuple[int, tuple[int, ...]]] = []

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return [DraftTree.chain(list(request.tokens[-2:])[: request.max_depth]) for request in requests]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        self.told += outcomes

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        self.ended.append((request_id, tuple(tokens)))


def text(prompt: Sequence[int], answer: Sequence[int], category: str = "") -> Text:
    return Text(category, tuple(prompt), tuple(answer), tuple((token, token + 1) for token in answer))


def test_a_text_of_six_tokens_by_hand() -> None:
    """Answer 1 2 1 2 1 3. The prompt's pass gives 1. Then: after …9 1 the draft 9 1 is wrong, 2 comes. After 1 2 the
    draft 1 2 is right and 1 comes. The last token is drafted for nobody."""
    drafter = Twice()
    steps = list(Simulation([drafter], AlwaysPolicy(), CURVE, {"twice": 0.5}).run([text([8, 9], [1, 2, 1, 2, 1, 3])]))
    assert steps == [
        Step(0, "twice", 2, 0, 1, pytest.approx(1.2 + 0.5)),
        Step(0, "twice", 2, 2, 3, pytest.approx(1.2 + 0.5)),
        Step(0, "", 0, 0, 1, pytest.approx(1.0)),
    ]
    first, second, third, last = drafter.told
    assert (first.start, first.tail, first.tokens) == (0, (8, 9), (1,))
    assert (second.start, second.tail, second.tokens, len(second.tree)) == (2, (1,), (2,), 0)
    assert (third.start, third.tail, third.tokens, third.path) == (3, (2,), (1, 2, 1), (0, 1))
    assert third.top is not None
    assert third.top.tolist() == [[1, 2], [2, 3], [1, 2]]
    assert (last.start, last.tokens) == (6, (3,))
    assert drafter.ended == [(0, (8, 9, 1, 2, 1, 2, 1, 3))]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("policy", policies.CHOOSERS)
def test_every_text_is_told_to_its_end_whatever_is_decided(policy: str, batch: int) -> None:
    texts = repetitive(7)
    drafters = [NgramDrafter(), PoisonDrafter()]
    steps = list(Simulation(drafters, policies.made(policy), policies.CURVE, policies.PRICES, batch).run(texts))
    for number, one in enumerate(texts):
        assert sum(step.tokens for step in steps if step.text == number) == len(one.answer) - 1
    assert all(step.tokens == step.accepted + 1 for step in steps)


def test_a_batch_shares_its_passes() -> None:
    texts = [text([1], [5, 6, 7])] * 4
    alone = list(Simulation([NoDrafter()], AlwaysPolicy(), CURVE).run(texts))
    together = list(Simulation([NoDrafter()], AlwaysPolicy(), CURVE, batch=4).run(texts))
    assert sum(step.seconds for step in alone) == pytest.approx(8 * 1.0)
    assert sum(step.seconds for step in together) == pytest.approx(2 * 1.3)


def repetitive(count: int, length: int = 60) -> list[Text]:
    """Half of them say a phrase again and again, the others are random."""
    random = Random(3)
    texts = []
    for number in range(count):
        phrase = [random.randrange(1000) for _ in range(6)]
        answer = (phrase * length)[:length] if number % 2 else [random.randrange(1000) for _ in range(length)]
        texts.append(text([1, 2, *phrase], answer, category="again" if number % 2 else "random"))
    return texts


def small_arms(poisoned: bool = False) -> list[Drafter]:
    short = NgramDrafter(num_draft_tokens=1, min_match=1)
    short.name = "short"  # type: ignore[misc]
    return [*([PoisonDrafter()] if poisoned else []), short, NgramDrafter()]


def lost(result: dict[str, Any], scenario: str) -> dict[str, list[float]]:
    found = result["scenarios"][scenario]
    return {name: policies.regrets(found, name) for name in found["policies"]}


def test_what_policies_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """`select` is as good as the best drafter, and nonsense among the arms costs it little. Those that learn from speed
    alone lose more, and less than who takes the first arm."""
    monkeypatch.setattr(policies, "arms", small_arms)
    study = policies.Study(repetitive(24))
    result = study.run()
    alone, poisoned = lost(result, "mixed"), lost(result, "poisoned")
    assert alone["select"][-1] < 0.02
    assert poisoned["select"][-1] < alone["select"][-1] + 0.02
    assert all(poisoned[name][-1] < poisoned["always"][-1] for name in ("exp3", "ucb", "exp4", "hedge"))
    again = study.course(study.orders()["mixed"], small_arms(), "exp3")
    assert again == result["scenarios"]["mixed"]["policies"]["exp3"]  # there is no clock in it
    told = policies.table(result)
    assert told.count("| fixed: ") == 7
    assert "### Mixed, with a drafter of nonsense" in told


@pytest.mark.slow
def test_what_is_lost_to_learning_becomes_a_smaller_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "arms", small_arms)
    monkeypatch.setattr(policies, "PRICES", {})  # to ask costs the same however much is known
    poisoned = lost(policies.Study(repetitive(100)).run(), "poisoned")
    for name in ("exp3", "exp4"):  # ucb still looks around after so few steps: its bonus is of the size of the gaps
        assert poisoned[name][-1] < poisoned[name][19]
    assert poisoned["hedge"][-1] < 0.01


def test_it_writes_figures_a_page_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policies, "arms", small_arms)
    save(repetitive(6, length=20), tmp_path / "texts.jsonl")
    page = tmp_path / "policies.md"
    page.write_text(f"# Policies\n\nWords.\n\n{HEAD}\nold figures\n", encoding="utf-8")
    files = {"texts": "texts.jsonl", "results": "results.json", "markdown": "policies.md", "plot": "policies.svg"}
    policies.main([*(f"{name}={tmp_path / file}" for name, file in files.items()), "limit=4"])
    told = page.read_text(encoding="utf-8")
    assert told.startswith("# Policies\n\nWords.\n\n## Simulation")
    assert "old figures" not in told
    assert "| select |" in told
    assert "| select |" in capsys.readouterr().out
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert record["results"]["texts"] == 4
    assert (tmp_path / "policies.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_recorded_texts_are_read_as_they_were_written(tmp_path: Path) -> None:
    texts = repetitive(3, length=9)
    save(texts, tmp_path / "texts.jsonl")
    assert read(tmp_path / "texts.jsonl") == texts
    for broken in ('{"a": 1}', '{"category": "x", "prompt": [], "answer": [1], "top": [[1]]}',
                   '{"category": "x", "prompt": [1], "answer": [1, 2], "top": [[1]]}'):  # fmt: skip
        (tmp_path / "broken.jsonl").write_text(broken, encoding="utf-8")
        with pytest.raises(ConfigError, match="holds no recorded texts"):
            read(tmp_path / "broken.jsonl")


@pytest.mark.slow
def test_texts_are_recorded_as_the_target_says_them(tmp_path: Path) -> None:
    loaded = load(dtype="bfloat16")
    prompts = load_prompts()[:3]
    texts = record(loaded, prompts, max_tokens=12)
    with SpeculativeGenerator(loaded, "none") as generator:
        chats = [[{"role": "user", "content": one.prompt}] for one in prompts]
        said = generator.generate(chats, SamplingParams(max_tokens=12))
    for one, plain, prompt in zip(texts, said, prompts, strict=True):
        assert list(one.answer) == list(plain.token_ids)
        assert [row[0] for row in one.top] == list(one.answer)  # greedy: the largest logit is said
        assert one.category == (prompt.category or "")
    save(texts, tmp_path / "texts.jsonl")
    assert read(tmp_path / "texts.jsonl") == texts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed=3"], "Valid names: texts, record"),
        (["texts=a", "limit=many"], "limit = 'many' cannot work"),
        (["limit=3"], "Give texts=FILE"),
        (["texts=a", "record=b"], "Give texts=FILE"),
    ],
)
def test_unknown_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policies.main(words)
