"""The reproductions: what theory fixes must come out exactly, and every study ends in its table."""

from __future__ import annotations

import shlex
import sys
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from experiments.reproduce import (
    batch_collapse,
    block_vs_token,
    invariance_price,
    leviathan,
    multi_draft,
    ngram_by_category,
    regret,
    temperature,
    training_free,
)
from experiments.reproduce.__main__ import LONG, STUDIES, document, main
from experiments.reproduce.cells import ratio_cell
from experiments.reproduce.options import Options
from experiments.reproduce.rows import Position, accepted, positions
from specdec.analysis.traces import Trace, TraceStep, record
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.engine import EngineLoop
from specdec.models.loading import LoadedModel
from specdec.models.sources import embedded_folder
from specdec.proof import cases
from specdec.proof.bounds import iid_bound
from specdec.proof.exact import drafts, expected_accepted
from specdec.registry import RULES
from specdec.sampling import SamplingParams
from specdec.verify.tree import DraftTree
from tests.engines import small_engine
from tests.tiny import llama


@cache
def loaded() -> LoadedModel:
    """A target of 30 tiny layers, with the embedded one's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    return LoadedModel(llama(vocab_size=len(tokenizer), hidden_size=16, num_layers=30, max_context=1024), tokenizer, ())


class Small(Options):
    """The studies' options, over tiny targets."""

    @cached_property
    def target(self) -> LoadedModel:
        return loaded()

    def recorded(self, layers: int) -> Trace:
        """3 × 20 positions, drafts of eight tokens, whichever layers are asked for: there are two."""
        engine = small_engine(EarlyExitDrafter(num_draft_tokens=8, num_layers=1), "token")
        params = [SamplingParams(max_tokens=20, temperature=1.0, seed=seed) for seed in range(3)]
        return record(EngineLoop(engine), [[1, 2, 3], [4, 5], [6]], params, every_position=True)


@pytest.fixture(scope="module")
def options() -> Options:
    return Small(quick=True)


@pytest.fixture
def no_curves_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What passes of a tiny target cost stays out of the user's cache."""
    monkeypatch.setattr("specdec.policy.product.cache_dir", lambda: tmp_path)


