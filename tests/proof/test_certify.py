"""The certificate: our rules pass it, broken ones do not."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import pytest

from specdec import cli
from specdec.proof import cases
from specdec.proof.certificates import sources
from specdec.proof.certify import Certificate, LawResult, certify, settings_for
from specdec.proof.exact import Setting, deviation, drafts, expected_accepted, joint_law, target_law
from specdec.proof.faces import GIVEN, SampledResult, doubt, examine_verdicts
from specdec.registry import RULES
from specdec.verify.base import Rule
from specdec.verify.rational import ExactDraft, Law, emit, exact_positive_part, normalized
from specdec.verify.tree import TreeShape
from tests.mutants import MUTANTS, CutAtTheFirstForbiddenToken
from tests.mutants.candidates import CANDIDATES

pytestmark = pytest.mark.fewer(3)

LOSSLESS = ["block", "greedy", "gumbel", "hsd", "kseq", "multiround", "rrs", "token", "traversal"]
LONG = {"hsd", "kseq"}
"""Rules for trees whose certificate takes several seconds; that of `multiround` is in every run."""
SOON = {"AcceptNumberReused", "FilterAfterTheRatio", "ResidualNotNormalized", "RootMayRefuse", "TypicalCalledLossless"}
"""A mutant of each kind: numbers, filters, residuals, trees, and a claim that is not true."""


def slow_if(slow: bool, value: Any, name: str) -> Any:
    """A parameter of a test, which is in `make test` or in `make test-slow`."""
    return pytest.param(value, marks=[pytest.mark.slow] if slow else [], id=name)


def test_every_registered_rule_is_examined_here() -> None:
    assert sorted([*LOSSLESS, "typical"]) == RULES.names()


@pytest.mark.parametrize("name", [slow_if(name in LONG, name, name) for name in LOSSLESS])
def test_lossless_rules_have_the_targets_law_and_keep_to_it(name: str) -> None:
    certificate = certify(RULES.create(name), quick=True)
    assert certificate.failure == ""
    assert {law.setting: law.deviation for law in certificate.laws if law.deviation} == {}
    assert [result for result in certificate.sampled if not result.agrees] == []
    assert len(certificate.laws) >= 11
    assert all(law.share is None or law.share <= 1 for law in certificate.laws)
    assert certificate.passed


@pytest.mark.parametrize(
    ("lossless", "deviation", "agrees", "failure", "line"),
    [
        (True, 0, True, "", "mine: lossless; the code matches the proof (2 settings, 0.5 s)"),
        (True, 0, False, "", "mine: lossless; the code does NOT match the proof (2 settings, 0.5 s)"),
        (True, Fraction(1, 8), True, "", "mine: NOT lossless, up to 0.125 from the target's distribution; "
                                         "the code matches the proof (2 settings, 0.5 s)"),
        (False, Fraction(1, 8), True, "", "mine: lossy, as it says, up to 0.125 from the target's distribution; "
                                          "the code matches the proof (2 settings, 0.5 s)"),
        (True, 0, True, "TypeError: no", "mine: NOT EXAMINED: TypeError: no"),
    ],
    ids=["good", "code", "law", "lossy", "failure"],
)  # fmt: skip
def test_a_printed_certificate_is_one_line(
    lossless: bool, deviation: Fraction, agrees: bool, failure: str, line: str
) -> None:
    law, sampled = LawResult("x", Fraction(deviation), Fraction(1)), SampledResult("y", "explored", 0.0, agrees)
    assert str(Certificate("mine", lossless, (law,), (sampled,), failure, 0.5)) == line


def test_the_lossy_rule_says_so_and_keeps_to_its_own_law() -> None:
    certificate = certify(RULES.create("typical"), quick=True)
    assert not certificate.declared_lossless
    assert not certificate.law_equal
    assert certificate.faces_agree
    assert certificate.passed


@pytest.mark.parametrize("mutant", [slow_if(type(m).__name__ not in SOON, m, type(m).__name__) for m in MUTANTS])
def test_every_mutant_is_rejected(mutant: Rule) -> None:
    certificate = certify(mutant, quick=True)
    assert mutant.lossless
    assert certificate.failure == ""  # rejected for what it does, not for a crash
    assert not certificate.passed
    assert certificate.witness.startswith("In the setting ")


@pytest.mark.parametrize(
    "name",
    [slow_if(name in ("traversal, after the third refusal", "multiround, after the third refusal"), name, name)
     for name in CANDIDATES],
)  # fmt: skip
def test_so_is_one_that_only_a_third_candidate_shows(name: str) -> None:
    """In the settings that have so many, which is where it would be missed if they were not there."""
    mutant, settings = CANDIDATES[name], cases.many_candidates()
    laws_differ = any(joint_law(mutant, setting) != target_law(setting) for setting in settings)
    assert laws_differ or not all(examine_verdicts(mutant, setting, GIVEN, 2000).agrees for setting in settings)
    assert {setting.name for setting in settings} <= {setting.name for setting in settings_for(mutant, quick=True)}


@pytest.mark.parametrize("name", ["rrs", "traversal", "multiround", "kseq", "hsd", "gumbel"])
def test_the_last_of_many_candidates_is_often_asked_and_open(name: str) -> None:
    """Or else the settings would show nothing of what happens after two and three refusals."""
    rule = RULES.create(name)
    doubts = [
        sorted((doubt(draft.tree, rule.law(draft)) for draft, _ in drafts(rule, setting, ())), reverse=True)
        for setting in cases.many_candidates()
    ]
    assert max(listed[GIVEN - 1] for listed in doubts) > Fraction(1, 20)


def test_first_vector_in_exact_fractions() -> None:
    setting = cases.first_vector()
    assert expected_accepted(RULES.create("token"), setting) == Fraction(10, 9)
    assert expected_accepted(RULES.create("block"), setting) == Fraction(11, 9)
    [law] = certify(RULES.create("block"), settings=[setting]).laws[:1]
    assert law.bound == Fraction(12, 9)


@pytest.mark.parametrize("setting", [*cases.chains(quick=False)], ids=lambda setting: setting.name)
def test_on_chains_traversal_is_block_and_block_is_at_least_token(setting: Setting) -> None:
    token, block, traversal = (
        expected_accepted(RULES.create(name), setting) for name in ("token", "block", "traversal")
    )
    assert traversal == block >= token


@pytest.mark.parametrize(
    "setting", [*cases.chains(quick=False), *cases.deterministic(False, False)], ids=lambda setting: setting.name
)
def test_on_chains_hsd_has_the_very_law_of_block_and_so_does_its_paper(setting: Setting) -> None:
    """Theorem 7 of the paper has it accept more than block; the laws are equal, draft by draft."""
    hsd, block = RULES.create("hsd"), RULES.create("block")
    for draft, _ in drafts(block, setting, ()):
        assert hsd.law(draft) == block.law(draft) == as_published(draft)


def as_published(draft: ExactDraft) -> Law:
    """Algorithm 2 of Zhou et al. (2026), by the letter of Definitions 4 to 6 and Equations 19 and 20."""
    gamma, tokens = len(draft.tree), draft.tree.tokens
    q = [draft.q_of(t - 1, t) for t in range(gamma)]
    r = [prod((draft.p[i][tokens[i]] / q[i][tokens[i]] for i in range(t)), start=Fraction(1)) for t in range(gamma + 1)]
    largest = [max([Fraction(1), *r[1:t]]) for t in range(gamma + 2)]  # r(X_1:m) at m(X_1:t), or 1
    law: Law = {}
    reached = Fraction(1)
    for t in range(gamma, -1, -1):
        ratio, row = r[t] / largest[t + 1], draft.p[t]
        h = min(Fraction(1), r[t] / largest[t])
        if t < gamma:
            lacking = exact_positive_part(row, q[t], ratio)
            excess = exact_positive_part(q[t], tuple(ratio * mass for mass in row))
            h, row = Fraction(sum(lacking), sum(excess)) if t and any(excess) else Fraction(1), lacking
        if reached * h:
            emit(law, tuple(range(t)), reached * h, normalized(row))
        reached *= 1 - h
    return law


@pytest.mark.parametrize("setting", [*cases.trees(quick=False)], ids=lambda setting: setting.name)
def test_on_trees_hsd_accepts_at_least_as_much_as_multiround(setting: Setting) -> None:
    assert expected_accepted(RULES.create("hsd"), setting) >= expected_accepted(RULES.create("multiround"), setting)


@pytest.mark.parametrize("setting", [*cases.trees(quick=False)], ids=lambda setting: setting.name)
def test_on_trees_traversal_accepts_at_least_as_much_as_rrs(setting: Setting) -> None:
    assert expected_accepted(RULES.create("traversal"), setting) >= expected_accepted(RULES.create("rrs"), setting)


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_joint_law_of_a_wrong_claim_is_refused(name: str) -> None:
    """The comparison itself can fail: a rule for p is not one for p²."""
    rule = RULES.create(name)
    setting = cases.first_vector()
    squared = target_law(setting, lambda row: cases.power(2)(rule.emits(row)))
    wrong = deviation(joint_law(rule, setting), squared)
    assert (wrong > 0) == (name != "greedy")  # a point mass is its own square


def first_token(law: dict[tuple[int, ...], Fraction]) -> list[Fraction]:
    return [sum((mass for text, mass in law.items() if text[0] == token), Fraction(0)) for token in range(3)]


def test_cutting_a_draft_at_its_first_forbidden_token_is_off_by_a_seventh() -> None:
    """P = (.5, .2, .3), Q = (.2, .3, .5), a grammar that allows the first two: p = (5/7, 2/7, 0).

    The cut emits the first token with .2 + .3·(1 - (2/7)/.3) + .5·5/7 = 4/7. Left to the rule, the forbidden draft is
    refused and (p - Q)+ has the first token alone: .2 + 1/70 + .5 = 5/7.
    """
    p = cases.forbidden(cases.constant(5, 2, 3), 2, cases.constant(1, 1, 1))
    setting = Setting("a seventh", p, cases.constant(2, 3, 5), TreeShape.chain(1), max_tokens=2)
    cut, kept = (joint_law(rule, setting) for rule in (CutAtTheFirstForbiddenToken(), RULES.create("token")))
    assert first_token(cut) == [Fraction(4, 7), Fraction(3, 7), 0]
    assert first_token(kept) == [Fraction(5, 7), Fraction(2, 7), 0]
    assert deviation(cut, target_law(setting)) == Fraction(1, 7)
    assert kept == target_law(setting)


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_law_does_not_depend_on_what_stands_below_an_impossible_token(name: str) -> None:
    rule = RULES.create(name)
    for shape in [cases.CHAIN_3, *([cases.TWO_CHAINS] if rule.trees else [])]:
        targets = [cases.forbidden(cases.table(51, 3), 1, cases.table(junk, 3)) for junk in (52, 53)]
        one, other = (Setting("", p, cases.table(54, 3), shape, max_tokens=4) for p in targets)
        for (draft, _), (poisoned, _) in zip(drafts(rule, one, ()), drafts(rule, other, ()), strict=True):
            assert rule.law(draft) == rule.law(poisoned)


def test_a_certificate_is_made_anew_when_anything_that_it_stands_on_changes() -> None:
    read = {f"{path.parent.name}/{path.name}" for path in sources(RULES.create("token"))}
    assert {"verify/token.py", "verify/nodewise.py", "verify/rational.py", "proof/certify.py", "proof/cases.py"} <= read
    assert "mutants/__init__.py" in {f"{path.parent.name}/{path.name}" for path in sources(MUTANTS[0])}


def test_k_seq_is_not_asked_for_deterministic_trees() -> None:
    names = {setting.name for setting in settings_for(RULES.create("kseq"))}
    assert "deterministic chain" in names
    assert "deterministic tree" not in names


def test_the_command_prints_the_fractions_and_writes_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    monkeypatch.setattr(sys, "argv", ["specdec", "certify", "quick=true", "rules=[token,typical]", f"json={path}"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "10/9 (token), 11/9 (block), 4/3 (bound; = 12/9)" in printed
    assert "LOSSY" in printed
    token, typical = json.loads(path.read_text(encoding="utf-8"))
    assert token["passed"]
    assert token["law_equal"]
    assert (typical["passed"], typical["law_equal"], typical["declared_lossless"]) == (True, False, False)
    first = next(law for law in token["laws"] if law["setting"] == "first test vector")
    assert (first["expected_accepted_tokens"], first["bound"]) == ("10/9", "4/3")
