"""The reproductions: what theory fixes must come out exactly, and every study ends in its table."""

from __future__ import annotations

import shlex
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from experiments.reproduce import (
    batch_collapse,
    block_vs_token,
    invariance_price,
    leviathan,
    multi_draft,
    ngram_by_category,
    temperature,
)
from experiments.reproduce.__main__ import STUDIES, document, main
from experiments.reproduce.options import LAYERS, Options
from specdec.analysis.traces import record
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.models.loading import LoadedModel
from specdec.sampling import SamplingParams
from tests.engines import small_engine
from tests.tiny import llama


@pytest.fixture(scope="module")
def options() -> Options:
    """A trace of 3 × 12 positions, drafts of eight tokens."""
    made = Options(quick=True)
    engine = small_engine(EarlyExitDrafter(num_draft_tokens=8, num_layers=1), "token")
    params = [SamplingParams(max_tokens=20, temperature=1.0, seed=seed) for seed in range(3)]
    made.__dict__["trace"] = record(engine, [[1, 2, 3], [4, 5], [6]], params, every_position=True)
    return made


@pytest.fixture(scope="module")
def decoding(embedded: LoadedModel) -> Options:
    """A tiny target with more layers than the drafter exits after, which reads the embedded model's tokens."""
    model = llama(vocab_size=embedded.model.vocab_size, num_layers=LAYERS + 1, max_context=2048)
    made = Options(quick=True)
    made.__dict__["target"] = LoadedModel(model, embedded.tokenizer, embedded.eos)
    return made


def test_theory_is_exact_to_the_printed_digits() -> None:
    result = leviathan.run(Options())
    assert all([round(value, 2) for value in one["ours"]] == one["published"] for one in result["factors"])
    predicted = [f"{one['predicted']:.2f}" for one in result["t5_xxl"]]
    assert predicted == ["3.16", "3.25", "2.50", "2.26", "2.35", "1.93", "2.40", "2.62", "2.02", "1.89", "1.80", "1.54"]
    assert "6 of 6 rows equal the printed digits" in leviathan.table(result)


def test_multi_draft_rules_stand_in_their_order_below_their_bounds() -> None:
    result = multi_draft.run(Options(quick=True))
    means = [one["mean"] for one in result["lines"].values()]
    assert means == sorted(means)
    assert result["violations"] == 0
    for name, one in result["lines"].items():  # 20 pairs; five standard errors, one failure in 10^6
        assert abs(one["mean"] - multi_draft.PUBLISHED[name]) < 5 * one["error"]


def test_block_has_the_exact_fractions_and_a_gain_for_every_length(options: Options) -> None:
    result = block_vs_token.run(options)
    token, block, bound = map(Fraction, result["exact"].values())
    assert (token, block, bound) == (Fraction(10, 9), Fraction(11, 9), Fraction(12, 9))
    assert [one["gamma"] for one in result["gains"]] == [2, 4, 8]
    for one in result["gains"]:
        assert one["gain"] == pytest.approx(one["block"] / one["token"] - 1)
        assert one["low"] <= one["gain"] <= one["high"]
        assert one["high"] >= 0  # block is not worse than token, by more than chance
        assert 1 <= one["token"] <= one["gamma"] + 1


def test_the_price_of_invariance_lies_between_its_limits(options: Options) -> None:
    result = invariance_price.run(options)
    assert result["violations"] == 0
    assert result["bound"] <= result["gumbel"] <= result["rejection"]
    accepted = []
    for step in options.trace.steps:
        if len(step.tree) and step.tree.q is not None:
            p, q = torch.softmax(step.scores[0].double(), -1), step.tree.q[0].double()
            accepted.append(min(1.0, float(p[step.tree.tokens[0]] / q[step.tree.tokens[0]])))
    assert len(accepted) == result["positions"]
    error = (0.25 / (20 * len(accepted))) ** 0.5  # drafts are kept, so that only the accept numbers are new
    assert result["observed"] == pytest.approx(sum(accepted) / len(accepted), abs=5 * error)


@pytest.mark.xdist_group("real model")
def test_every_category_has_its_line_and_one_prompt_has_no_interval(
    decoding: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_by_category, "load", lambda dtype: decoding.target)
    result = ngram_by_category.run(decoding)
    *each, together = result["categories"].values()
    assert [*result["categories"]] == [*dict.fromkeys(one.category for one in decoding.records), "all"]
    assert together["prompts"] == sum(one["prompts"] for one in each) == len(decoding.records)
    assert together["identical"] == together["prompts"]
    assert all(one["tau"] >= 1 for one in result["categories"].values())
    sure = {"prompts": 1, "tau": 2.0, "alpha": 0.5, "speedup": 1.5, "low": 1.5, "high": 1.5, "identical": 1}
    wrong = sure | {"prompts": 2, "speedup": 2.5}
    table = ngram_by_category.table({"categories": {"summary": sure, "all": wrong}})
    assert "| summary | 1 | 2.00 | 0.50 | 1.50 | 1/1 |" in table
    assert "| all | 2 | 2.00 | 0.50 | > τ: measure again | 1/2 |" in table


@pytest.mark.xdist_group("real model")
def test_batches_are_measured_with_and_without_the_controller(
    decoding: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_collapse, "load", lambda dtype: decoding.target)
    result = batch_collapse.run(decoding)
    assert [(one["batch"], one["adaptive"]) for one in result["settings"]] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    for one in result["settings"]:
        assert 1 <= one["tau"] <= 1 + one["drafted"]
        assert 0 < one["least"] <= one["ratio"] <= one["most"]
    assert batch_collapse.table(result).count("\n| ") == 2


@pytest.mark.xdist_group("real model")
def test_at_temperature_0_rules_agree(decoding: Options) -> None:
    result = temperature.run(decoding)
    methods = result["methods"]
    assert len(methods) == 4
    for drafter in ("ngram", "early_exit"):
        assert methods[f"{drafter}, token"]["0.0"] == methods[f"{drafter}, gumbel"]["0.0"]
    for line in methods.values():
        assert [float(at) for at in line] == [0.0, 0.5, 1.0, 1.5]
        assert all(tau >= 1 and 0 <= alpha <= 1 for tau, alpha in line.values())
    assert all(f"| {name} |" in temperature.table(result) for name in methods)


def test_the_command_writes_what_was_asked_for_and_how_to_have_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["leviathan", "multi_draft", "--quick", "--data", "some/prompts.jsonl", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    main()
    assert {file.stem for file in (tmp_path / "results").iterdir()} == {"reproduce-leviathan", "reproduce-multi_draft"}
    page = (tmp_path / "reproductions.md").read_text(encoding="utf-8")
    commands = [line.split("`")[1] for line in page.splitlines() if line.startswith("`") and line.count("`") == 2]
    [first, second] = [shlex.split(command) for command in commands[-2:]]
    want = ["python", "-m", "experiments.reproduce", "leviathan", "--quick", "--data", "prompts.jsonl"]
    assert first == want
    assert second[3] == "multi_draft"
    assert leviathan.TITLE in page
    assert block_vs_token.TITLE not in page


def test_unknown_studies_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", "levitation"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown study 'levitation'; there are leviathan" in capsys.readouterr().err


def test_the_document_holds_every_study_and_its_command() -> None:
    results = Path("docs/results")
    text = document(results)
    for name, study in STUDIES.items():
        assert (results / f"reproduce-{name}.json").is_file(), "run `make reproduce`"
        assert f"## {study.TITLE}" in text
        assert f"python -m experiments.reproduce {name}" in text
    assert text == Path("docs/reproductions.md").read_text(encoding="utf-8")
