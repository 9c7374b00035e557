"""Which rules a GPU kernel stands for: those that declare it themselves, whatever their subclasses are called."""

from __future__ import annotations

import pytest
from torch import Tensor

from specdec.kernels.verdicts import RULES as KERNELS
from specdec.registry import RULES
from specdec.sampling import LogitsTransform, SamplingParams
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.device import can_judge, judge_batch, kernel_of
from specdec.verify.token import TokenRule
from specdec.verify.tree import ROOT, DraftTree
from tests.mutants import MUTANTS

CHAIN = DraftTree.chain([1, 2])
PLAIN = LogitsTransform(SamplingParams(temperature=1.0), [0], 5, ())


class NeverAccepts(TokenRule):
    """Keeps the name, and has an opinion of its own."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        return super().accept_one(DraftTree(), scores[:1], key)


class MerelyNamed(TokenRule):
    name = "mine"


def test_the_rules_with_a_kernel_are_those_of_the_kernels_table() -> None:
    rules = [RULES.create(name) for name in RULES.names()]
    assert sorted(rule.kernel for rule in rules if can_judge(rule, [CHAIN], [PLAIN]) and rule.kernel) == sorted(KERNELS)
    assert all(kernel_of(rule) in (None, rule.name) for rule in rules)


@pytest.mark.parametrize("rule", [NeverAccepts(), MerelyNamed(), *MUTANTS], ids=lambda rule: type(rule).__name__)
def test_a_kernel_is_not_inherited(rule: Rule) -> None:
    assert not can_judge(rule, [CHAIN], [PLAIN])
    with pytest.raises(Exception, match="has no GPU kernel of its own"):
        judge_batch(rule, [CHAIN], [], [PLAIN], [])


def test_trees_of_a_rule_of_chains_and_mixed_drafts_are_left_to_the_rule() -> None:
    rule, fork = TokenRule(), DraftTree((1, 2), (ROOT, ROOT))
    assert can_judge(rule, [CHAIN, DraftTree()], [PLAIN] * 2)
    assert not can_judge(rule, [CHAIN, fork], [PLAIN] * 2)
