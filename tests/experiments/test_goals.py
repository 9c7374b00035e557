"""The simulation of a server under load, on texts made by hand: passes against a table, and goodput with its order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest

from experiments import goals as study
from experiments._rivals import FAVOUR, BatchPace, GoodputPolicy
from experiments._serving import Arrival, Served, Server
from experiments._texts import Text, save
from specdec import ConfigError, EngineConfig, Goals
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.pace import Pace
from specdec.policy.always import AlwaysPolicy
from specdec.policy.base import Draft, Load
from specdec.policy.curve import CostCurve
from specdec.verify.tree import DraftTree

CURVE = CostCurve((1, 101), (1.0, 11.0))
"""A tenth of a second for every row more."""
SIZES = EngineConfig(num_blocks=64, max_batch_tokens=64, max_num_seqs=4)


def text(prompt: Sequence[int], answer: Sequence[int]) -> Text:
    return Text("", tuple(prompt), tuple(answer), tuple((token,) for token in answer))


def free(*_: Any) -> Pace:
    return Pace()


def test_two_requests_by_hand() -> None:
    """The first has 11 prompt rows (2.0 s), then a token a second; the second comes at 2.5, begins at 3.0, and its 2
    rows beside the first one's row take 1.2 s."""
    server = Server(NoDrafter(), AlwaysPolicy(), free, CURVE, SIZES)
    served = list(server.run([Arrival(0.0, text(range(11), [1, 2, 3])), Arrival(2.5, text([1, 2], [5]))]))
    assert served == [
        Served(0.0, pytest.approx(2.0), pytest.approx(4.2), 3, 3),
        Served(2.5, pytest.approx(4.2), pytest.approx(4.2), 1, 1),
    ]
    assert served[0].ttft == pytest.approx(2.0)
    assert served[0].tpot == pytest.approx(1.1)
    assert served[1].tpot == 0.0


def test_a_draft_is_worth_what_the_recorded_text_says() -> None:
    """The prompt 1 2 1 2 (1.3 s, and one row of a draft of one that is right: 1.4): the answer 1 2 1 2 1 2 1 9 comes in
    steps of a draft of 2 and one token more, of which the last is wrong."""
    server = Server(NgramDrafter(num_draft_tokens=2, min_match=1), AlwaysPolicy(), free, CURVE, SIZES)
    [served] = server.run([Arrival(0.0, text([1, 2, 1, 2], [1, 2, 1, 2, 1, 2, 1, 9]))])
    assert (served.tokens, served.passes) == (8, 3)
    assert served.first == pytest.approx(1.5)  # 4 rows and a draft of 2, both right: 1 2 1
    assert served.last == pytest.approx(1.5 + 1.2 + 1.1)  # 2 1 2, then a draft of one for the last two


def test_luck_is_the_same_for_the_same_seed() -> None:
    def run(seed: int) -> list[Served]:
        arrivals = [Arrival(0.1 * n, text(range(5), [1] * 9)) for n in range(5)]
        return list(Server(NoDrafter(), AlwaysPolicy(), free, CURVE, SIZES, 0.1, seed).run(arrivals))

    assert run(1) == run(1) != run(2)


def test_clippers_limit_by_hand() -> None:
    """One more after each full batch in time, 0.9 of it after one that took too long."""
    now = [0.0]
    pace = BatchPace(1.0, lambda: now[0])
    limits = []
    for seconds, batch in ((0.5, 1), (0.5, 2), (0.5, 1), (0.5, 3), (2.0, 4)):
        pace.prompt_rows([], [])
        now[0] += seconds
        pace.passed([None] * batch, [])  # type: ignore[list-item]
        limits.append(pace.limit)
    assert limits == pytest.approx([2, 3, 3, 4, 3.6])


