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


def select_rule(
    rule: str | Rule,
    params: SamplingParams,
    deterministic_drafter: bool,
    trees: bool = False,
    invariant_only: bool = False,
    ranked: bool = False,
) -> Rule:
    """The rule for one request.

    At temperature 0 every lossless rule is the exact match. `auto` takes `gumbel` for deterministic drafters, where it
    accepts as often as rejection and gives the text of plain decoding with the same seed, and for those that rank
    candidates under the noise that it shares, of whose trees it accepts more than any rule does of a drawn chain;
    `traversal` for other trees and `block` for other chains, where no rule in this package accepts more.

    Args:
        rule: a name, "auto", or a rule of one's own.
        params: the request's sampling parameters.
        deterministic_drafter: whether the drafter's q is one-hot.
        trees: whether a node may have several candidates.
        invariant_only: whether drafts may depend on other requests. They may then have been made with the very numbers
            that this request draws with, as when one seed is served twice, and a rule whose text depends on the draft
            is no longer lossless. A lossy rule promises nothing that could be lost.
        ranked: whether the drafts are trees of candidates that are ranked under shared noise, if the rule has it.

    Raises:
        ConfigError: for an unknown name, for `greedy` at a temperature above 0, or for a rule that cannot judge the
            drafter's drafts.
    """
    if isinstance(rule, str):
        if rule == AUTO:
            rule = _automatic(deterministic_drafter or invariant_only or ranked, trees)
        rule = _shared(rule)
    if params.greedy and rule.lossless:
        return _shared("greedy")
    if trees and not (rule.trees and (rule.deterministic_trees or not deterministic_drafter)):
        raise ConfigError(
            f"rule={rule.name!r} cannot judge trees from this drafter, whose nodes may have several candidates. Use "
            "branches=1, or rule='traversal', 'rrs' or 'gumbel'."
        )
    if isinstance(rule, GreedyRule) and not params.greedy:
        raise ConfigError(
            f"rule='greedy' would ignore temperature={params.temperature}. Use rule='auto', or temperature=0."
        )
    if invariant_only and rule.lossless and not rule.draft_invariant:
        raise ConfigError(
            f"rule={rule.name!r} gives a text that depends on the draft, and this drafter learns from other requests: "
            "the text would depend on them, and no longer follow the target's law where they share random numbers. "
            "Use rule='gumbel' or 'auto', or temperature=0."
        )
    return rule


def _automatic(one_noise: bool, trees: bool) -> str:
    if one_noise:
        return "gumbel"
    return "traversal" if trees else "block"


@cache
def _shared(name: str) -> Rule:
    """One instance per name: rules hold no state, and requests that share one are judged together."""
    rule: Rule = RULES.create(name)
    return rule
