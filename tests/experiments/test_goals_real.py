"""The real run beside the simulation: recorded texts of a tiny model, and ways to serve that take turns."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

import pytest

from experiments import goals_real as study
from experiments._playing import in_turns
from experiments._serving import Arrival
from experiments._texts import Text, save
from experiments.goals import GOALS, WAYS
from specdec import SamplingParams
from specdec.drafters.none import NoDrafter
from specdec.models.loading import LoadedModel
from specdec.policy.curve import CostCurve
from tests.engines import run, small_engine
from tests.tiny import llama

CURVE = CostCurve((1, 101), (0.001, 0.011))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return LoadedModel(llama(), None, ())


@pytest.fixture(scope="module")
def texts(loaded: LoadedModel) -> list[Text]:
    """Three prompts with what greedy decoding says."""
    prompts = [[1, 2, 3, 1, 2], [5, 6, 5], [9] * 12]
    said = run(small_engine(NoDrafter()), prompts, SamplingParams(max_tokens=12, ignore_eos=True, temperature=0))
    return [
        Text("", tuple(p), tuple(one.output), tuple((token,) for token in one.output))
        for p, one in zip(prompts, said, strict=True)
    ]


def test_every_request_is_answered_with_its_text_and_none_begins_before_it_comes(
    loaded: LoadedModel, texts: list[Text]
) -> None:
    arrivals = [Arrival(0.01 * number, texts[number % 3]) for number in range(7)]
    ways = in_turns({name: study.server(loaded, CURVE, WAYS[name], GOALS[0]) for name in study.PLAYED}, arrivals)
    for served in ways.values():
        assert sorted(one.queued for one in served) == pytest.approx([one.at for one in arrivals])
        assert {one.tokens for one in served} == {12}
        assert all(one.queued < one.first <= one.last for one in served)
        assert all(1 <= one.passes <= 12 for one in served)


def test_a_clock_skips_the_time_in_which_nobody_waits(loaded: LoadedModel, texts: list[Text]) -> None:
    """An hour later the second request is answered at once, and the first one keeps its own times."""
    server = study.server(loaded, CURVE, WAYS["ours"], GOALS[0])
    first, second = in_turns({"ours": server}, [Arrival(at, texts[0]) for at in (0.0, 3600.0)])["ours"]
    assert first.last < 600
    assert 3600 < second.first <= second.last == server.now < 4200


def test_a_clock_stands_still_while_others_have_their_turn(loaded: LoadedModel, texts: list[Text]) -> None:
    """What both took together is no longer than the time that went by."""
    began = perf_counter()
    arrivals = [Arrival(0.0, text) for text in texts]
    servers = {name: study.server(loaded, CURVE, WAYS["ours"], GOALS[0]) for name in ("one", "other")}
    in_turns(servers, arrivals)
    assert sum(server.now for server in servers.values()) <= perf_counter() - began


def test_another_text_than_the_recorded_one_is_an_error(loaded: LoadedModel, texts: list[Text]) -> None:
    wrong = Text("", texts[0].prompt, (*texts[0].answer[:-1], 1 + texts[0].answer[-1] % 50), ())
    with pytest.raises(AssertionError, match="not say what was recorded"):
        in_turns({"ours": study.server(loaded, CURVE, WAYS["ours"], GOALS[0])}, [Arrival(0.0, wrong)])


def figures(goodput: float) -> dict[str, list[dict[str, float]]]:
    keys = ("met", "tau", "ttft p50", "ttft p95", "tpot p50", "tpot p95")
    return {kind: [{"goodput": value, **dict.fromkeys(keys, 1.0)}] for kind, value in (("real", goodput),)}


def test_the_agreement_of_two_orders_by_hand(tmp_path: Path) -> None:
    """Of the six pairs of 1 2 3 4 and 1 3 2 4 five are in the same order: (5 - 1) / 6."""
    ways = {
        str(number): {**figures(real), "simulated": figures(other)["real"]}
        for number, (real, other) in enumerate([(1, 1), (2, 3), (3, 2), (4, 4)])
    }
    found = {"requests": 7, "seeds": 1, "stretch": 1.5, "goals": [1000, 40], "ways": ways}
    assert study.agreement(found) == pytest.approx(2 / 3)
    assert "τ-b of 0.67" in study.told(found)


def test_the_command_writes_its_figures_and_its_page(
    tmp_path: Path, loaded: LoadedModel, texts: list[Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "load", lambda dtype: loaded)
    monkeypatch.setattr(study, "cost_curve", lambda model, folder: CURVE)
    monkeypatch.setattr(study, "trace", lambda texts, requests, seed: [Arrival(0.01, text) for text in texts])
    file, results, page = (tmp_path / name for name in ("texts", "results.json", "page.md"))
    save(texts, file)
    page.write_text("Before.\n\n## A real run\nold\n\n## Last\n", encoding="utf-8")
    study.main([f"texts={file}", "requests=4", f"results={results}", f"markdown={page}"])
    ways = json.loads(results.read_text(encoding="utf-8"))["results"]["ways"]
    assert list(ways) == list(study.PLAYED)
    assert {len(rows) for kinds in ways.values() for rows in kinds.values()} == {1}
    assert page.read_text(encoding="utf-8").startswith("Before.\n\n## A real run\n\n`python -m experiments.goals_real")
    assert page.read_text(encoding="utf-8").endswith("\n\n## Last\n")