@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_the_best_gamma_is_that_of_all_that_were_tried(accepted: int) -> None:
    policy = GoodputPolicy(CURVE, most=6)
    for _ in range(500):
        policy.observe(0, Draft("a", DraftTree.chain([1, 2])), range(accepted), [1])
    alpha = {0: 0.0, 1: 0.5, 2: 1.0}[accepted]
    for requests in (1, 3, 8):
        tokens = [sum(alpha**n for n in range(gamma + 1)) for gamma in range(7)]
        speeds = [each / (0.9 + 0.1 * requests * (1 + gamma)) for gamma, each in enumerate(tokens)]
        best = max(range(1, 7), key=speeds.__getitem__)
        expected = best if speeds[best] > FAVOUR * speeds[0] else 0
        assert policy.best(requests, Load(requests, requests)) == expected


def test_bursts_have_the_rates_that_are_said() -> None:
    """The mean of 40,000 arrivals; the standard error of their rate is 3 % (bursts come in a few hundred pairs)."""
    times = list(islice(study.bursts(Random(1)), 40_000))
    share = study.BURST_SECONDS / (study.CALM_SECONDS + study.BURST_SECONDS)
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(study.CALM + share * (study.BURST - study.CALM), rel=0.12)


def spoken(count: int) -> list[Text]:
    """Prompts of 80 to 400 tokens and answers of 60, half of them copied from the prompt."""
    random, texts = Random(3), []
    for number in range(count):
        prompt = [random.randrange(500) for _ in range(random.choice([80, 200, 400]))]
        answer = prompt[10:70] if number % 2 else [random.randrange(500) for _ in range(60)]
        texts.append(text(prompt, answer))
    return texts


def test_goals_are_met_more_often_with_control_and_no_token_is_lost() -> None:
    texts, goals = spoken(12), Goals(1000, 40)
    goodput: dict[str, list[float]] = {}
    for seed in range(4):
        arrivals = study.trace(texts, 60, seed)
        for name in ("without control", "ours, first come first served", "ours"):
            served = study.serve(study.WAYS[name], goals, arrivals, seed)
            assert sorted(one.queued for one in served) == [one.at for one in arrivals]
            assert {one.tokens for one in served} == {60}
            goodput.setdefault(name, []).append(study.summary(served, goals)["goodput"])
    mean = {name: fmean(each) for name, each in goodput.items()}
    assert mean["ours"] >= 1.2 * mean["without control"]
    assert mean["ours"] >= mean["ours, first come first served"] >= mean["without control"]


def test_the_command_writes_its_figures_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "GOALS", study.GOALS[:1])
    file, times, figures, page = (tmp_path / name for name in ("texts", "times", "figures.json", "page.md"))
    save(spoken(3), file)
    times.write_text("5\n5.5\n6\n9\n", encoding="utf-8")
    page.write_text("Before.\n\n## Simulation\nold", encoding="utf-8")
    study.main([f"texts={file}", f"arrivals={times}", "seeds=1", f"results={figures}", f"markdown={page}"])
    [ways] = json.loads(figures.read_text(encoding="utf-8"))["results"]["goals"].values()
    assert list(ways) == list(study.WAYS)
    told = page.read_text(encoding="utf-8")
    assert told.startswith("Before.\n\n## Simulation\n\n`python -m experiments.goals texts=")
    assert "old" not in told
    assert all(f"\n| {name} | " in told for name in study.WAYS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["requests=many"], "requests = 'many' cannot work. Give an integer"),
        (["text=x"], "Unknown option 'text'"),
        ([], "Give texts=FILE"),
    ],
)
def test_a_word_that_cannot_work_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study.main(words)


@pytest.mark.parametrize("lines", ["", "1\n0.5\n", "1\nsoon\n"])
def test_arrivals_that_are_none_are_refused(lines: str, tmp_path: Path) -> None:
    save(spoken(1), tmp_path / "texts")
    (tmp_path / "times").write_text(lines, encoding="utf-8")
    with pytest.raises(ConfigError, match="times"):
        study.main([f"texts={tmp_path / 'texts'}", f"arrivals={tmp_path / 'times'}"])
