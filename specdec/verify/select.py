"""Which rule judges a request."""

from __future__ import annotations

from functools import cache

from specdec.errors import ConfigError
from specdec.registry import RULES
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule
from specdec.verify.greedy import GreedyRule

AUTO = "auto"


def automatic() -> str:
    """The choice `rule=auto` of the configs."""
    return AUTO


def select_rule(rule: str | Rule, params: SamplingParams, deterministic_drafter: bool, branches: int = 1) -> Rule:
    """The rule for one request.

    At temperature 0 every lossless rule is the exact match. `auto` takes `gumbel` for deterministic drafters, where it
    accepts as often as rejection and gives the text of plain decoding with the same seed; `traversal` for other trees
    and `block` for other chains, where no rule in this package accepts more.

    Args:
        rule: a name, "auto", or a rule of one's own.
        params: the request's sampling parameters.
        deterministic_drafter: whether the drafter's q is one-hot.
        branches: candidates that the drafter may give one node.

    Raises:
        ConfigError: for an unknown name, for `greedy` at a temperature above 0, or for a rule that cannot judge the
            drafter's trees.
    """
    if isinstance(rule, str):
        if rule == AUTO:
            rule = _automatic(deterministic_drafter, branches)
        rule = _shared(rule)
    if params.greedy and rule.lossless:
        return _shared("greedy")
    if branches > 1 and not (rule.trees and (rule.deterministic_trees or not deterministic_drafter)):
        raise ConfigError(
            f"rule={rule.name!r} cannot judge trees with {branches} candidates a node from this drafter. Use "
            "branches=1, or rule='traversal', 'rrs' or 'gumbel'."
        )
    if isinstance(rule, GreedyRule) and not params.greedy:
        raise ConfigError(
            f"rule='greedy' would ignore temperature={params.temperature}. Use rule='auto', or temperature=0."
        )
    return rule


def _automatic(deterministic_drafter: bool, branches: int) -> str:
    if deterministic_drafter:
        return "gumbel"
    return "block" if branches == 1 else "traversal"


@cache
def _shared(name: str) -> Rule:
    """One instance per name: rules hold no state, and requests that share one are judged together."""
    rule: Rule = RULES.create(name)
    return rule