def rows(seed: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.rand(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 2
    p, q = made / made.sum(-1, keepdim=True)
    return p, q


def test_theory_is_exact_to_the_printed_digits() -> None:
    result = leviathan.run(Options())
    assert all([round(value, 2) for value in one["ours"]] == one["published"] for one in result["factors"])
    predicted = [f"{one['predicted']:.2f}" for one in result["t5_xxl"]]
    assert predicted == ["3.16", "3.25", "2.50", "2.26", "2.35", "1.93", "2.40", "2.62", "2.02", "1.89", "1.80", "1.54"]
    assert "6 of 6 rows equal the printed digits" in leviathan.table(result)


@pytest.mark.parametrize("setting", [cases.first_vector(), *cases.chains(quick=True)], ids=lambda one: str(one.name))
def test_chances_add_up_to_the_exact_law(setting: cases.Setting) -> None:
    """Over all drafts of a setting, against the rules' laws in fractions."""
    for place, name in enumerate(("token", "block")):
        rule, mean = RULES.create(name), 0.0
        for draft, probability in drafts(rule, setting, ()):
            assert draft.q is not None
            assert len(draft.tree)
            q = torch.tensor([[float(x) for x in row] for row in draft.q[: len(draft.tree)]])
            scores = torch.tensor([[float(x) for x in row] for row in draft.p]).log()
            step = TraceStep(0, 3, DraftTree(draft.tree.tokens, draft.tree.parents, q), scores)
            mean += float(probability) * block_vs_token.chances(step)[place].sum()
        assert mean == pytest.approx(float(expected_accepted(rule, setting)), abs=1e-5)


def test_block_gains_on_every_draft_and_has_the_exact_fractions(options: Options) -> None:
    for step in options.trace.steps:
        token, block = block_vs_token.chances(step)
        assert (block >= token - 1e-6).all()
    result = block_vs_token.run(options)
    assert {name: Fraction(value) for name, value in result["exact"].items()} == {
        "token": Fraction(10, 9), "block": Fraction(11, 9), "bound": Fraction(12, 9)
    }  # fmt: skip
    for drafter in result["drafters"].values():
        assert [one["gamma"] for one in drafter["gains"]] == [2, 4, 8]
        for one in drafter["gains"]:
            assert -1e-6 <= one["low"] <= one["gain"] <= one["high"]
            for rule in ("token", "block"):  # at most 9 tokens; five standard errors of 60 passes
                assert one["observed"][rule] == pytest.approx(one[rule], abs=5 * (one[rule] ** 2 / 60) ** 0.5)
    assert "published 10/9, 11/9 and 12/9" in block_vs_token.table(result)


def test_multi_draft_rules_stand_in_their_order_below_their_bounds(options: Options) -> None:
    result = multi_draft.run(options)
    means = [one["mean"] for one in result["lines"].values()]
    assert means == sorted(means)
    assert result["violations"] == 0
    for name, one in result["lines"].items():  # 20 pairs; five standard errors, one failure in 10^6
        assert abs(one["mean"] - multi_draft.PUBLISHED[name]) < 5 * one["error"]
    bounds = [one["bound"] for one in result["real"]]
    assert bounds == sorted(bounds)
    for one in result["real"]:
        for name in ("multiround", "kseq"):
            share = one["rules"][name]
            assert share["mean"] <= one["bound"] + 5 * share["error"]
    assert "off by" in multi_draft.table(result)


def test_rows_of_a_trace_are_normal_in_double_precision(options: Options) -> None:
    for one in positions(options.trace):
        assert one.p.dtype == one.q.dtype == torch.float64
        assert float(one.p.sum()) == pytest.approx(1, abs=1e-14)
        assert float(one.q.sum()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("candidates", [1, 2, 4])
def test_accepted_shares_follow_the_closed_form(candidates: int) -> None:
    """SpecInfer over independent candidates accepts with 1 - Π (1 - Σ min(P_j, q)); five standard errors."""
    p, q = rows(seed=candidates, size=6)
    share = accepted(RULES.create("multiround"), [Position(p, q, p.log().float())], candidates, draws=2000)
    refused, rest = 1.0, p
    for _ in range(candidates):
        overlap = torch.minimum(rest, q).sum()
        refused *= 1 - float(overlap)
        rest = (rest - q).clamp(min=0) / (1 - overlap)
    assert share.error == pytest.approx((share.mean * (1 - share.mean) / 2000) ** 0.5, rel=0.01)
    assert share.mean == pytest.approx(1 - refused, abs=5 * (refused * (1 - refused) / 2000) ** 0.5)
    assert 1 - refused <= iid_bound(p, q, candidates) + 1e-9


def test_the_price_of_invariance_lies_between_its_limits(options: Options) -> None:
    result = invariance_price.run(options)
    assert result["violations"] == 0
    assert result["bound"] <= result["gumbel"] <= result["rejection"]
    for rule, formula in (("token", "rejection"), ("gumbel", "gumbel")):
        share = result["observed"][rule]
        assert share["mean"] == pytest.approx(result[formula], abs=5 * share["error"])
    assert "costs" in invariance_price.table(result)


def test_all_methods_accept_alike_at_temperature_zero(options: Options) -> None:
    result = temperature.run(options)
    for drafter in ("ngram", "early_exit"):
        token, gumbel = (result["methods"][f"{drafter}, {rule}"] for rule in ("token", "gumbel"))
        assert token["0.0"] == gumbel["0.0"]
        assert list(token) == ["0.0", "0.3", "0.6", "1.0", "1.5"]
    assert temperature.table(result).count("\n| ") == len(temperature.METHODS)


@pytest.mark.usefixtures("no_curves_kept")
def test_batches_are_measured_with_and_without_the_controller(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_collapse, "load", lambda dtype: loaded())
    found = batch_collapse.run(options)["settings"]
    assert [(one["drafter"], one["batch"], one["adaptive"]) for one in found] == [
        (name, batch, adaptive) for name in ("n-gram", "poor") for batch in (1, 2) for adaptive in (False, True)
    ]
    assert all(one["least"] <= one["ratio"] <= one["most"] and 0 <= one["drafted"] <= 4 for one in found)
    assert all(one["drafted"] > 1 for one in found if one["drafter"] == "poor" and not one["adaptive"])
    assert "With the controller the lowest" in batch_collapse.table({"settings": found})


@pytest.mark.usefixtures("no_curves_kept")
def test_categories_are_counted_apart_and_unbelievable_ratios_hidden(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_by_category, "load", lambda dtype: loaded())
    result = ngram_by_category.run(options)
    assert set(result["categories"]) == {one.category for one in options.records}
    assert result["all"]["prompts"] == result["all"]["identical"] == len(options.records)
    for above, refused in ((0.1, True), (-0.1, False)):
        rounds = dict.fromkeys(("least", "ratio", "most"), result["all"]["tau"] + above)
        table = ngram_by_category.table({**result, "all": {**result["all"], **rounds}})
        [total] = [line for line in table.splitlines() if line.startswith("| all |")]
        assert ("> τ" in total) == refused


@pytest.mark.usefixtures("no_curves_kept")
def test_methods_without_training_stand_beside_their_published_lines(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of our drafters, one that is not there, and two that a policy chooses between."""
    methods = {
        training_free.LOOKUP: ("ngram",),
        training_free.LOOKAHEAD: ("none",),
        training_free.REST: ("no such drafter",),
        training_free.BOTH: ("ngram", "none"),
    }
    monkeypatch.setattr(training_free, "load", lambda dtype: loaded())
    monkeypatch.setattr(training_free, "METHODS", methods)
    result = training_free.run(options)
    assert result["methods"].keys() == methods.keys() - {training_free.REST}
    assert "Unknown drafter 'no such drafter'" in result["left_out"][training_free.REST]
    for one in result["methods"].values():
        assert one["identical"] == one["prompts"] == len(options.records)
        assert one["least"] <= one["ratio"] <= one["most"]
    told = {"ratio": 1.2, "least": 1.2, "most": 1.2, "tau": 1.5, "interval": (1.1, 1.3), "drafting": 0.02,
            "prompts": 2, "identical": 2}  # fmt: skip
    found = {training_free.LOOKUP: told, training_free.LOOKAHEAD: {**told, "ratio": 0.5, "least": 0.5, "tau": 1.6}}
    table = training_free.table({**result, "methods": found})
    assert table.splitlines()[2].startswith("| prompt lookup | ngram | 1.50 | 1.20 (1.20 to 1.20) |")
    assert "Spec-Bench, A100: by speedup 1 of 1 pairs are in the published order, by τ 0 of 1" in table
    assert "Left out: retrieval (REST). Unknown drafter" in table


def test_no_round_knows_the_answers_of_the_one_before() -> None:
    """A suffix drafter keeps answers: were it kept itself, the second round would take fewer passes than the first."""
    prompts = [("kind", [1, 2, 3, 4]), ("kind", [5, 6, 7])]
    rounds = training_free.rounds_of(loaded(), ["suffix"], prompts, count=3, max_tokens=24)
    first, *others = [[pair.speculative.stats.passes for pair in one] for one in rounds]
    assert others == [first, first]


def test_pairs_in_the_published_order_are_counted() -> None:
    published = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 1.0, "elsewhere": 9.0}
    assert training_free.in_order(published, {"a": 1.3, "b": 1.1, "c": 1.2, "d": 1.0}) == (4, 5)  # c and d tie
    assert training_free.in_order(published, {"a": 1.3}) == (0, 0)


def test_regret_stays_within_what_is_proven_and_a_choice_without_chance_can_be_made_to_lose(options: Options) -> None:
    result = regret.run(options)
    for kind, players in result["losses"].items():
        for name, of in players.items():
            for one in of.values():  # six standard errors of four draws
                proven = kind == "one best" or name != "ucb1"
                assert not proven or one["mean"] <= one["bound"] + 6 * one["error"]
    for length, one in result["losses"]["against it"]["ucb1"].items():
        assert one["mean"] == length - length / 4  # its favourite loses every step, and all four take turns
    assert regret.growth(result["losses"]["against it"]["ucb1"]) == pytest.approx(1)
    table = regret.table(result)
    assert table.count("\n| ") == 2 * len(regret.PLAYERS)
    assert "| against it | ucb1 | 48.0 ± 0.0 | 192.0 ± 0.0 | 768.0 ± 0.0 | 1.00 | none |" in table


def test_growth_is_a_power_of_the_length() -> None:
    def of(before: float, after: float) -> float | None:
        return regret.growth({64: {"mean": 99.0}, 256: {"mean": before}, 1024: {"mean": after}})

    assert (of(3.0, 12.0), of(3.0, 6.0), of(3.0, 3.0)) == (1.0, 0.5, 0.0)
    assert (of(-1.0, 3.0), of(3.0, 0.0)) == (None, None)


def test_a_ratio_is_refused_when_every_round_exceeds_tokens_per_pass() -> None:
    assert ratio_cell({"tau": 1.5, "least": 1.4, "ratio": 1.51, "most": 1.6}) == "1.51 (1.40 to 1.60)"
    assert ratio_cell({"tau": 1.5, "least": 1.51, "ratio": 1.55, "most": 1.6}) == "> τ: measure again"


def test_the_command_holds_what_was_given() -> None:
    assert Options().words == ""
    assert Options(True, Path("/far/away.jsonl"), 240).words == "--quick --data away.jsonl --limit 240"


def test_the_command_writes_what_was_asked_for_and_how_to_have_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["leviathan", "--quick", "--data", "some/prompts.jsonl", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    main()
    assert {file.stem for file in (tmp_path / "results").iterdir()} == {"reproduce-leviathan"}
    page = (tmp_path / "reproductions.md").read_text(encoding="utf-8")
    commands = [line.split("`")[1] for line in page.splitlines() if line.startswith("`") and line.count("`") == 2]
    want = ["python", "-m", "experiments.reproduce", "leviathan", "--quick", "--data", "prompts.jsonl"]
    assert shlex.split(commands[-1]) == want
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
        if name in LONG and not (results / f"reproduce-{name}.json").is_file():
            continue
        assert (results / f"reproduce-{name}.json").is_file(), "run `make reproduce`"
        assert f"## {study.TITLE}" in text
        assert f"python -m experiments.reproduce {name}" in text
    assert text == Path("docs/reproductions.md").read_text(encoding="utf-8")
