"""Who decides: acceptance rules, one file each, and the draft trees they judge."""

from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.tree import ROOT, DraftTree, TreeShape

__all__ = ["ROOT", "DraftTree", "Rule", "StepKey", "TreeShape", "Verdict"]
